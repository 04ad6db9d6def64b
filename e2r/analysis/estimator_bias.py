"""How wrong is the gradient of a random mask, and how noisy?

A random mask of N points has 2^N values. For a dozen points, the expected loss and its gradient are
exact sums over all of them. For more points they are estimated without bias from many masks. Each
estimator of :mod:`e2r.networks.mask_estimators` is compared with either.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from e2r.analysis.influence import errors_with_one_weight_replaced
from e2r.networks import mask_estimators
from e2r.types import Array, Float, Int, MaskEstimator, MaskObjective, PRNGKey, ScalarLike

MAX_POINTS = 14
"""Largest number of points whose masks are enumerated: 16,384 registrations."""


class Expectation(NamedTuple):
    """A loss expected over random masks."""

    loss: Float[Array, ""]
    gradient: Float[Array, "r"]  # with respect to the logits
    standard_error: Float[Array, "r"]  # of the gradient; zero where exact


def all_masks(count: int) -> Int[np.ndarray, "m n"]:
    """Every mask of so many points, (2^count, count) of 0 and 1.

    Raises:
      ValueError: more than :data:`MAX_POINTS` points.
    """
    if not 1 <= count <= MAX_POINTS:
        raise ValueError(f"{count} points have 2^{count} masks; use 1 to {MAX_POINTS} points")
    return (np.arange(2**count)[:, None] >> np.arange(count)) & 1


def enumerate_masks(
    loss: MaskObjective, logits: Float[Array, "n"], *, chunk: int = 256
) -> Expectation:
    """The exact expectation of a loss if each point is kept independently.

    With ``p(m)`` the probability of a mask, the gradient is ``sum_m p(m) loss(m) (m - keep)``.

    Args:
      loss: of the weights; never differentiated.
      logits: of at most :data:`MAX_POINTS` points.
      chunk: losses at a time.
    """
    masks = jnp.asarray(all_masks(logits.shape[0]), logits.dtype)
    values = jax.lax.map(loss, masks, batch_size=chunk)
    kept, dropped = jax.nn.log_sigmoid(logits)[None], jax.nn.log_sigmoid(-logits)[None]
    probability = jnp.exp(jnp.sum(jnp.where(masks > 0, kept, dropped), axis=1))
    weighted = probability * values
    gradient = jnp.matmul(weighted, masks - jax.nn.sigmoid(logits)[None], precision="highest")
    return Expectation(jnp.sum(weighted), gradient, jnp.zeros_like(gradient))


def sample_masks(
    key: PRNGKey,
    loss: MaskObjective,
    logits: Float[Array, "n"],
    *,
    rows: Int[Array, "r"],
    draws: int,
    chunk: int = 64,
) -> Expectation:
    """The expectation of a loss from random masks, without bias, of any number of points.

    For each mask and each row, the loss is computed with the point and without it. The gradient is
    the mean of ``keep (1 - keep) (loss with - loss without)``. (Local expectation gradients,
    Titsias and Lázaro-Gredilla, NeurIPS 2015.)

    Args:
      key: consumed.
      loss: of the weights; never differentiated.
      logits: of the points.
      rows: points whose gradient is computed.
      draws: number of masks; each takes a registration a row.
      chunk: losses at a time.
    """
    keep = jax.nn.sigmoid(logits)

    def one(key: PRNGKey) -> tuple[Array, Array]:
        mask = (jax.random.uniform(key, logits.shape, logits.dtype) < keep).astype(logits.dtype)
        value = loss(mask)
        other = errors_with_one_weight_replaced(
            loss, mask, rows=rows, values=1.0 - mask[rows], chunk=chunk
        )
        return value, (2.0 * mask[rows] - 1.0) * (value - other)

    values, differences = jax.lax.map(one, jax.random.split(key, draws))
    slope = (keep * (1.0 - keep))[rows]
    spread = jnp.std(differences, axis=0, ddof=1) / jnp.sqrt(float(draws)).astype(keep.dtype)
    return Expectation(jnp.mean(values), slope * jnp.mean(differences, axis=0), slope * spread)


def estimator_by_index(index: Int[Array, ""], temperature: ScalarLike = 1.0) -> MaskEstimator:
    """The estimator at a traced place in :data:`e2r.networks.mask_estimators.ESTIMATORS`.

    One compiled program so serves all estimators, at any temperature.

    Args:
      index: of the estimator.
      temperature: of those that have one.
    """
    estimators = [
        mask_estimators.by_name(name, temperature=temperature)
        for name in mask_estimators.ESTIMATORS
    ]
    return lambda key, logits: jax.lax.switch(index, estimators, key, logits)


class GradientDraws(NamedTuple):
    """Losses and gradients that an estimator gives, S times."""

    losses: Float[Array, "s"]
    gradients: Float[Array, "s r"]  # with respect to the logits


def draw_gradients(
    key: PRNGKey,
    loss: MaskObjective,
    logits: Float[Array, "n"],
    *,
    rows: Int[Array, "r"],
    estimator: MaskEstimator,
    draws: int,
    chunk: int = 64,
) -> GradientDraws:
    """Draws losses and gradients with an estimator.

    Args:
      key: consumed.
      loss: of the weights; differentiable.
      logits: of the points.
      rows: points whose gradient is kept.
      estimator: one of :mod:`e2r.networks.mask_estimators`.
      draws: number of draws.
      chunk: draws at a time.
    """
    loss_and_gradient = jax.value_and_grad(lambda logits, key: loss(estimator(key, logits)))

    def one(key: PRNGKey) -> tuple[Array, Array]:
        value, gradient = loss_and_gradient(logits, key)
        return value, gradient[rows]

    return GradientDraws(*jax.lax.map(one, jax.random.split(key, draws), batch_size=chunk))


class EstimatorQuality(NamedTuple):
    """An estimator's gradient against a reference, relative to the size of the reference."""

    bias: Float[Array, ""]  # distance of the mean from the reference, without the part of chance
    deviation: Float[Array, ""]  # root of the summed variances of one draw
    cosine: Float[Array, ""]  # of the mean with the reference
    draw_cosine: Float[Array, ""]  # mean cosine of one draw, which a training step follows
    scale: Float[Array, ""]  # length of the mean along the reference: 1 would be right
    loss_bias: Float[Array, ""]  # mean loss less the expected one, in units of the loss


