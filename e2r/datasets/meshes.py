"""Reads surfaces: STL, PLY and OBJ, in mm."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
import trimesh

from e2r.datasets import file_checks

MESH_SUFFIXES = (".stl", ".ply", ".obj")


def read_mesh(path: Path, *, merge: bool = True) -> trimesh.Trimesh:
    """Reads a surface in mm, and refuses what cannot be one vertebra in millimetres.

    Args:
      path: STL, PLY or OBJ.
      merge: make one of vertices at one place; without it they keep the file's order.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; export the level's surface there") from None
    try:
        return _mesh(content, path.suffix.lower(), merge).copy()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


@lru_cache(maxsize=32)
def _mesh(content: bytes, suffix: str, merge: bool) -> trimesh.Trimesh:
    """What is in a surface's file; the frames of one operation share it, each in its own folder."""
    try:
        mesh = trimesh.load(io.BytesIO(content), file_type=suffix[1:], force="mesh", process=False)
    except Exception as error:  # trimesh raises whatever its parsers do
        raise ValueError(f"cannot be read as a mesh ({error}); export it again") from None
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
    if np.linalg.det(corners).sum() < 0:  # six times the volume: inside out, as mirrors leave it
        mesh.invert()
    return mesh


def read_meshes(folder: Path) -> dict[str, trimesh.Trimesh]:
    """All surfaces of a folder, by file name without suffix (the level)."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give a folder of STL, PLY or OBJ surfaces")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in MESH_SUFFIXES)
    file_checks.check_names([path.stem for path in paths], folder, "the surfaces' file names")
    if not paths:
        raise ValueError(f"{folder}: holds no STL, PLY or OBJ surface; export one file a level")
    return {path.stem: read_mesh(path) for path in paths}
