"""From logits to the weights of a registration. Estimators share the type ``MaskEstimator``.

A kept point weighs one, a dropped one zero, and neither has a derivative: each estimator is a way
to have one all the same. All but :func:`soft` and :func:`gates` are binary in the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.types import Array, MaskEstimator

STRETCH = (-0.1, 1.1)
"""Ends of a stretched gate, which is clipped to [0, 1] (Louizos et al., ICLR 2018)."""


def soft(key: Array, logits: Array) -> jax.Array:
    """The keep probability itself; the key is not used."""
    del key
    return jax.nn.sigmoid(logits)


def deterministic(key: Array, logits: Array) -> jax.Array:
    """Keeps a point when its probability exceeds one half: the mask of evaluation. No gradient."""
    del key
    return (logits > 0).astype(logits.dtype)


def ensure_keep_ratio(logits: Array, valid: Array, share: float) -> jax.Array:
    """Logits (N,), all raised alike if fewer than a share of the valid points would be kept.

    The order of a starved mask is better than its level: a frame unlike those of training may end
    below one half almost everywhere, and a registration needs points.

    Args:
      logits: (N,).
      valid: (N,) 0 where a row is padding.
      share: of the valid points, below 1; exact but for ties.
    """
    ranked = jnp.sort(jnp.where(valid > 0, logits, -jnp.inf), descending=True)
    first_out = ranked[jnp.floor(share * jnp.sum(valid > 0)).astype(jnp.int32)]
    return logits - jnp.where(jnp.isfinite(first_out), jnp.minimum(first_out, 0.0), 0.0)


def gates(key: Array, logits: Array) -> jax.Array:
    """Deterministic gates: a sigmoid stretched beyond [0, 1] and clipped; the key is not used.

    Exactly zero and exactly one are reached, without noise; there the gradient ends. (The test-time
    gate of hard concrete, Louizos, Welling, Kingma, ICLR 2018, equation 13.)
    """
    del key
    low, high = STRETCH
    return jnp.clip(low + (high - low) * jax.nn.sigmoid(logits), 0.0, 1.0)


def straight_through(key: Array, logits: Array) -> jax.Array:
    """The deterministic mask with the derivative of the probability; the key is not used.

    (Bengio, Leonard, Courville, arXiv 1308.3432.)
    """
    return _pretend(deterministic(key, logits), jax.nn.sigmoid(logits))


def gumbel_straight_through(key: Array, logits: Array, *, temperature: float = 1.0) -> jax.Array:
    """A sampled binary mask whose gradient is that of its relaxation.

    Two-class Gumbel-softmax, which is a sigmoid of logits plus logistic noise (Jang et al.,
    ICLR 2017, eq. 1; straight-through, section 2.2). Biased: the backward pass pretends that the
    mask was the relaxed one.

    Args:
      key: consumed.
      logits: (N,).
      temperature: of the relaxation.

    Returns:
      (N,) of zeros and ones.
    """
    noise = jax.random.logistic(key, logits.shape, logits.dtype)
    relaxed = jax.nn.sigmoid((logits + noise) / temperature)
    return _pretend((logits + noise > 0).astype(logits.dtype), relaxed)


def gumbel_rao(
    key: Array, logits: Array, *, temperature: float = 1.0, samples: int = 8
) -> jax.Array:
    """Like :func:`gumbel_straight_through`, its gradient averaged over noise that gives this mask.

    The same mean, less variance (Paulus, Maddison, Krause, ICLR 2021). Of two classes the noise
    given the mask is logistic, cut at the threshold: drawn by its inverse distribution function.

    Args:
      key: consumed.
      logits: (N,).
      temperature: of the relaxation.
      samples: draws that are averaged.
    """
    k_mask, k_noise = jax.random.split(key)
    keep = jax.nn.sigmoid(jax.lax.stop_gradient(logits))
    hard = jax.random.uniform(k_mask, logits.shape, logits.dtype) < keep
    u = jax.random.uniform(k_noise, (samples, *logits.shape), logits.dtype)
    rank = jnp.where(hard, 1.0 - keep * u, (1.0 - keep) * u)  # of the noise, in (0, 1)
    rank = jnp.clip(rank, 1e-6, 1.0 - 1e-6)
    noise = jnp.log(rank) - jnp.log1p(-rank)
    relaxed = jnp.mean(jax.nn.sigmoid((logits + noise) / temperature), axis=0)
    return _pretend(hard.astype(logits.dtype), relaxed)


def reinmax(key: Array, logits: Array, *, temperature: float = 1.0) -> jax.Array:
    """A sampled binary mask with a gradient that is exact to second order.

    Heun's method where straight-through takes Euler's (Liu et al., NeurIPS 2023, algorithm 2), for
    two classes; temperature 1 is the method's own.

    Args:
      key: consumed.
      logits: (N,).
      temperature: of the second evaluation.
    """
    still = jax.lax.stop_gradient(logits)
    keep = jax.nn.sigmoid(logits)
    hard = (jax.random.uniform(key, logits.shape, logits.dtype) < jax.nn.sigmoid(still)).astype(
        logits.dtype
    )
    middle = jnp.clip(0.5 * (hard + jax.nn.sigmoid(still / temperature)), 1e-6, 1.0 - 1e-6)
    there = jax.nn.sigmoid(jnp.log(middle) - jnp.log1p(-middle) - still + logits)
    return _pretend(hard, 2.0 * there - 0.5 * keep)


ESTIMATORS: dict[str, Callable[..., jax.Array]] = {
    "soft": soft,
    "gates": gates,
    "straight_through": straight_through,
    "gumbel_straight_through": gumbel_straight_through,
    "gumbel_rao": gumbel_rao,
    "reinmax": reinmax,
}
"""The estimators to learn with, by name."""
WITH_TEMPERATURE = ("gumbel_straight_through", "gumbel_rao", "reinmax")
"""Those that take a temperature."""


def by_name(name: str, *, temperature: float = 1.0) -> MaskEstimator:
    """The estimator of :data:`ESTIMATORS`; without a temperature of its own, it ignores it."""
    if name in WITH_TEMPERATURE:
        return partial(ESTIMATORS[name], temperature=temperature)
    return ESTIMATORS[name]


def _pretend(value: Array, like: Array) -> jax.Array:
    """``value``, with the derivative of ``like``."""
    return value + (like - jax.lax.stop_gradient(like))


class MaskDiagnostics(NamedTuple):
    """How a mask is doing."""

    keep: Array  # () share of the valid points' weight
    effective: Array  # () effective number of points, (sum w)^2 / sum w^2
    spread_mm: Array  # () weighted root mean square distance of the points from their mean
    entropy: Array  # () mean entropy of a point's keep probability, in bits: 0 decided, 1 a coin


def diagnose(weights: Array, logits: Array, points: Array, valid: Array) -> MaskDiagnostics:
    """Figures that show an emptying, collapsing or undecided mask while it learns.

    Args:
      weights, logits: (N,).
      points: (N, 3) mm.
      valid: (N,) bool.
    """
    w = jnp.where(valid, weights, 0.0)
    total, count = jnp.sum(w), jnp.maximum(jnp.sum(valid), 1)
    share = w / jnp.maximum(total, 1e-9)
    apart = points - jnp.sum(share[:, None] * points, axis=0)
    spread = jnp.sum(share * jnp.sum(apart * apart, axis=1))
    nats = jax.nn.softplus(logits) - logits * jax.nn.sigmoid(logits)
    return MaskDiagnostics(
        total / count,
        total * total / jnp.maximum(jnp.sum(w * w), 1e-9),
        jnp.sqrt(jnp.maximum(spread, 0.0)),
        jnp.sum(jnp.where(valid, nats, 0.0)) / count / jnp.log(2.0),
    )
