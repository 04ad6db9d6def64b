"""Is the gradient that a training step follows large, consistent and well determined?"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.analysis import conditioning, gradient_paths
from e2r.config import TrainingConfig
from e2r.networks.build import build_mask_network
from e2r.registration.schedule import apply_mask
from e2r.training import loop, losses
from e2r.training.objective import MaskLoss, loss_terms
from e2r.training.problems import LossKeys, RegistrationProblem, draw_problem
from e2r.types import Array, Example, Float, Int, Params, PRNGKey

EXAMPLES = 2
"""Examples that a probe looks at."""


class TrainingFigures(NamedTuple):
    """Figures of one example, or means over some; gradients are those of the mask network."""

    mask_norm: Float[Array, ""]  # of the mask's loss
    coarse_norm: Float[Array, ""]  # of the coarse stage's loss
    interest_norm: Float[Array, ""]  # of the region of interest's loss
    coarse_cosine: Float[Array, ""]  # of the mask's and the coarse stage's; below 0 they disagree
    draws_cosine: Float[Array, ""]  # between two draws of the mask; 1 means no noise
    last_share: Float[Array, ""]  # norm of the last step's gradient over the whole, by weight
    last_cosine: Float[Array, ""]  # between these two
    gap: Float[Array, ""]  # least Procrustes gap along the trajectory
    effective: Float[Array, ""]  # least effective number of points along the trajectory
    condition: Float[Array, ""]  # of the last step
    not_finite: Array  # count of numbers in the gradients that are not finite


def make_probe(config: TrainingConfig, mask_loss: MaskLoss | None = None) -> loop.Probe:
    """The compiled probe of a training run: means over the first examples of a step's batch.

    It has its own random keys and returns figures only, so training goes on unchanged.

    Args:
      config: of the run.
      mask_loss: teaches the mask instead of the pose error.
    """
    one = partial(_probe_example, config=config, mask_loss=mask_loss)

    def probe(
        params: Params, batch: Example, key: PRNGKey, step: Int[Array, ""]
    ) -> TrainingFigures:
        keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, 1), step), EXAMPLES)
        some = jax.tree.map(lambda leaf: leaf[:EXAMPLES], batch)
        found = jax.vmap(partial(one, params))(keys[: some.pose.translation.shape[0]], some)
        return jax.tree.map(lambda leaf: jnp.mean(leaf.astype(jnp.float32)), found)

    return jax.jit(probe)


def _probe_example(
    params: Params,
    key: PRNGKey,
    example: Example,
    *,
    config: TrainingConfig,
    mask_loss: MaskLoss | None,
) -> TrainingFigures:
    """The figures of one example; two draws of its mask."""
    keys, problem = draw_problem(key, example, config.optimisation)
    k_cloud, k_terms = jax.random.split(keys.mask)
    two_draws = LossKeys(jax.random.split(k_terms), keys.coarse)
    gradients = _term_gradients(params, two_draws, problem, config=config, mask_loss=mask_loss)
    comparison = gradient_paths.compare_gradients(gradients)
    by_step, track = _probe_registration(params, k_cloud, problem, config=config)
    whole = by_step.truncated_norms[0]
    wrong = jnp.sum(~jnp.isfinite(gradients)) + jnp.sum(~jnp.isfinite(by_step.shares))
    return TrainingFigures(
        mask_norm=comparison.norms[0],
        coarse_norm=comparison.norms[1],
        interest_norm=comparison.norms[2],
        coarse_cosine=comparison.cosines[0, 1],
        draws_cosine=comparison.cosines[0, 3],
        last_share=by_step.truncated_norms[-1] / jnp.where(whole > 0, whole, 1.0),
        last_cosine=by_step.truncated_cosines[-1],
        gap=jnp.min(track.gap),
        effective=jnp.min(track.effective_points),
        condition=track.condition[-1],
        not_finite=wrong,
    )


def _term_gradients(
    params: Params,
    keys: LossKeys,
    problem: RegistrationProblem,
    *,
    config: TrainingConfig,
    mask_loss: MaskLoss | None,
) -> Float[Array, "6 d"]:
    """Gradients with respect to the mask network, for two draws of the mask (two keys ``mask``).

    The rows are those of the mask's, the coarse stage's and the region of interest's loss for the
    first draw, then for the second.
    """

    def terms(mask_params: Params, mask_key: PRNGKey) -> Float[Array, "3"]:
        found, _ = loss_terms(
            {**params, "mask": mask_params},
            LossKeys(mask_key, keys.coarse),
            problem,
            config=config,
            mask_loss=mask_loss,
        )
        return jnp.stack([found.mask, found.coarse, found.interest])

    gradients = jax.vmap(jax.jacrev(terms), (None, 0))(params["mask"], keys.mask)
    rows = jax.vmap(jax.vmap(lambda g: gradient_paths.stack_gradients([g])[0]))(gradients)
    return rows.reshape(6, -1)


def _probe_registration(
    params: Params, key: PRNGKey, problem: RegistrationProblem, *, config: TrainingConfig
) -> tuple[gradient_paths.StepGradients, conditioning.Conditioning]:
    """Gradients by step, and conditioning, of the registration with a mask drawn by ``key``."""
    options, (example, start) = config.optimisation, problem
    cloud, surface = example.cloud, example.surface
    estimator = options.mask_estimator()
    module = build_mask_network(config.network)
    logits = module.apply(params["mask"], cloud, example.pyramid).logits
    masked = apply_mask(cloud, estimator(key, logits))
    by_step = gradient_paths.gradient_by_step(
        masked,
        surface,
        start,
        scales=config.schedule.scales(),
        step=config.schedule.bound_step(),
        error=partial(
            losses.trajectory_loss, targets=example.targets, error_scale_mm=options.error_scale_mm
        ),
    )
    return by_step, conditioning.along_trajectory(masked, surface, start, schedule=config.schedule)
