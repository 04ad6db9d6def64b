"""Exact distances from points to a triangle mesh, on the host.

Inside compiled code, :mod:`e2r.geometry.correspondences` answers the same question.
"""

from __future__ import annotations

import igl
import numpy as np

from e2r.types import Array, Float, Int


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
