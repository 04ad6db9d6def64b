"""Surfaces on disk: STL, PLY and OBJ in mm, and GLB in metres."""

from __future__ import annotations

import gc
import io
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import trimesh

from e2r.formats import file_checks, glb, mesh_space, notices
from e2r.formats.file_checks import PathLike
from e2r.runtime import atomic_folders

MESH_SUFFIXES = (".stl", ".ply", ".obj", ".glb")
COLLECT_EVERY = 61
"""Cases between two collections of dropped meshes. It is prime, so that each of several workers
collects as often, although each reads only every n-th case."""


def read_mesh(path: PathLike, *, merge: bool = True) -> trimesh.Trimesh:
    """Reads the surface of one level; its normals point outwards.

    Args:
      path: STL, PLY or OBJ in mm, or GLB in metres.
      merge: merge the vertices at one place; otherwise they keep the order of the file.

    Raises:
      ValueError: the file is missing, or its surface cannot be a vertebra in mm.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; export the level's surface there") from None
    suffix = path.suffix.lower()
    try:
        mesh = _parse_mesh(content, suffix, merge).copy()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if mesh_space.declared_space(content, suffix) == "LPS":
        mesh.apply_transform(mesh_space.LPS_TO_RAS)
        notices.say(path, "is in LPS axes by its header; it was turned to RAS")
    return mesh


def _load(content: bytes, suffix: str) -> object:
    """What trimesh makes of a file."""
    try:
        return trimesh.load(io.BytesIO(content), file_type=suffix[1:], force="mesh", process=False)
    except Exception as error:  # trimesh raises whatever its parsers do
        raise ValueError(f"cannot be read as a mesh ({error}); export it again") from None


@lru_cache(maxsize=32)
def _parse_mesh(content: bytes, suffix: str, merge: bool) -> trimesh.Trimesh:
    """Parses a surface. The cases of one specimen hold equal files, which are parsed once."""
    mesh = glb.read_whole(content) if suffix == ".glb" else _load(content, suffix)
    if not isinstance(mesh, trimesh.Trimesh) or len(mesh.faces) == 0:
        raise ValueError("holds no triangle; export the level's surface as triangles")
    if not np.isfinite(mesh.vertices).all():
        raise ValueError("holds vertices that are not finite; export it again")
    extent = float(np.ptp(mesh.vertices, axis=0).max())
    if extent < 1.0:
        raise ValueError(f"is {extent:.3g} mm large, so it is in metres; multiply it by 1000")
    if not extent < 10_000.0:
        raise ValueError(f"is {extent:.3g} mm large, which no spine is; export it again, in mm")
    if not mesh.area > 0:
        raise ValueError("its surface has no area; export it again")
    if merge:
        mesh.merge_vertices()
    corners = np.asarray(mesh.triangles) - mesh.vertices.mean(0)
    if np.linalg.det(corners).sum() < 0:  # six times the volume: a mirrored export is inside out
        mesh.invert()
    return mesh


def read_meshes(folder: PathLike) -> dict[str, trimesh.Trimesh]:
    """Reads all surfaces of a folder, or of one GLB file.

    Args:
      folder: one STL, PLY, OBJ or GLB file a level; the file's name is the level's. Or one GLB
        file, in which a node's name is the level's.

    Returns:
      level -> surface, mm.

    Raises:
      ValueError: there is no such folder, no surface in it, or a broken one.
    """
    folder = Path(folder)
    if folder.suffix.lower() == ".glb" and folder.is_file():
        return _read_nodes(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give a folder of STL, PLY or OBJ surfaces")
    paths = [p for p in file_checks.visible(folder.iterdir()) if p.suffix.lower() in MESH_SUFFIXES]
    file_checks.check_names([path.stem for path in paths], folder, "the surfaces' file names")
    if not paths:
        raise ValueError(f"{folder}: holds no STL, PLY or OBJ surface; export one file a level")
    return {path.stem: read_mesh(path) for path in paths}


def _read_nodes(path: Path) -> dict[str, trimesh.Trimesh]:
    """The surfaces of a GLB file, by name of the node."""
    try:
        levels = glb.read_levels(path.read_bytes())
        file_checks.check_names(list(levels), path, "the nodes' names")
        return {
            name: _parse_mesh(bytes(mesh.export(file_type="stl")), ".stl", True).copy()
            for name, mesh in levels.items()
        }
    except ValueError as error:
        said = str(error)
        raise ValueError(said if said.startswith(str(path)) else f"{path}: {said}") from None


def write_meshes(meshes: Mapping[str, trimesh.Trimesh], folder: PathLike) -> list[Path]:
    """Writes one binary STL a level, as the ``model/`` folder of a case holds them.

    Args:
      meshes: level -> surface, mm.
      folder: made if it is missing. Surfaces of these levels are replaced, all at once.

    Returns:
      The files.

    Raises:
      ValueError: the folder holds other surfaces, which would be taken for levels of this model.
    """
    folder = Path(folder)
    names = [f"{name}.stl" for name in meshes]
    others = [
        path.name
        for path in file_checks.visible(folder.iterdir() if folder.is_dir() else ())
        if path.suffix.lower() in MESH_SUFFIXES and path.name not in names
    ]
    if others:
        raise ValueError(
            f"{folder}: holds {', '.join(others)}, which would be taken for levels of this model; "
            "name another folder, or delete them"
        )
    with atomic_folders.replace_parts(folder) as stage:
        for name, mesh in zip(names, meshes.values(), strict=True):
            content = mesh_space.encode(mesh, ".stl", f"model {name[:-4][:30]}, mm")
            (stage / name).write_bytes(content)
    return [folder / name for name in names]


def collect_meshes(number: int) -> None:
    """Frees the meshes of dropped cases, at every 61st case of a loop over many.

    Trimesh's meshes refer to themselves, so only Python's garbage collector frees them. Among all
    objects of jax it starts so rarely that the meshes of a thousand cases would pile up.

    Args:
      number: number of the case in the caller's loop.
    """
    if number % COLLECT_EVERY == COLLECT_EVERY - 1:
        gc.collect()
