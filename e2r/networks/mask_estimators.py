"""Mask estimators: from mask logits to mask weights, with a derivative.

Every estimator has the type :data:`e2r.types.MaskEstimator`. A kept point weighs 1 and a dropped
one 0, so the true derivative is zero; each estimator replaces it by a useful one. All but
:func:`soft` and :func:`gates` are binary in the forward pass.

To add one without editing e2r, use :func:`e2r.plugin`; e2r's own are listed in :data:`ESTIMATORS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.runtime.registry import PluginName, Registry
from e2r.types import Array, Bool, Cloud, Float, MaskEstimator, PRNGKey, ScalarLike

STRETCH = (-0.1, 1.1)
"""Range of a stretched gate, which is clipped to [0, 1] (Louizos et al., ICLR 2018)."""


def soft(key: PRNGKey, logits: Float[Array, "n"]) -> Float[Array, "n"]:
    """The keep probability itself; the key is not used."""
    del key
    return jax.nn.sigmoid(logits)


def deterministic(key: PRNGKey, logits: Float[Array, "n"]) -> Float[Array, "n"]:
    """Keeps a point if its probability exceeds one half; no gradient."""
    del key
    return (logits > 0).astype(logits.dtype)


def ensure_keep_ratio(
    logits: Float[Array, "n"], valid: Bool[Array, "n"], ratio: ScalarLike
) -> Float[Array, "n"]:
    """Raises all logits by one amount if the mask would keep too few points.

    In a frame unlike those of training, almost all probabilities may be below one half, and a
    registration needs points. The order of the logits is still useful there.

    Args:
      logits: of the mask.
      valid: False where a row is padding.
      ratio: least part of the valid points to keep, below 1; exact but for ties.
    """
    ranked = jnp.sort(jnp.where(valid, logits, -jnp.inf), descending=True)
    count = jnp.sum(valid).astype(logits.dtype)
    first_out = ranked[jnp.floor(ratio * count).astype(jnp.int32)]
    return logits - jnp.where(jnp.isfinite(first_out), jnp.minimum(first_out, 0.0), 0.0)


def gates(key: PRNGKey, logits: Float[Array, "n"]) -> Float[Array, "n"]:
    """Deterministic gates: a sigmoid stretched beyond [0, 1] and clipped; the key is not used.

    Weights of exactly 0 and 1 occur, without noise; there the gradient is zero. (The test-time gate
    of hard concrete, Louizos, Welling, Kingma, ICLR 2018, equation 13.)
    """
    del key
    low, high = STRETCH
    return jnp.clip(low + (high - low) * jax.nn.sigmoid(logits), 0.0, 1.0)


def straight_through(key: PRNGKey, logits: Float[Array, "n"]) -> Float[Array, "n"]:
    """The deterministic mask with the derivative of the probability; the key is not used.

    (Bengio, Leonard, Courville, arXiv 1308.3432.)
    """
    return _with_derivative(deterministic(key, logits), jax.nn.sigmoid(logits))


def gumbel_straight_through(
    key: PRNGKey, logits: Float[Array, "n"], *, temperature: ScalarLike = 1.0
) -> Float[Array, "n"]:
    """A sampled binary mask with the derivative of its relaxation.

    Two-class Gumbel-softmax, which is a sigmoid of logits plus logistic noise (Jang et al.,
    ICLR 2017, equation 1; straight-through, section 2.2). The derivative is biased.

    Args:
      key: consumed.
      logits: of the mask.
      temperature: of the relaxation.
    """
    noise = jax.random.logistic(key, logits.shape, logits.dtype)
    relaxed = jax.nn.sigmoid((logits + noise) / temperature)
    return _with_derivative((logits + noise > 0).astype(logits.dtype), relaxed)


def gumbel_rao(
    key: PRNGKey, logits: Float[Array, "n"], *, temperature: ScalarLike = 1.0, samples: int = 8
) -> Float[Array, "n"]:
    """:func:`gumbel_straight_through`, with its derivative averaged over noise that gives the mask.

    The derivative has the same mean and less variance (Paulus, Maddison, Krause, ICLR 2021). For
    two classes the noise, given the mask, is logistic and truncated at the threshold. It is drawn
    by its inverse distribution function.

    Args:
      key: consumed.
      logits: of the mask.
      temperature: of the relaxation.
      samples: number of draws that are averaged.
    """
    k_mask, k_noise = jax.random.split(key)
    keep = jax.nn.sigmoid(jax.lax.stop_gradient(logits))
    hard = jax.random.uniform(k_mask, logits.shape, logits.dtype) < keep
    u = jax.random.uniform(k_noise, (samples, *logits.shape), logits.dtype)
    # The rank of the noise, in (0, 1).
    rank = jnp.where(hard[None], 1.0 - keep[None] * u, (1.0 - keep)[None] * u)
    rank = jnp.clip(rank, 1e-6, 1.0 - 1e-6)
    noise = jnp.log(rank) - jnp.log1p(-rank)
    relaxed = jnp.mean(jax.nn.sigmoid((logits[None] + noise) / temperature), axis=0)
    return _with_derivative(hard.astype(logits.dtype), relaxed)


def reinmax(
    key: PRNGKey, logits: Float[Array, "n"], *, temperature: ScalarLike = 1.0
) -> Float[Array, "n"]:
    """A sampled binary mask with a derivative that is exact to second order.

    It uses Heun's method where straight-through uses Euler's (Liu et al., NeurIPS 2023,
    algorithm 2), here for two classes. The paper's method has temperature 1.

    Args:
      key: consumed.
      logits: of the mask.
      temperature: of the second evaluation.
    """
    constant = jax.lax.stop_gradient(logits)
    keep = jax.nn.sigmoid(logits)
    uniform = jax.random.uniform(key, logits.shape, logits.dtype)
    hard = (uniform < jax.nn.sigmoid(constant)).astype(logits.dtype)
    middle = jnp.clip(0.5 * (hard + jax.nn.sigmoid(constant / temperature)), 1e-6, 1.0 - 1e-6)
    second = jax.nn.sigmoid(jnp.log(middle) - jnp.log1p(-middle) - constant + logits)
    return _with_derivative(hard, 2.0 * second - 0.5 * keep)


ESTIMATORS: Registry[Callable[..., Array]] = Registry(
    "estimator",
    {
        "soft": soft,
        "gates": gates,
        "straight_through": straight_through,
        "gumbel_straight_through": gumbel_straight_through,
        "gumbel_rao": gumbel_rao,
        "reinmax": reinmax,
    },
)
"""All estimators for training, by the name that a configuration gives."""
EVALUATION_ESTIMATORS: Registry[Callable[..., Array]] = Registry(
    "estimator", {}, more={"deterministic": deterministic}
)
"""All estimators for evaluation: also one without a gradient."""


def has_temperature(estimator: Callable[..., Array]) -> bool:
    """Whether an estimator has an argument ``temperature``."""
    return "temperature" in inspect.signature(estimator).parameters


def by_name(name: PluginName, *, temperature: ScalarLike = 1.0) -> MaskEstimator:
    """The estimator of this name in :data:`ESTIMATORS`.

    Args:
      name: a key of :data:`ESTIMATORS`, or ``module:function``.
      temperature: of the estimators that have one; the others ignore it.
    """
    estimator = ESTIMATORS.find(name)
    if has_temperature(estimator):
        return partial(estimator, temperature=temperature)
    return estimator


def _with_derivative(value: Array, other: Array) -> Array:
    """``value``, with the derivative of ``other``."""
    return value + (other - jax.lax.stop_gradient(other))


class MaskDiagnostics(NamedTuple):
    """Figures that show whether a mask becomes empty, collapses, or stays undecided."""

    keep: Float[Array, ""]  # mean weight of the valid points
    effective: Float[Array, ""]  # effective number of points, (sum w)^2 / sum w^2
    spread_mm: Float[Array, ""]  # weighted RMS distance of the points from their mean
    entropy: Float[Array, ""]  # mean entropy of the keep probability, bits: 0 decided, 1 a coin


def diagnose(
    weights: Float[Array, "n"], logits: Float[Array, "n"], cloud: Cloud
) -> MaskDiagnostics:
    """The diagnostics of one mask.

    Args:
      weights: of the mask.
      logits: of the mask.
      cloud: the points under the mask.
    """
    points, valid = jnp.asarray(cloud.points), jnp.asarray(cloud.valid)
    w = jnp.where(valid, weights, 0.0)
    total, count = jnp.sum(w), jnp.maximum(jnp.sum(valid), 1).astype(w.dtype)
    share = w / jnp.maximum(total, 1e-9)
    apart = points - jnp.sum(share[:, None] * points, axis=0)[None]
    spread = jnp.sum(share * jnp.sum(apart * apart, axis=1))
    nats = jax.nn.softplus(logits) - logits * jax.nn.sigmoid(logits)
    return MaskDiagnostics(
        total / count,
        total * total / jnp.maximum(jnp.sum(w * w), 1e-9),
        jnp.sqrt(jnp.maximum(spread, 0.0)),
        jnp.sum(jnp.where(valid, nats, 0.0)) / count / jnp.log(2.0),
    )
