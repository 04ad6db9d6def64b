"""The loss of one example: the pose error along the unrolled registration, and the coarse stage's."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from e2r.config import TrainingConfig
from e2r.geometry import poses
from e2r.networks import mask_estimators
from e2r.networks.build import draw_tokens
from e2r.networks.mask_network import MaskNetwork, MaskOutput
from e2r.registration import coarse
from e2r.registration.schedule import register_cloud
from e2r.training import losses
from e2r.training.examples import augment_example
from e2r.types import Array, Example, MaskEstimator, Params, Pose

MaskLoss: TypeAlias = Callable[[Array, Example], Array]
"""(mask logits (N,), example) -> loss of the mask, in place of the pose error."""


class LossTerms(NamedTuple):
    """The parts of an example's loss; their sum is the loss."""

    mask: Array  # () pose error along the steps, or the teacher's
    keep: Array  # () what holds an emptying mask
    interest: Array  # ()
    coarse: Array  # () weighed


class StepMetrics(NamedTuple):
    """Figures of one step, of the masks and poses it trained on."""

    loss: Array  # ()
    tre_mm: Array  # () median over the batch, after the last unrolled step
    start_mm: Array  # () median over the batch, at the start
    coarse_mm: Array  # () median over the batch, of the coarse stage
    keep: Array  # () mean share of points kept
    effective: Array  # () mean effective number of points kept
    spread_mm: Array  # () mean spread of the points kept
    entropy: Array  # () mean entropy of a keep probability, bits
    gradient: Array  # () global norm before clipping
    skipped: Array  # () 1 where loss or gradient is not finite: that step is not taken


def example_loss(
    params: Params,
    key: Array,
    example: Example,
    *,
    module: MaskNetwork,
    config: TrainingConfig,
    estimator: MaskEstimator | None = None,
    teacher: MaskLoss | None = None,
) -> tuple[jax.Array, StepMetrics]:
    """Loss of one example: pose error along the unrolled registration of its sampled mask.

    With another ``teacher`` the mask learns from that alone, and the registration only tells how
    well it does.
    """
    k_mask, k_coarse, example, start = perturbed_start(key, example, config)
    terms, metrics = example_terms(
        params,
        (k_mask, k_coarse),
        example,
        start,
        module=module,
        config=config,
        estimator=estimator,
        teacher=teacher,
    )
    loss = terms.mask + terms.keep + terms.interest + terms.coarse
    return loss, metrics._replace(loss=loss)


def perturbed_start(
    key: Array, example: Example, config: TrainingConfig
) -> tuple[Array, Array, Example, Pose]:
    """Keys of mask and coarse stage, the example augmented, and a start near its pose."""
    k_augment, k_mask, k_start, k_coarse = jax.random.split(key, 4)
    example = augment_example(k_augment, example)
    targets, options = example.targets, config.optimisation
    valid = targets.valid[:, None]
    middle = jnp.sum(jnp.where(valid, targets.goals, 0.0), 0) / jnp.maximum(jnp.sum(valid), 1)
    start = poses.perturb(
        k_start, example.pose, middle, degrees=options.start_noise_deg, mm=options.start_noise_mm
    )
    return k_mask, k_coarse, example, start


def example_terms(
    params: Params,
    keys: tuple[Array, Array],
    example: Example,
    start: Pose,
    *,
    module: MaskNetwork,
    config: TrainingConfig,
    estimator: MaskEstimator | None = None,
    teacher: MaskLoss | None = None,
) -> tuple[LossTerms, StepMetrics]:
    """The parts of :func:`example_loss`, of an augmented example; consumes both keys."""
    options = config.optimisation
    if estimator is None:
        estimator = mask_estimators.by_name(options.estimator, temperature=options.temperature)
    k_mask, k_coarse = keys
    cloud, targets = example.cloud, example.targets
    reading = module.apply(params["mask"], cloud, example.pyramid)
    logits = reading.logits
    weights = estimator(k_mask, logits)
    if teacher is not None:
        weights = jax.lax.stop_gradient(weights)
    result = register_cloud(cloud, weights, example.surface, start, config.schedule)
    if teacher is None:
        taught = losses.trajectory_loss(
            result.trajectory, targets, error_scale_mm=options.error_scale_mm
        )
        keep = losses.keep_hinge(logits, cloud.valid, least=options.min_keep_ratio)
    else:
        taught, keep = teacher(logits, example), jnp.zeros(())
    located, guess = _coarse_loss(params, k_coarse, example, reading, config)
    terms = LossTerms(
        taught,
        keep,
        losses.interest_loss(reading.interest, cloud.points, cloud.valid, targets),
        options.coarse_weight * located,
    )
    mask = mask_estimators.diagnose(weights, logits, cloud.points, cloud.valid)
    return terms, StepMetrics(
        loss=jnp.zeros(()),
        tre_mm=losses.mean_target_error(result.pose, targets),
        start_mm=losses.mean_target_error(start, targets),
        coarse_mm=losses.mean_target_error(guess, targets),
        keep=mask.keep,
        effective=mask.effective,
        spread_mm=mask.spread_mm,
        entropy=mask.entropy,
        gradient=jnp.zeros(()),
        skipped=jnp.zeros(()),
    )


def _coarse_loss(
    params: Params, key: Array, example: Example, reading: MaskOutput, config: TrainingConfig
) -> tuple[jax.Array, Pose]:
    """Loss and pose of the coarse stage, shown the scene at a roll near the true one."""
    k_tokens, k_roll, k_turn, k_shift = jax.random.split(key, 4)
    options, surface = config.optimisation, example.surface
    tokens = draw_tokens(k_tokens, example.cloud, reading, config.network)
    off = jnp.deg2rad(options.max_roll_deg) * jax.random.uniform(k_roll, (), minval=-1.0)
    roll = coarse.upright_roll(example.pose, surface) + off
    # The anatomical frame is found a little differently of every model.
    turn = jnp.deg2rad(options.frame_noise_deg) * jax.random.normal(k_turn, (3,))
    shift = jnp.array([2.0, 2.0, options.frame_noise_mm]) * jax.random.normal(k_shift, (3,))
    nudge = Pose(poses.exp_rotation(turn), shift)
    surface = surface._replace(
        canonical_from_model=poses.compose(nudge, surface.canonical_from_model)
    )
    pose, found = coarse.predict_pose(config.network, params, tokens, surface, roll)
    goals = poses.apply(
        surface.canonical_from_model, poses.apply_inverse(example.pose, tokens.points)
    )
    loss = losses.coarse_loss(
        found.places,
        found.confidence,
        goals,
        pose,
        example.targets,
        error_scale_mm=options.coarse_error_scale_mm,
    )
    return loss, pose
