"""Where the wound is: the region of a frame that the second look samples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial import cKDTree

from e2r.types import Array, Cloud

MEAN_SHIFT_BANDWIDTH_MM = 50.0
"""mm: of the kernel that finds the middle of what is of interest."""


def locate(cloud: Cloud, interest: Array) -> jax.Array:
    """Where to look closer: (3,) mm, the mode of the points of interest, by mean shift.

    Args:
      cloud: (N,) points.
      interest: (N,) logits.
    """
    points = jnp.asarray(cloud.points)
    weights = jnp.where(cloud.valid, jax.nn.sigmoid(interest) ** 2, 0.0)

    def mean(share: Array) -> jax.Array:
        return jnp.sum(share[:, None] * points, axis=0) / jnp.maximum(jnp.sum(share), 1e-9)

    def shift(_: int, centre: Array) -> jax.Array:
        square = jnp.sum(jnp.square(points - centre), axis=1)
        return mean(weights * jnp.exp(-0.5 * square / MEAN_SHIFT_BANDWIDTH_MM**2))

    best = points[jnp.argmax(jnp.where(cloud.valid, interest, -jnp.inf))]
    return jax.lax.fori_loop(0, 20, shift, 0.5 * (mean(weights) + best))


INTEREST_LOGIT = -1.0
"""Logit of interest from which a place is looked at again: rather a little more than too little."""


def crop(
    points: np.ndarray, first: Cloud, interest: np.ndarray, centre: np.ndarray, least: int
) -> np.ndarray | None:
    """Rows of a scene to look at again, or None for all. On the host.

    Those of interest, and not far from their middle: a point is of interest if the nearest point of
    the first look is. Where they are few, all that are near the middle.

    Args:
      points: (M, 3) mm, the scene.
      first: the first look, N points.
      interest: (N,) logits.
      centre: (3,) mm, of :func:`locate`.
      least: fewer rows than this are too few.
    """
    rows = points_within(points, centre, ROI_RADIUS_MM)
    if len(rows) < least:
        return None
    valid = np.asarray(first.valid)
    nearest = cKDTree(np.asarray(first.points)[valid]).query(points[rows])[1]
    sharp = rows[interest[valid][nearest] > INTEREST_LOGIT]
    return sharp if len(sharp) >= least else rows


ROI_RADIUS_MM = 110.0
"""mm: farthest that the second look goes from its middle, which up to five exposed levels need."""


def points_within(points: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    """Rows of the points (M, 3) within ``radius`` mm of a place."""
    return np.flatnonzero(np.sum(np.square(points - centre), axis=1) < radius**2)