def estimator_quality(draws: GradientDraws, reference: Expectation) -> EstimatorQuality:
    """Bias and variance of an estimator.

    The squared distance of a mean of S draws from the truth is the squared bias plus the variance
    over S. The reference has its own standard error. Both are subtracted.

    Args:
      draws: of the estimator.
      reference: the expected loss and its gradient.
    """
    truth, count = reference.gradient, draws.gradients.shape[0]
    size = jnp.linalg.norm(truth)
    over = jnp.where(size > 0, 1.0 / jnp.where(size > 0, size, 1.0), 0.0)
    mean = jnp.mean(draws.gradients, axis=0)
    variance = jnp.sum(jnp.var(draws.gradients, axis=0, ddof=1))
    chance = variance / count + jnp.sum(jnp.square(reference.standard_error))
    square = jnp.sum(jnp.square(mean - truth)) - chance
    lengths = jnp.linalg.norm(draws.gradients, axis=1)
    along = jnp.matmul(draws.gradients, truth, precision="highest") * over
    length = jnp.linalg.norm(mean)
    projection = jnp.dot(mean, truth, precision="highest") * over
    return EstimatorQuality(
        bias=jnp.sqrt(jnp.maximum(square, 0.0)) * over,
        deviation=jnp.sqrt(variance) * over,
        cosine=projection / jnp.where(length > 0, length, 1.0),
        draw_cosine=jnp.mean(along / jnp.where(lengths > 0, lengths, 1.0)),
        scale=projection * over,
        loss_bias=jnp.mean(draws.losses) - reference.loss,
    )
