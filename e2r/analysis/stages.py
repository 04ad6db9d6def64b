"""What does each stage compute for one example, and whose gradient reaches the mask network?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from e2r.analysis import gradient_paths
from e2r.geometry import correspondences
from e2r.networks import mask_estimators
from e2r.networks.build import NetworkConfig, build_mask_network
from e2r.networks.coarse_network import CoarseCorrespondences, draw_tokens
from e2r.networks.mask_network import MaskOutput
from e2r.registration import coarse, levels
from e2r.registration.schedule import Schedule, apply_mask, register_cloud
from e2r.training import losses
from e2r.types import (
    Array,
    Cloud,
    Example,
    Float,
    MaskEstimator,
    Params,
    Pose,
    PRNGKey,
    Surface,
    Targets,
)

GRADIENT_PATHS = ("coarse", "refinement", "levels")
"""Paths from the mask network's parameters to a level's error: by the features that the coarse
stage reads, by the weights in the whole model's steps, and by those in the levels' steps."""


@dataclass(frozen=True)
class StageConfig:
    """The settings of the stages."""

    network: NetworkConfig
    schedule: Schedule
    """of the whole model's registration"""
    estimator: MaskEstimator = mask_estimators.soft
    """logits to weights"""


class Stages(NamedTuple):
    """The values of one example, in the order of their computation."""

    cloud: Cloud
    surface: Surface
    targets: Targets
    params: Params
    network: MaskOutput  # of the mask network
    weights: Float[Array, "n"]
    correspondences: CoarseCorrespondences  # of the coarse network
    coarse_pose: Pose
    trajectory: Pose  # leading axis K: after each step of the whole model
    level_poses: Pose  # leading axis L: after the levels' own steps
    errors: Float[Array, "l"]  # TRE of each level, mm; 0 where it has no target


TOKENS = 1 << 20
"""What is folded into the key of the tokens: no estimator splits its key so often."""


def run_stages(
    params: Params,
    key: PRNGKey,
    example: Example,
    *,
    config: StageConfig,
    centres: Float[Array, "l 3"],
    start: Pose | None = None,
    mask_copies: Sequence[Params] | None = None,
) -> Stages:
    """Runs all stages at the true roll: coarse stage, whole model, levels; differentiable.

    Args:
      params: of both networks.
      key: consumed; draws the mask, as a training step's own key of the mask does, and the tokens.
      example: the case.
      config: of the stages.
      centres: of the levels, mm, model frame, as in
        :func:`e2r.registration.levels.refine_levels`.
      start: initial pose, camera from model; that of the coarse stage if None.
      mask_copies: the mask network's parameters, one copy for each of :data:`GRADIENT_PATHS`.
    """
    cloud, surface, targets = example.cloud, example.surface, example.targets
    copies = mask_copies or (params["mask"],) * len(GRADIENT_PATHS)
    module = build_mask_network(config.network)
    first, second, third = (module.apply(copy, cloud, example.pyramid) for copy in copies)
    tokens = draw_tokens(jax.random.fold_in(key, TOKENS), cloud, first, count=config.network.tokens)
    roll = coarse.upright_roll(example.pose, surface)
    coarse_pose, found = coarse.predict_pose(
        params, tokens, surface, roll=roll, config=config.network
    )
    begin = coarse_pose if start is None else start
    weights = config.estimator(key, second.logits)
    whole = register_cloud(cloud, weights, surface, begin, config.schedule)
    several = levels.refine_levels(
        apply_mask(cloud, config.estimator(key, third.logits)),
        surface,
        whole.pose,
        centres=centres,
        scales=levels.level_scales(config.schedule.last_scale_mm),
        detach_robust_weights=config.schedule.detach_robust_weights,
    ).pose
    return Stages(
        cloud=cloud,
        surface=surface,
        targets=targets,
        params=(copies, params["coarse"]),
        network=second,
        weights=weights,
        correspondences=found,
        coarse_pose=coarse_pose,
        trajectory=whole.trajectory,
        level_poses=several,
        errors=level_errors(several, surface, targets),
    )


