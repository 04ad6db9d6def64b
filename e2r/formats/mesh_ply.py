"""Surfaces in PLY files: polygons of any size become triangles."""

from __future__ import annotations

import numpy as np
import trimesh

from e2r.formats import file_checks, mesh_obj, ply_elements
from e2r.geometry import polygons
from e2r.types import Float, Int

CORNERS = ("vertex_indices", "vertex_index")
"""Names of the list of a face's vertices."""


def read_surface(content: bytes) -> tuple[trimesh.Trimesh, tuple[str, ...]]:
    """A surface, in the file's unit, and what is to be said about it.

    Args:
      content: of the file.

    Raises:
      ValueError: the file is broken, cut short or no surface; the message lacks its path.
    """
    file = ply_elements.read(content)
    tables = file.elements.get("vertex", [])
    if len(tables) != 1 or not {"x", "y", "z"} <= {*(tables[0].dtype.names or ())}:
        raise ValueError("has no vertices with x, y and z; export it again")
    vertices = file_checks.to_float64(np.stack([tables[0][axis] for axis in "xyz"], 1))
    if vertices.ndim != 2:
        raise ValueError("has lists in place of x, y and z; export it again")
    shapes = [_corners(table) for table in file.elements.get("face", [])]
    faces = [_cut(corners, vertices) for corners in shapes]
    notes = list[str]()
    if len({corners.shape[1] for corners in shapes}) > 1:
        notes.append("has polygons of several sizes; they were cut into triangles")
    if file.left:
        notes.append(f"has {file.left} bytes after its last element; they were left out")
    none = np.zeros((0, 3), np.int64)
    return trimesh.Trimesh(vertices, np.concatenate([none, *faces]), process=False), tuple(notes)


def _corners(table: np.ndarray) -> Int[np.ndarray, "n k"]:
    """The vertices of polygons of one size."""
    found = [table[name] for name in CORNERS if name in (table.dtype.names or ())]
    if not found or found[0].ndim != 2:
        raise ValueError("has faces without a list vertex_indices; export it as triangles")
    return np.asarray(found[0], np.int64)


def _cut(
    corners: Int[np.ndarray, "n k"], vertices: Float[np.ndarray, "v 3"]
) -> Int[np.ndarray, "m 3"]:
    """Polygons as fans of triangles; those of one or two corners are dropped."""
    if corners.shape[1] > 3 and len(corners):
        if not 0 <= corners.min() <= corners.max() < len(vertices):
            raise ValueError("has polygons of vertices that are not there; export it again")
        with np.errstate(all="ignore"):  # whoever reads the surface refuses infinite vertices
            first = polygons.fan_corners(vertices[corners])
        if (first < 0).any() and np.isfinite(vertices).all():
            raise ValueError(mesh_obj.CONCAVE)
        corners = polygons.turn(corners, np.maximum(first, 0))
    fans = [corners[:, [0, i, i + 1]] for i in range(1, corners.shape[1] - 1)]
    return np.stack(fans, 1).reshape(-1, 3) if fans else np.zeros((0, 3), np.int64)
