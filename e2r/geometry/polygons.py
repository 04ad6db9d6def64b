"""Polygons as fans of triangles, concave ones included where a corner sees the whole polygon."""

from __future__ import annotations

import numpy as np

from e2r.types import Float, Int

TOLERANCE = 1e-6
"""Area of a triangle that is turned inside out by rounding, as a share of the polygon's size."""


def fan_corners(points: Float[np.ndarray, "n k 3"]) -> Int[np.ndarray, "n"]:
    """The first corner of each polygon from which a fan of triangles covers it.

    All triangles of such a fan face the way that the polygon does, by its vector area. Every convex
    polygon has such a fan from its first corner; every quadrilateral has one from some corner.

    Args:
      points: the corners in order, k at least 3.

    Returns:
      the number of the corner; -1 where there is none.
    """
    found = np.full(len(points), -1)
    for corner in range(points.shape[1]):
        left = np.flatnonzero(found < 0)
        if not left.size:
            break
        turned = np.roll(points[left], -corner, axis=1)
        spokes = turned[:, 1:] - turned[:, :1]
        areas = np.cross(spokes[:, :-1], spokes[:, 1:])
        total = areas.sum(1)
        length = np.linalg.norm(total, axis=1)
        facing = (areas * (total / np.maximum(length, 1e-300)[:, None])[:, None]).sum(2)
        size = np.square(spokes).sum(2).max(1)
        found[left[(facing >= -TOLERANCE * size[:, None]).all(1)]] = corner
    return found


def turn(corners: Int[np.ndarray, "n k"], first: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n k"]:
    """Polygons that begin at another corner.

    Args:
      corners: vertex numbers of each polygon.
      first: the corner that each begins at.
    """
    places = (first[:, None] + np.arange(corners.shape[1])) % corners.shape[1]
    return np.take_along_axis(corners, places, 1)
