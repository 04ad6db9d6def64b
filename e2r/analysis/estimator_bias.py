"""How wrong is the gradient of a mask that is drawn, and how noisy?

A drawn mask of N points has 2^N values, so the expectation of a loss over it and the exact gradient
with respect to the logits can be had for a dozen points by going through all; for more of them,
without bias, from many draws. Against either an estimator of :mod:`e2r.networks.mask_estimators` has a
bias and a variance.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from e2r.analysis.influence import replaced
from e2r.networks import mask_estimators
from e2r.types import Array, MaskEstimator, MaskObjective

MAX_POINTS = 14
"""Points whose masks are enumerated, at most: 16,384 registrations."""


class Expectation(NamedTuple):
    """A loss expected over drawn masks."""

    loss: Array  # ()
    gradient: Array  # (R,) with respect to the logits
    error: Array  # (R,) standard error of the gradient; zero where exact


def all_masks(count: int) -> np.ndarray:
    """Every mask of so many points, (2^count, count) of 0 and 1.

    Raises:
      ValueError: more than :data:`MAX_POINTS` points.
    """
    if not 1 <= count <= MAX_POINTS:
        raise ValueError(f"{count} points have 2^{count} masks; use 1 to {MAX_POINTS} points")
    return (np.arange(2**count)[:, None] >> np.arange(count)) & 1


def enumerate_masks(loss: MaskObjective, logits: Array, *, chunk: int = 256) -> Expectation:
    """The exact expectation of a loss when each point is kept by its probability, independently.

    With ``p(m)`` the probability of a mask, the gradient is ``sum_m p(m) loss(m) (m - keep)``.

    Args:
      loss: of weights (N,); never differentiated.
      logits: (N,), N at most :data:`MAX_POINTS`.
      chunk: losses at a time.
    """
    every = jnp.asarray(all_masks(logits.shape[0]), logits.dtype)
    values = jax.lax.map(loss, every, batch_size=chunk)
    kept, dropped = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    chance = jnp.exp(jnp.sum(jnp.where(every > 0, kept, dropped), axis=1))
    weighed = chance * values
    gradient = jnp.matmul(weighed, every - jax.nn.sigmoid(logits), precision="highest")
    return Expectation(jnp.sum(weighed), gradient, jnp.zeros_like(gradient))


def many_masks(
    key: Array, loss: MaskObjective, logits: Array, rows: Array, *, draws: int, chunk: int = 64
) -> Expectation:
    """The same from many draws, without bias, of as many points as there are.

    For each drawn mask and each row the loss is had with the point and without it, and
    ``keep (1 - keep) (loss with - loss without)`` is averaged: of all unbiased estimators the one
    that leaves the least to chance. (Local expectation gradients, Titsias and Lazaro-Gredilla,
    NeurIPS 2015.)

    Args:
      key: consumed.
      loss: of weights (N,); never differentiated.
      logits: (N,).
      rows: (R,) points whose gradient is asked for.
      draws: masks, each of which takes R registrations.
      chunk: losses at a time.
    """
    keep = jax.nn.sigmoid(logits)

    def one(key: Array) -> tuple[Array, Array]:
        mask = (jax.random.uniform(key, logits.shape, logits.dtype) < keep).astype(logits.dtype)
        value = loss(mask)
        other = replaced(loss, mask, rows, 1.0 - mask[rows], chunk=chunk)
        return value, (2.0 * mask[rows] - 1.0) * (value - other)

    values, differences = jax.lax.map(one, jax.random.split(key, draws))
    slope = (keep * (1.0 - keep))[rows]
    spread = jnp.std(differences, axis=0, ddof=1) / jnp.sqrt(float(draws))
    return Expectation(jnp.mean(values), slope * jnp.mean(differences, axis=0), slope * spread)


def estimator_by_index(index: Array, temperature: Array = 1.0) -> MaskEstimator:
    """The estimator of :data:`e2r.networks.mask_estimators.ESTIMATORS` at a traced place in their order:
    one compiled program serves them all, at any temperature."""
    every = [
        mask_estimators.by_name(name, temperature=temperature)
        for name in mask_estimators.ESTIMATORS
    ]
    return lambda key, logits: jax.lax.switch(index, every, key, logits)


class Draws(NamedTuple):
    """What an estimator says, S times."""

    losses: Array  # (S,)
    gradients: Array  # (S, R) with respect to the logits


def draw_gradients(
    key: Array,
    loss: MaskObjective,
    logits: Array,
    rows: Array,
    estimator: MaskEstimator,
    *,
    draws: int,
    chunk: int = 64,
) -> Draws:
    """Draws losses and gradients with an estimator.

    Args:
      key: consumed.
      loss: of weights (N,), differentiable.
      logits: (N,).
      rows: (R,) points whose gradient is kept.
      estimator: of :mod:`e2r.networks.mask_estimators`.
      draws: S.
      chunk: of them at a time.
    """
    slope = jax.value_and_grad(lambda logits, key: loss(estimator(key, logits)))

    def one(key: Array) -> tuple[Array, Array]:
        value, gradient = slope(logits, key)
        return value, gradient[rows]

    return Draws(*jax.lax.map(one, jax.random.split(key, draws), batch_size=chunk))


class EstimatorQuality(NamedTuple):
    """An estimator's gradient against a reference: each figure is relative to the latter's size."""

    bias: Array  # () distance of the mean from the reference; what chance alone makes is taken off
    deviation: Array  # () root of the summed variances of one draw
    cosine: Array  # () of the mean with the reference
    single: Array  # () mean cosine of one draw with the reference: what a training step follows
    scale: Array  # () length of the mean along the reference: 1 would be right
    loss_bias: Array  # () mean loss less the expected one, in units of the loss


def estimator_quality(draws: Draws, reference: Expectation) -> EstimatorQuality:
    """Bias and variance of an estimator.

    The squared distance of a mean of S draws from the truth is the squared bias and the variance
    over S, and the reference has its own standard error; both are subtracted.
    """
    truth, count = reference.gradient, draws.gradients.shape[0]
    size = jnp.linalg.norm(truth)
    over = jnp.where(size > 0, 1.0 / jnp.where(size > 0, size, 1.0), 0.0)
    mean = jnp.mean(draws.gradients, axis=0)
    variance = jnp.sum(jnp.var(draws.gradients, axis=0, ddof=1))
    chance = variance / count + jnp.sum(jnp.square(reference.error))
    square = jnp.sum(jnp.square(mean - truth)) - chance
    lengths = jnp.linalg.norm(draws.gradients, axis=1)
    along = jnp.matmul(draws.gradients, truth, precision="highest") * over
    length = jnp.linalg.norm(mean)
    onto = jnp.dot(mean, truth, precision="highest") * over
    return EstimatorQuality(
        bias=jnp.sqrt(jnp.maximum(square, 0.0)) * over,
        deviation=jnp.sqrt(variance) * over,
        cosine=onto / jnp.where(length > 0, length, 1.0),
        single=jnp.mean(along / jnp.where(lengths > 0, lengths, 1.0)),
        scale=onto * over,
        loss_bias=jnp.mean(draws.losses) - reference.loss,
    )
