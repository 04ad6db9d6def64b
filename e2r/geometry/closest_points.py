"""Triangles near points, on the host: exact distances, and the lattice's answer.

Inside compiled code, :mod:`e2r.geometry.correspondences` answers the same questions.
"""

from __future__ import annotations

from typing import NamedTuple

import igl
import numpy as np

from e2r.types import Array, Float, Int, Surface


class NearPlanes(NamedTuple):
    """The triangle near each of N points, as a plane."""

    centres: Float[np.ndarray, "n 3"]  # of the triangles, mm
    normals: Float[np.ndarray, "n 3"]  # unit
    levels: Int[np.ndarray, "n"]  # index into the case's level names


def near_planes(surface: Surface, points: Float[np.ndarray, "n 3"]) -> NearPlanes:
    """The triangle that the lattice node nearest to each point names.

    A registration takes the same one. It costs a gather, and no tree is built.

    Args:
      surface: the model.
      points: mm, model frame.
    """
    shape = np.asarray(surface.shape)
    places = np.rint((points - np.asarray(surface.origin)) / np.asarray(surface.spacing))
    i, j, k = np.clip(places, 0, shape - 1).astype(np.int64).T
    nodes = (i * shape[1] + j) * shape[2] + k
    rows = np.asarray(surface.planes)[np.asarray(surface.nodes)[nodes]]
    return NearPlanes(rows[:, :3], rows[:, 3:6], rows[:, 7].astype(np.int64))


def distance_to_mesh(
    points: Float[Array, "n 3"], vertices: Float[Array, "v 3"], faces: Int[Array, "f 3"]
) -> tuple[Float[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Distance of each point to the nearest triangle, and the index of that triangle.

    Args:
      points: mm, in the frame of the mesh.
      vertices: mm.
      faces: indices of each triangle's vertices.

    Returns:
      Distances (n,) in mm, float64, and triangle indices (n,).
    """
    squared, triangles, _ = igl.point_mesh_squared_distance(
        np.ascontiguousarray(points, np.float64),
        np.ascontiguousarray(vertices, np.float64),
        np.ascontiguousarray(faces, np.int64),
    )
    return np.sqrt(np.ravel(squared)), np.ravel(triangles).astype(np.int64)
