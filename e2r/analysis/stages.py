"""The whole chain of one example, stage by stage, and whose gradient reaches the network."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from e2r.analysis import gradient_paths
from e2r.geometry import correspondences
from e2r.networks import coarse_network, mask_estimators
from e2r.networks.build import NetworkConfig, build_mask_network, draw_tokens, mask_logits
from e2r.networks.mask_network import MaskOutput
from e2r.registration import coarse, iterate, levels
from e2r.registration.schedule import Schedule, apply_mask, register_cloud
from e2r.training import losses
from e2r.types import Array, Cloud, Example, MaskEstimator, Params, Pose, Surface, Targets

GRADIENT_PATHS = ("coarse", "refinement", "levels")
"""How the mask network's parameters reach a level's error: by the features that the coarse stage
starts the registration from, by the weights of the whole model's steps, by those of the levels'."""


class Stages(NamedTuple):
    """What one example comes to, in the order in which it is computed."""

    cloud: Cloud
    surface: Surface
    targets: Targets
    params: Params
    network: MaskOutput  # the mask network's
    weights: Array  # (N,)
    correspondences: coarse_network.CoarseCorrespondences  # the coarse network's
    start: Pose  # of the coarse stage
    trajectory: Pose  # leading axis K: after each step of the whole model
    levels: Pose  # leading axis L: after the levels' own steps
    errors: Array  # (L,) TRE of each level, mm; 0 where it has no target


def run_stages(
    settings: NetworkConfig,
    schedule: Schedule,
    params: tuple[Params, Params, Params],
    coarse_params: Params,
    key: Array,
    example: Example,
    centres: Array,
    *,
    estimator: MaskEstimator = mask_estimators.soft,
    start: Pose | None = None,
) -> Stages:
    """The chain with no start, at the true roll: coarse stage, whole model, levels; differentiable.

    Args:
      settings, schedule: of the networks and of the whole model's steps.
      params: the mask network's, a copy for each of :data:`GRADIENT_PATHS`.
      coarse_params: the coarse network's.
      key: consumed; draws the mask and the points that the coarse stage reads.
      example: the case.
      centres: (L, 3) mm, middle of each level, as for :func:`e2r.registration.levels.refine_levels`.
      estimator: logits to weights.
      start: of the registration, instead of the coarse stage's.
    """
    k_mask, k_tokens = jax.random.split(key)
    cloud, surface, targets = example.cloud, example.surface, example.targets
    module = build_mask_network(settings)
    first, second, third = (module.apply(each, cloud, example.pyramid) for each in params)
    tokens = draw_tokens(k_tokens, cloud, first, settings)
    roll = coarse.upright_roll(example.pose, surface)
    guess, found = coarse.predict_pose(settings, {"coarse": coarse_params}, tokens, surface, roll)
    begin = guess if start is None else start
    weights = estimator(k_mask, second.logits)
    whole = register_cloud(cloud, weights, surface, begin, schedule)
    scene = apply_mask(cloud, estimator(k_mask, third.logits))
    scales = iterate.annealed_scales(
        max(levels.LEVEL_SCALE, schedule.last_scale_mm),
        schedule.last_scale_mm,
        levels.LEVEL_STEPS,
        hold=levels.LEVEL_STEPS // 3,
    )
    each = levels.refine_levels(scene, surface, whole.pose, centres, jnp.asarray(scales))
    return Stages(
        cloud,
        surface,
        targets,
        (params, coarse_params),
        second,
        weights,
        found,
        guess,
        whole.trajectory,
        each.pose,
        level_errors(each.pose, surface, targets),
    )


def level_errors(several: Pose, surface: Surface, targets: Targets) -> jax.Array:
    """TRE (L,) mm of each level by its own pose (leading axis L); 0 where it has no target.

    A target's level is that of the nearest triangle.
    """
    own = correspondences.project(surface, jnp.asarray(targets.points)).levels

    def one(level: Array, pose: Pose) -> Array:
        mine = targets._replace(valid=targets.valid & (own == level))
        return losses.mean_target_error(pose, mine)

    return jax.vmap(one)(jnp.arange(several.translation.shape[0]), several)


class LevelPaths(NamedTuple):
    """The gradient of each of L levels' errors with respect to the mask network, by path."""

    errors: Array  # (L,) mm
    norms: Array  # (L, 3) of the share of each of PATHS
    cosines: Array  # (L, 3) of each share with the level's whole gradient
    whole: Array  # (L,) norm of that


def level_paths(
    settings: NetworkConfig,
    schedule: Schedule,
    params: Params,
    key: Array,
    example: Example,
    centres: Array,
    **options: Any,
) -> LevelPaths:
    """Splits the gradient of the chain's end by path and by level.

    A mode other than ``unrolled`` gives the coarse path nothing; that is what it means.

    Args:
      settings, schedule, key, example, centres, options: as for :func:`run_stages`.
      params: of both networks.
    """

    def errors(copies: tuple[Params, ...]) -> tuple[Array, Array]:
        found = run_stages(
            settings,
            schedule,
            copies,
            params["coarse"],
            key,
            example,
            centres,
            **options,  # type: ignore[arg-type]
        ).errors
        return found, found

    copies = (params["mask"],) * len(GRADIENT_PATHS)
    shares, found = jax.jacrev(errors, has_aux=True)(copies)
    gradients = jnp.stack(
        [jax.vmap(lambda g: gradient_paths.stack_gradients([g])[0])(share) for share in shares], 1
    )
    whole = jnp.sum(gradients, axis=1)
    norms, cosines = jax.vmap(gradient_paths.norm_and_cosine)(gradients, whole)
    return LevelPaths(found, norms, cosines, jnp.linalg.norm(whole, axis=1))


def stage_gradients(
    settings: NetworkConfig,
    schedule: Schedule,
    params: Params,
    key: Array,
    example: Example,
    start: Pose,
    *,
    estimator: MaskEstimator = mask_estimators.soft,
) -> dict[str, Any]:
    """The gradients of the final TRE by name, in the order in which they come: from the last step
    to the first, then of the weights, the logits and the mask network's parameters.

    Args:
      settings, schedule, key, example, estimator: as for :func:`run_stages`.
      params: of both networks.
      start: of the registration.
    """
    k_mask, _ = jax.random.split(key)
    module = build_mask_network(settings)
    logits, to_params = jax.vjp(
        lambda mask: mask_logits(module, mask, example.cloud, example.pyramid), params["mask"]
    )
    weights, to_logits = jax.vjp(partial(estimator, k_mask), logits)
    scene = apply_mask(example.cloud, weights)
    error = gradient_paths.final_error(example.targets)
    found = gradient_paths.gradient_by_step(
        error, scene, example.surface, start, schedule.scales(), step=schedule.bound_step()
    )
    named: dict[str, Any] = {
        f"gradient at step {step + 1}": (found.poses[step], found.shares[step])
        for step in reversed(range(schedule.steps))
    }
    by_weight = jnp.where(example.cloud.valid, found.truncated[0], 0.0)
    (by_logit,) = to_logits(by_weight)
    return named | {
        "gradient of the weights": by_weight,
        "gradient of the logits": by_logit,
        "gradient of the mask network": to_params(by_logit)[0],
    }
