"""The region of interest: the part of a frame with the wound, which the second look samples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial import cKDTree

from e2r.types import Array, Cloud, Float, Int

MEAN_SHIFT_BANDWIDTH_MM = 50.0
"""Standard deviation of the kernel that finds the region's centre."""
INTEREST_LOGIT = -1.0
"""Least interest logit of a point that is sampled again; low, to miss little of the wound."""
ROI_RADIUS_MM = 110.0
"""Radius of the region; it holds up to five exposed levels."""
START_REACH_MM = 30.0
"""Farthest scene point from a model at a given initial pose that the second look samples."""


def locate(cloud: Cloud, interest: Float[Array, "n"]) -> Float[jax.Array, "3"]:
    """The centre of the region: the mode of the interesting points, by mean shift.

    Args:
      cloud: scene points.
      interest: logits of the mask network.

    Returns:
      The centre, mm, camera frame.
    """
    points = jnp.asarray(cloud.points)
    weights = jnp.where(cloud.valid, jax.nn.sigmoid(interest) ** 2, 0.0)

    def mean(share: Array) -> jax.Array:
        return jnp.sum(share[:, None] * points, axis=0) / jnp.maximum(jnp.sum(share), 1e-9)

    def shift(_: Array | int, centre: Array) -> jax.Array:
        square = jnp.sum(jnp.square(points - centre[None]), axis=1)
        return mean(weights * jnp.exp(-0.5 * square / MEAN_SHIFT_BANDWIDTH_MM**2))

    best = points[jnp.argmax(jnp.where(cloud.valid, interest, -jnp.inf))]
    return jax.lax.fori_loop(0, 20, shift, 0.5 * (mean(weights) + best))


def crop(
    points: Float[np.ndarray, "m 3"],
    first_look: Cloud,
    interest: Float[np.ndarray, "n"],
    *,
    centre: Float[np.ndarray, "3"],
    min_points: int,
) -> Int[np.ndarray, "k"] | None:
    """Rows of the scene that the second look samples, on the host.

    They lie within the region's radius, and their nearest point of the first look is interesting.
    If those are too few, all points within the radius are taken.

    Args:
      points: the scene, mm, camera frame.
      first_look: the points that the mask network saw.
      interest: logits of the mask network, one for each point of the first look.
      centre: of the region, mm, as :func:`locate` finds it.
      min_points: fewer rows than this are too few.

    Returns:
      The rows, or None for all rows: too few points lie within the radius.
    """
    rows = points_within(points, centre, ROI_RADIUS_MM)
    if len(rows) < min_points:
        return None
    valid = np.asarray(first_look.valid)
    nearest = cKDTree(np.asarray(first_look.points)[valid]).query(points[rows])[1]
    interesting = rows[interest[valid][nearest] > INTEREST_LOGIT]
    return interesting if len(interesting) >= min_points else rows


def points_near_model(
    points: Float[np.ndarray, "m 3"], placed: Float[np.ndarray, "s 3"]
) -> Int[np.ndarray, "k"]:
    """Rows of the scene that may belong to a model at a given initial pose, on the host.

    Args:
      points: the scene, mm, camera frame.
      placed: samples of the model's surface at that pose, mm, camera frame.
    """
    low, high = placed.min(0) - START_REACH_MM, placed.max(0) + START_REACH_MM
    rows = np.flatnonzero(((points >= low) & (points <= high)).all(1))
    distance, _ = cKDTree(placed).query(points[rows], distance_upper_bound=START_REACH_MM)
    return rows[np.isfinite(distance)]


def points_within(
    points: Float[np.ndarray, "m 3"], centre: Float[np.ndarray, "3"], radius_mm: float
) -> Int[np.ndarray, "k"]:
    """Rows of the points within a radius of the centre, all in mm."""
    return np.flatnonzero(np.sum(np.square(points - centre), axis=1) < radius_mm**2)
