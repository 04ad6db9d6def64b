"""What teaches the networks: the errors of poses and coordinates, and a guard for the mask.

All follow from the true pose and the targets of the exposed levels; nobody labels a point.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from e2r.geometry import poses
from e2r.types import Array, Pose, Targets

INTEREST_RADIUS_MM = 20.0
"""mm from a target of an exposed level: there the network shall look closer."""


def target_errors(pose: Pose, targets: Targets) -> jax.Array:
    """Distance (T,) mm between registered targets and where they truly are; 0 where padded."""
    apart = poses.apply(pose, targets.points) - targets.goals
    square = jnp.where(targets.valid, jnp.sum(apart * apart, axis=-1), 0.0)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def mean_target_error(pose: Pose, targets: Targets) -> jax.Array:
    """TRE: mean distance over the valid targets, mm."""
    return jnp.sum(target_errors(pose, targets)) / jnp.maximum(jnp.sum(targets.valid), 1)


def trajectory_loss(trajectory: Pose, targets: Targets, *, error_scale_mm: float) -> jax.Array:
    """Pose error at every unrolled step: mean over steps of ``log(1 + TRE / knee)``.

    The logarithm keeps the scenes that are lost from drowning the ones that are nearly right.

    Args:
      trajectory: leading axis K, pose after each step.
      targets: where the model should be.
      knee: mm, errors well above it count by their order of magnitude.
    """
    errors = jax.vmap(lambda pose: mean_target_error(pose, targets))(trajectory)
    return jnp.mean(jnp.log1p(errors / error_scale_mm))


def coarse_loss(
    places: Array,
    confidence: Array,
    goals: Array,
    pose: Pose,
    targets: Targets,
    *,
    error_scale_mm: float,
) -> jax.Array:
    """What teaches the coarse stage: coordinates of every point, and the error of the pose.

    Both as ``log(1 + error / knee)``, so that a scene that fits two places settles for one.

    Args:
      places: (S, 3) mm, where points were said to be.
      confidence: (S,) zero where a point is not used; its size does not matter here.
      goals: (S, 3) mm, where they are.
      pose: made of the places.
      targets: where the model should be.
      knee: mm.
    """
    apart = places - goals
    error = jnp.sqrt(jnp.sum(apart * apart, axis=1) + 1e-6)
    use = confidence > 0
    dense = jnp.sum(jnp.where(use, jnp.log1p(error / error_scale_mm), 0.0)) / jnp.maximum(
        jnp.sum(use), 1
    )
    return dense + jnp.log1p(mean_target_error(pose, targets) / error_scale_mm)


def interest_loss(logits: Array, points: Array, valid: Array, targets: Targets) -> jax.Array:
    """Cross-entropy of "a target lies within :data:`INTEREST_RADIUS_MM`", which pose and targets tell of a point.

    Args:
      logits, points, valid: (N,), (N, 3) mm in the camera frame, (N,).
      targets: T of them.
    """
    square = jnp.sum(jnp.square(points), 1)[:, None] + jnp.sum(jnp.square(targets.goals), 1)
    square = square - 2.0 * jnp.matmul(points, targets.goals.T, precision="highest")
    near = jnp.min(jnp.where(targets.valid, square, jnp.inf), axis=1) < INTEREST_RADIUS_MM**2
    each = jnp.logaddexp(0.0, jnp.where(near, -logits, logits))
    return jnp.sum(jnp.where(valid, each, 0.0)) / jnp.maximum(jnp.sum(valid), 1)


def keep_hinge(logits: Array, valid: Array, *, least: float) -> jax.Array:
    """Squared shortfall of the expected keep ratio below ``least``: zero for a healthy mask.

    A loss that only looks at residuals empties the mask, since the fewest points fit best; the
    pose loss does not, but a random start can, and an empty mask has nothing left to learn from.
    """
    keep = jnp.sum(jax.nn.sigmoid(logits) * valid) / jnp.maximum(jnp.sum(valid), 1)
    return jnp.square(jnp.maximum(least - keep, 0.0) / max(least, 1e-6))
