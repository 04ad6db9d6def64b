"""Surfaces on disk: STL, PLY and OBJ in mm, and glTF in metres."""

from __future__ import annotations

import gc
import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import trimesh

from e2r.formats import (
    file_checks,
    glb,
    mesh_checks,
    mesh_ply,
    mesh_space,
    mesh_winding,
    model_checks,
    notices,
)
from e2r.formats.file_checks import PathLike
from e2r.runtime import atomic_folders

MESH_SUFFIXES = (".stl", ".ply", ".obj", *glb.GLTF_SUFFIXES)
COLLECT_EVERY = 61
"""Cases between two collections of dropped meshes. It is prime, so that each of several workers
collects as often, although each reads only every n-th case."""


def read_mesh(path: PathLike, *, merge: bool = True) -> trimesh.Trimesh:
    """Reads the surface of one level; its normals point outwards.

    Args:
      path: STL, PLY or OBJ in mm, or glTF in metres (``.glb`` or ``.gltf``).
      merge: merge the vertices at one place; otherwise they keep the order of the file.

    Raises:
      ValueError: the file is missing, or its surface cannot be a vertebra in mm.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    try:
        content = glb.read_bytes(path) if suffix == ".gltf" else path.read_bytes()
        mesh, notes = _parse_mesh(content, suffix, merge)
        model_checks.check_extent(mesh, path.stem)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; export the level's surface there") from None
    except ValueError as error:
        raise ValueError(_about(path, error)) from None
    for note in notes:
        notices.say(path, note)
    mesh = mesh.copy()
    if mesh_space.declared_space(content, suffix) == "LPS":
        mesh.apply_transform(mesh_space.LPS_TO_RAS)
        notices.say(path, "is in LPS axes by its header; it was turned to RAS")
    return mesh


def _about(path: Path, error: ValueError) -> str:
    """A reader's sentence, with the path of the file unless it names a file itself."""
    said = str(error)
    return said if said.startswith(str(path.parent)) else f"{path}: {said}"


def _load(content: bytes, suffix: str) -> object:
    """What trimesh makes of a file."""
    try:
        return trimesh.load(io.BytesIO(content), file_type=suffix[1:], force="mesh", process=False)
    except Exception as error:  # trimesh raises whatever its parsers do
        raise ValueError(f"cannot be read as a mesh ({error}); export it again") from None


@lru_cache(maxsize=32)
def _parse_mesh(
    content: bytes, suffix: str, merge: bool
) -> tuple[trimesh.Trimesh, tuple[str, ...]]:
    """Parses a surface; returns it with what is to be said about it.

    The cases of one specimen hold equal files, which are parsed once.
    """
    content, notes = mesh_checks.check_content(content, suffix)
    if suffix in glb.GLTF_SUFFIXES:
        return _finish(*glb.read_whole(content), merge)
    if suffix == ".ply":
        return _finish(*mesh_ply.read_surface(content), merge)
    return _finish(_load(content, suffix), notes, merge)


def _finish(
    found: object, notes: tuple[str, ...], merge: bool
) -> tuple[trimesh.Trimesh, tuple[str, ...]]:
    """Checks what a parser made, and turns its triangles outwards."""
    if not isinstance(found, trimesh.Trimesh) or len(found.faces) == 0:
        raise ValueError("holds no triangle; export the level's surface as triangles")
    mesh = trimesh.Trimesh(found.vertices, found.faces, process=False)  # textures split vertices
    if not 0 <= mesh.faces.min() <= mesh.faces.max() < len(mesh.vertices):
        raise ValueError("has triangles of vertices that are not there; export it again")
    if not np.isfinite(mesh.vertices).all():
        raise ValueError("holds vertices that are not finite; export it again")
    far = float(np.abs(mesh.vertices).max())
    if far > 1e9:  # larger numbers overflow
        raise ValueError(f"holds a vertex {far:.3g} mm from its origin; export it again, in mm")
    extent = float(mesh.extents.max())
    if not extent < 10_000.0:
        raise ValueError(f"is {extent:.3g} mm large, which no spine is; export it again, in mm")
    if not mesh.area > 0:
        raise ValueError("its surface has no area; export it again")
    if merge:
        mesh.merge_vertices()
    return mesh, (*notes, *mesh_winding.orient(mesh))


def read_meshes(folder: PathLike) -> dict[str, trimesh.Trimesh]:
    """Reads all surfaces of a folder, or of one glTF file.

    Args:
      folder: one STL, PLY, OBJ or glTF file a level; the file's name is the level's. Or one glTF
        file, in which a node's name is the level's.

    Returns:
      level -> surface, mm.

    Raises:
      ValueError: there is no such folder, no surface in it, a broken one, or levels that cannot
        be parts of one spine.
    """
    folder = Path(folder)
    if folder.suffix.lower() in glb.GLTF_SUFFIXES and folder.is_file():
        return _read_nodes(folder)
    if folder.is_file():
        raise ValueError(
            f"{folder}: is a file; give a folder of STL, PLY or OBJ surfaces, which e2r convert ct "
            "makes of a label map"
        )
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give a folder of STL, PLY or OBJ surfaces")
    found = file_checks.visible(folder.iterdir())
    model_checks.check_folder(found, MESH_SUFFIXES)
    paths = [path for path in found if path.suffix.lower() in MESH_SUFFIXES]
    file_checks.check_names([path.stem for path in paths], folder, "the surfaces' file names")
    if not paths:
        raise ValueError(
            f"{folder}: holds no STL, PLY or OBJ surface; export one file a level, or give label "
            "maps to e2r convert ct"
        )
    refuse_mixed_axes(paths)
    model = {path.stem: read_mesh(path) for path in paths}
    model_checks.check_model(model, folder)
    return model


def declared_space(path: Path) -> str | None:
    """The axes that a surface file declares, RAS or LPS; None where it does not.

    Args:
      path: of the file.
    """
    with path.open("rb") as file:
        return mesh_space.declared_space(file.read(mesh_space.LONGEST_HEADER), path.suffix.lower())


def refuse_mixed_axes(paths: Sequence[Path]) -> None:
    """Refuses surfaces of which some files say LPS and others, taken for RAS, say nothing.

    Args:
      paths: of the surfaces of one model.

    Raises:
      ValueError: they are such.
    """
    declared = {path: declared_space(path) for path in paths}
    turned = [path for path, space in declared.items() if space == "LPS"]
    silent = [path for path, space in declared.items() if space is None]
    if turned and silent:
        raise ValueError(
            f"{silent[0]}: does not say its axes, but {turned[0].name} says LPS; save all levels "
            "with one program, so that each header says SPACE=LPS or SPACE=RAS"
        )


def _read_nodes(path: Path) -> dict[str, trimesh.Trimesh]:
    """The surfaces of a glTF file, by name of the node."""
    model = {}
    try:
        content = glb.read_bytes(path)
        scene = glb.read_levels(mesh_checks.check_content(content, path.suffix.lower()).content)
        file_checks.check_names(list(scene.levels), path, "the nodes' names")
        for note in scene.notes:
            notices.say(path, note)
        for name, mesh in scene.levels.items():
            model[name], notes = _finish(mesh, (), True)
            model_checks.check_extent(model[name], name)
            for note in notes:
                notices.say(path, f"{name} {note}")
    except ValueError as error:
        raise ValueError(_about(path, error)) from None
    model_checks.check_model(model, path)
    return model


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
