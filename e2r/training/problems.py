"""What a step's loss is given: augmented examples, each with an initial pose and random keys."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.config import OptimisationConfig
from e2r.geometry import poses
from e2r.types import Array, Example, Float, Pose, PRNGKey, Targets


class LossKeys(NamedTuple):
    """The random keys of one example's loss."""

    mask: PRNGKey  # draws the mask
    coarse: PRNGKey  # draws the tokens and the noise of the coarse stage


class RegistrationProblem(NamedTuple):
    """An augmented example, and the pose from which its registration begins."""

    example: Example
    initial_pose: Pose  # camera from model


def draw_problem(
    key: PRNGKey, example: Example, options: OptimisationConfig
) -> tuple[LossKeys, RegistrationProblem]:
    """Augments an example and draws an initial pose near its true pose.

    Args:
      key: consumed; the loss's keys derive from it, too.
      example: as the data source gives it.
      options: noise of the initial pose.
    """
    k_augment, k_mask, k_pose, k_coarse = jax.random.split(key, 4)
    chosen = options.chosen_augmentations()
    # A single one takes the key itself, as every run before there were more.
    keys = [k_augment] if len(chosen) == 1 else list(jax.random.split(k_augment, len(chosen)))
    for k_one, augment in zip(keys, chosen, strict=True):
        example = augment(k_one, example)
    initial_pose = draw_initial_pose(k_pose, example.pose, example.targets, options=options)
    return LossKeys(k_mask, k_coarse), RegistrationProblem(example, initial_pose)


def draw_initial_pose(
    key: PRNGKey, pose: Pose, targets: Targets, *, options: OptimisationConfig
) -> Pose:
    """A pose near the true one: a rotation about the targets' centroid, and a translation.

    Args:
      key: consumed.
      pose: the true one, camera from model.
      targets: where the true pose puts them.
      options: noise of the initial pose.
    """
    return poses.perturb(
        key, pose, _centroid(targets), degrees=options.start_noise_deg, mm=options.start_noise_mm
    )


def _centroid(targets: Targets) -> Float[Array, "3"]:
    """Mean of the valid targets' true places, mm, camera frame."""
    valid = targets.valid[:, None]
    total = jnp.sum(jnp.where(valid, targets.goals, 0.0), 0)
    return total / jnp.maximum(jnp.sum(valid), 1).astype(total.dtype)
