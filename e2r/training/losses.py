"""The losses of both networks: errors of poses and coordinates, and a bound on the kept share.

All follow from the true pose and the targets of the exposed levels. No point carries a label.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.geometry import poses
from e2r.types import Array, Bool, Cloud, Example, Float, Pose, Registration, Targets

INTEREST_RADIUS_MM = 20.0
"""A point is of interest within this distance of a target, mm."""


class LossInputs(NamedTuple):
    """What a further loss term sees of one example."""

    example: Example
    logits: Float[Array, "n"]  # of the mask
    weights: Float[Array, "n"]  # of the mask, by the mask estimator
    registration: Registration  # under that mask, from the noisy initial pose


def target_errors(pose: Pose, targets: Targets) -> Float[Array, "t"]:
    """Distance of each registered target from its true place, mm; 0 where padded."""
    offset = poses.apply(pose, targets.points) - targets.goals
    square = jnp.where(targets.valid, jnp.sum(offset * offset, axis=-1), 0.0)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def mean_target_error(pose: Pose, targets: Targets) -> Float[Array, ""]:
    """TRE: the mean distance over the valid targets, mm."""
    return _masked_mean(target_errors(pose, targets), targets.valid)


def trajectory_loss(
    trajectory: Pose, targets: Targets, *, error_scale_mm: float
) -> Float[Array, ""]:
    """Pose error along the registration: the mean over steps of ``log(1 + TRE / scale)``.

    The logarithm keeps failed registrations from outweighing those that are nearly right.

    Args:
      trajectory: leading axis K, the pose after each step.
      targets: where the true pose puts the targets.
      error_scale_mm: scale of the log loss, mm.
    """
    errors = jax.vmap(lambda pose: mean_target_error(pose, targets))(trajectory)
    return jnp.mean(jnp.log1p(errors / error_scale_mm))


def coarse_loss(
    places: Float[Array, "s 3"],
    goals: Float[Array, "s 3"],
    *,
    confidence: Float[Array, "s"],
    pose: Pose,
    targets: Targets,
    error_scale_mm: float,
) -> Float[Array, ""]:
    """Loss of the coarse stage: errors of its coordinates, plus the error of their pose.

    Both are ``log(1 + error / scale)``, so an ambiguous scene settles for one of its places.

    Args:
      places: predicted coordinates, mm.
      goals: true coordinates, mm.
      confidence: of each prediction; only whether it exceeds zero matters here.
      pose: the pose fitted to the predictions, camera from model.
      targets: where the true pose puts the targets.
      error_scale_mm: scale of the log loss, mm.
    """
    offset = places - goals
    errors = jnp.sqrt(jnp.sum(offset * offset, axis=1) + 1e-6)
    used = confidence > 0
    coordinates = _masked_mean(jnp.where(used, jnp.log1p(errors / error_scale_mm), 0.0), used)
    return coordinates + jnp.log1p(mean_target_error(pose, targets) / error_scale_mm)


def interest_loss(logits: Float[Array, "n"], cloud: Cloud, targets: Targets) -> Float[Array, ""]:
    """Cross-entropy of "a target lies within :data:`INTEREST_RADIUS_MM` of this point".

    Args:
      logits: of the interest.
      cloud: the points, in the camera frame.
      targets: where the true pose puts the targets.
    """
    square = jnp.sum(jnp.square(cloud.points), 1)[:, None]
    square = square + jnp.sum(jnp.square(targets.goals), 1)[None, :]
    square = square - 2.0 * jnp.matmul(cloud.points, targets.goals.T, precision="highest")
    nearest = jnp.min(jnp.where(targets.valid[None, :], square, jnp.inf), axis=1)
    near = nearest < INTEREST_RADIUS_MM**2
    entropies = jnp.logaddexp(0.0, jnp.where(near, -logits, logits))
    return _masked_mean(jnp.where(cloud.valid, entropies, 0.0), cloud.valid)


def keep_hinge(
    logits: Float[Array, "n"], valid: Bool[Array, "n"], *, least: float
) -> Float[Array, ""]:
    """Squared shortfall of the expected keep ratio below ``least``; zero for a healthy mask.

    The pose loss alone does not empty the mask, but random initial parameters can. An empty mask
    has no gradient to recover by.

    Args:
      logits: of the mask.
      valid: False where padded.
      least: the smallest keep ratio without a penalty.
    """
    keep = _masked_mean(jax.nn.sigmoid(logits) * valid.astype(logits.dtype), valid)
    return jnp.square(jnp.maximum(least - keep, 0.0) / max(least, 1e-6))


def _masked_mean(values: Float[Array, "n"], mask: Bool[Array, "n"]) -> Float[Array, ""]:
    """Mean over the rows of a mask, of values that are zero elsewhere; 0 for an empty mask."""
    return jnp.sum(values) / jnp.maximum(jnp.sum(mask), 1).astype(values.dtype)