def level_errors(several: Pose, surface: Surface, targets: Targets) -> Float[Array, "l"]:
    """TRE of each level by its own pose, mm; 0 where it has no target.

    A target's level is that of the nearest triangle.

    Args:
      several: one pose a level, camera from model, leading axis L.
      surface: the model.
      targets: of all levels.
    """
    target_levels = correspondences.project(surface, jnp.asarray(targets.points)).levels

    def one(level: Array, pose: Pose) -> Array:
        own = targets._replace(valid=targets.valid & (target_levels == level))
        return losses.mean_target_error(pose, own)

    return jax.vmap(one)(jnp.arange(several.translation.shape[0]), several)


class LevelPaths(NamedTuple):
    """The gradient of each level's error with respect to the mask network, by path."""

    errors: Float[Array, "l"]  # mm
    norms: Float[Array, "l 3"]  # of the share of each of GRADIENT_PATHS
    cosines: Float[Array, "l 3"]  # of each share with the level's whole gradient
    whole: Float[Array, "l"]  # norm of the whole gradient


def level_paths(
    params: Params,
    key: PRNGKey,
    example: Example,
    *,
    config: StageConfig,
    centres: Float[Array, "l 3"],
) -> LevelPaths:
    """Splits the gradient of the levels' errors by path and by level.

    Only the mode ``unrolled`` gives the coarse path a gradient.

    Args:
      params: of both networks.
      key: consumed.
      example: the case.
      config: of the stages.
      centres: of the levels, as in :func:`run_stages`.
    """

    def errors(copies: tuple[Params, ...]) -> tuple[Array, Array]:
        found = run_stages(
            params, key, example, config=config, centres=centres, mask_copies=copies
        ).errors
        return found, found

    copies = (params["mask"],) * len(GRADIENT_PATHS)
    shares, found = jax.jacrev(errors, has_aux=True)(copies)
    gradients = jnp.stack(
        [jax.vmap(lambda g: gradient_paths.stack_gradients([g])[0])(share) for share in shares], 1
    )
    whole = jnp.sum(gradients, axis=1)
    norms, cosines = jax.vmap(gradient_paths.norms_and_cosines)(gradients, whole)
    return LevelPaths(found, norms, cosines, jnp.linalg.norm(whole, axis=1))


def stage_gradients(
    params: Params, key: PRNGKey, example: Example, *, config: StageConfig, start: Pose
) -> dict[str, Any]:
    """The gradients of the final TRE by name, in the order of their computation.

    They run from the last step to the first, then to the weights, the logits and the mask
    network's parameters.

    Args:
      params: of both networks.
      key: consumed.
      example: the case.
      config: of the stages.
      start: initial pose, camera from model.
    """
    module, schedule = build_mask_network(config.network), config.schedule
    logits, to_params = jax.vjp(
        lambda mask: module.apply(mask, example.cloud, example.pyramid).logits, params["mask"]
    )
    weights, to_logits = jax.vjp(partial(config.estimator, key), logits)
    found = gradient_paths.gradient_by_step(
        apply_mask(example.cloud, weights),
        example.surface,
        start,
        scales=schedule.scales(),
        step=schedule.bound_step(),
        error=gradient_paths.final_error(example.targets),
    )
    named: dict[str, Any] = {
        f"gradient at step {step + 1}": (found.pose_gradients[step], found.shares[step])
        for step in reversed(range(schedule.steps))
    }
    by_weight = jnp.where(example.cloud.valid, found.truncated[0], 0.0)
    (by_logit,) = to_logits(by_weight)
    return named | {
        "gradient of the weights": by_weight,
        "gradient of the logits": by_logit,
        "gradient of the mask network": to_params(by_logit)[0],
    }
