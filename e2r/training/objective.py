"""The loss of one example: the pose error of its registration, and the coarse stage's error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from e2r.config import OptimisationConfig, TrainingConfig
from e2r.geometry import poses
from e2r.networks import mask_estimators
from e2r.networks.build import build_mask_network
from e2r.networks.coarse_network import draw_tokens
from e2r.networks.mask_network import MaskOutput
from e2r.registration import coarse
from e2r.registration.schedule import register_cloud
from e2r.training import losses
from e2r.training.problems import LossKeys, RegistrationProblem
from e2r.types import Array, Example, Float, Params, Pose, PRNGKey, Surface

MaskLoss: TypeAlias = Callable[[Float[Array, "n"], Example], Float[Array, ""]]
"""(mask logits, example) -> loss of the mask, which replaces the pose error."""


class LossTerms(NamedTuple):
    """The terms of one example's loss, which is their sum."""

    mask: Float[Array, ""]  # pose error along the registration, or the mask loss given
    keep: Float[Array, ""]  # penalty of a mask that keeps too few points
    interest: Float[Array, ""]  # of the region of interest
    coarse: Float[Array, ""]  # of the coarse stage, weighted
    extra: Float[Array, ""]  # sum of the further terms of the settings


class ExampleMetrics(NamedTuple):
    """Figures of one example, or of a batch by :func:`reduce_metrics`."""

    loss: Float[Array, "..."]
    tre_mm: Float[Array, "..."]  # after the last registration step
    start_mm: Float[Array, "..."]  # TRE of the initial pose
    coarse_mm: Float[Array, "..."]  # TRE of the coarse stage's pose
    keep: Float[Array, "..."]  # share of the points kept
    effective: Float[Array, "..."]  # effective number of points kept
    spread_mm: Float[Array, "..."]  # spread of the points kept
    entropy: Float[Array, "..."]  # mean entropy of a point's keep probability, bits
    terms: LossTerms | None = None  # of the loss; None before they are added up


MEDIANS = ("tre_mm", "start_mm", "coarse_mm")
"""A batch's figures are means over its examples, but for the errors, which are medians."""


class StepMetrics(NamedTuple):
    """Figures of one training step."""

    batch: ExampleMetrics  # of the batch
    gradient: Float[Array, ""]  # global norm before clipping
    skipped: Float[Array, ""]  # 1 where loss or gradient is not finite: the step is not taken


def reduce_metrics(metrics: ExampleMetrics) -> ExampleMetrics:
    """Figures of a batch, from those of its examples (leading axis B)."""
    return ExampleMetrics(
        **{
            name: jax.tree.map(jnp.median if name in MEDIANS else jnp.mean, values)
            for name, values in metrics._asdict().items()
        }
    )


def example_loss(
    params: Params,
    keys: LossKeys,
    problem: RegistrationProblem,
    *,
    config: TrainingConfig,
    mask_loss: MaskLoss | None = None,
) -> tuple[Float[Array, ""], ExampleMetrics]:
    """Loss of one example: the sum of its :class:`LossTerms`, and its figures.

    Args:
      params: of both networks.
      keys: consumed.
      problem: an augmented example with its initial pose.
      config: of the run.
      mask_loss: teaches the mask instead of the pose error. The registration then only measures
        the mask.
    """
    terms, metrics = loss_terms(params, keys, problem, config=config, mask_loss=mask_loss)
    loss = terms.mask + terms.keep + terms.interest + terms.coarse
    if config.optimisation.loss_terms:
        loss = loss + terms.extra
    return loss, metrics._replace(loss=loss, terms=terms)


