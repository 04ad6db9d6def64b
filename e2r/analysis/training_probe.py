"""Figures of the gradient that a training step follows: cheap, for every so many steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.analysis import conditioning, gradient_paths
from e2r.config import TrainingConfig
from e2r.networks import mask_estimators
from e2r.networks.build import build_mask_network, mask_logits
from e2r.registration.schedule import Schedule, apply_mask
from e2r.training import loop, losses
from e2r.training.objective import MaskLoss, example_terms, perturbed_start
from e2r.types import Array, Example, MaskedCloud, Params, Pose, Surface

EXAMPLES = 2
"""Examples that a probe looks at."""


class TrainingFigures(NamedTuple):
    """Of one example, or the mean over some; norms are of gradients of the mask network."""

    mask_norm: Array  # () of the mask's loss
    coarse_norm: Array  # () of the coarse stage's
    interest_norm: Array  # () of the interest's
    coarse_cosine: Array  # () of the mask's loss with the coarse stage's: below 0 they disagree
    draws_cosine: Array  # () of the mask's loss, between two draws of the mask: 1 is no noise
    last_share: Array  # () size of the last step's gradient over the whole, both by weight
    last_cosine: Array  # () between them
    gap: Array  # () least Procrustes gap along the trajectory
    effective: Array  # () least effective number of points along it
    condition: Array  # () of the last step
    not_finite: Array  # () numbers in the gradients that are not


def training_figures(
    terms: Callable[[Params, Array], Array],
    params: Params,
    key: Array,
    error: gradient_paths.TrajectoryError,
    scene: MaskedCloud,
    surface: Surface,
    start: Pose,
    schedule: Schedule,
) -> TrainingFigures:
    """Probes one example.

    Args:
      terms: (the mask network's parameters, key of the mask) -> the losses (3,) of mask, coarse
        stage and interest.
      params: of the mask network.
      key: consumed; draws two masks.
      error: of the poses after each step.
      scene, surface, start, schedule: of a registration.
    """
    twice = jax.vmap(jax.jacrev(terms), (None, 0))(params, jax.random.split(key))
    rows = jax.vmap(jax.vmap(lambda g: gradient_paths.stack_gradients([g])[0]))(twice).reshape(
        6, -1
    )
    found = gradient_paths.compare(rows)
    way = gradient_paths.gradient_by_step(
        error, scene, surface, start, schedule.scales(), step=schedule.bound_step()
    )
    track = conditioning.along_trajectory(scene, surface, start, schedule)
    whole = way.truncated_norms[0]
    return TrainingFigures(
        mask_norm=found.norms[0],
        coarse_norm=found.norms[1],
        interest_norm=found.norms[2],
        coarse_cosine=found.cosines[0, 1],
        draws_cosine=found.cosines[0, 3],
        last_share=way.truncated_norms[-1] / jnp.where(whole > 0, whole, 1.0),
        last_cosine=way.truncated_cosines[-1],
        gap=jnp.min(track.gap),
        effective=jnp.min(track.effective),
        condition=track.condition[-1],
        not_finite=jnp.sum(~jnp.isfinite(rows)) + jnp.sum(~jnp.isfinite(way.shares)),
    )


def make_probe(config: TrainingConfig, teacher: MaskLoss | None = None) -> loop.Probe:
    """The compiled probe of a training run: means over the first examples of a step's batch.

    It draws by keys of its own and returns figures only: training goes on as if it had not been.
    """
    module, options = build_mask_network(config.network), config.optimisation
    estimator = mask_estimators.by_name(options.estimator, temperature=options.temperature)

    def one(params: Params, key: Array, example: Example) -> TrainingFigures:
        k_mask, k_coarse, example, start = perturbed_start(key, example, config)

        def terms(mask: Params, key: Array) -> Array:
            found, _ = example_terms(
                {**params, "mask": mask},
                (key, k_coarse),
                example,
                start,
                module=module,
                config=config,
                teacher=teacher,
            )
            return jnp.stack([found.mask, found.coarse, found.interest])

        cloud, surface = example.cloud, example.surface
        logits = mask_logits(module, params["mask"], cloud, example.pyramid)
        k_scene, k_terms = jax.random.split(k_mask)
        scene = apply_mask(cloud, estimator(k_scene, logits))
        error = partial(
            losses.trajectory_loss, targets=example.targets, error_scale_mm=options.error_scale_mm
        )
        return training_figures(
            terms, params["mask"], k_terms, error, scene, surface, start, config.schedule
        )

    def probe(params: Params, batch: Example, key: Array, step: Array) -> TrainingFigures:
        keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, 1), step), EXAMPLES)
        some = jax.tree.map(lambda leaf: leaf[:EXAMPLES], batch)
        found = jax.vmap(partial(one, params))(keys[: some.pose.translation.shape[0]], some)
        return jax.tree.map(lambda leaf: jnp.mean(leaf.astype(jnp.float32)), found)

    return jax.jit(probe)