def loss_terms(
    params: Params,
    keys: LossKeys,
    problem: RegistrationProblem,
    *,
    config: TrainingConfig,
    mask_loss: MaskLoss | None = None,
) -> tuple[LossTerms, ExampleMetrics]:
    """The terms of :func:`example_loss`, and the figures but for the loss itself.

    Args:
      params: of both networks.
      keys: consumed.
      problem: an augmented example with its initial pose.
      config: of the run.
      mask_loss: teaches the mask instead of the pose error.
    """
    options, (example, initial_pose) = config.optimisation, problem
    cloud, targets = example.cloud, example.targets
    output = build_mask_network(config.network).apply(params["mask"], cloud, example.pyramid)
    logits = output.logits
    estimator = options.mask_estimator()
    weights = estimator(keys.mask, logits)
    if mask_loss is not None:
        weights = jax.lax.stop_gradient(weights)
    result = register_cloud(cloud, weights, example.surface, initial_pose, config.schedule)
    if mask_loss is None:
        mask_term = losses.trajectory_loss(
            result.trajectory, targets, error_scale_mm=options.error_scale_mm
        )
        keep_term = losses.keep_hinge(logits, cloud.valid, least=options.min_keep_ratio)
    else:
        mask_term, keep_term = mask_loss(logits, example), jnp.zeros(())
    coarse_term, coarse_pose = _coarse_loss(params, keys.coarse, example, output, config)
    seen = losses.LossInputs(example, logits, weights, result)
    extra = jnp.zeros(())
    for name, term in zip(options.loss_terms, options.chosen_loss_terms(), strict=True):
        value = term(seen)
        if jnp.shape(value) != ():
            raise ValueError(
                f"optimisation.loss_terms: {name} returns an array of shape {jnp.shape(value)}; "
                "make it return one number"
            )
        extra = extra + value
    terms = LossTerms(
        mask=mask_term,
        keep=keep_term,
        interest=losses.interest_loss(output.interest, cloud, targets),
        coarse=options.coarse_weight * coarse_term,
        extra=extra,
    )
    mask = mask_estimators.diagnose(weights, logits, cloud)
    return terms, ExampleMetrics(
        loss=jnp.zeros(()),
        tre_mm=losses.mean_target_error(result.pose, targets),
        start_mm=losses.mean_target_error(initial_pose, targets),
        coarse_mm=losses.mean_target_error(coarse_pose, targets),
        keep=mask.keep,
        effective=mask.effective,
        spread_mm=mask.spread_mm,
        entropy=mask.entropy,
    )


def _coarse_loss(
    params: Params, key: PRNGKey, example: Example, output: MaskOutput, config: TrainingConfig
) -> tuple[Float[Array, ""], Pose]:
    """Loss and pose of the coarse stage, which sees the scene at a roll near the true one."""
    k_tokens, k_roll, k_turn, k_shift = jax.random.split(key, 4)
    options = config.optimisation
    tokens = draw_tokens(k_tokens, example.cloud, output, count=config.network.tokens)
    roll_error = jnp.deg2rad(options.max_roll_deg) * jax.random.uniform(k_roll, (), minval=-1.0)
    roll = coarse.upright_roll(example.pose, example.surface) + roll_error
    surface = _perturb_canonical_frame((k_turn, k_shift), example.surface, options)
    pose, found = coarse.predict_pose(params, tokens, surface, roll=roll, config=config.network)
    goals = poses.apply(
        surface.canonical_from_model, poses.apply_inverse(example.pose, tokens.points)
    )
    loss = losses.coarse_loss(
        found.places,
        goals,
        confidence=found.confidence,
        pose=pose,
        targets=example.targets,
        error_scale_mm=options.coarse_error_scale_mm,
    )
    return loss, pose


def _perturb_canonical_frame(
    keys: tuple[Any, Any], surface: Surface, options: OptimisationConfig
) -> Surface:
    """Moves the model's canonical frame a little: its estimate differs from model to model."""
    k_turn, k_shift = keys
    turn = jnp.deg2rad(options.frame_noise_deg) * jax.random.normal(k_turn, (3,))
    shift = jnp.array([2.0, 2.0, options.frame_noise_mm]) * jax.random.normal(k_shift, (3,))
    motion = Pose(poses.exp_rotation(turn), shift)
    return surface._replace(
        canonical_from_model=poses.compose(motion, surface.canonical_from_model)
    )
