"""Which points does the registration error reward, and does the derivative tell the truth?"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.types import Array, MaskObjective

NOTHING = 1e-4
"""Share of the largest effect; points that are said to have less, and have less, are not ranked."""


class Influence(NamedTuple):
    """What each of N points does to an error, to first order and exactly for R of them."""

    by_weight: Array  # (N,) d error / d weight
    by_logit: Array  # (N,) d error / d logit
    num_degenerate: Array  # (R,) the error with the point's weight at zero, less the error as it is
    added: Array  # (R,) the error with the point's weight at one, less the error as it is
    rank_correlation: Array  # () Spearman's, of the exact effects and weight change * by_weight


def influence(
    error: MaskObjective,
    logits: Array,
    rows: Array,
    *,
    mask: Callable[[Array], Array] = jax.nn.sigmoid,
    chunk: int = 64,
) -> Influence:
    """The derivative of an error beside leave-one-out (and put-one-in) by registering again.

    They agree as far as the error is smooth: nearly with soft correspondences, less where a point
    hops from triangle to triangle, or the cut derivative of the robust weight mattered.

    Args:
      error: of weights (N,).
      logits: (N,) of the mask.
      rows: (R,) points whose exact effect is asked for: two registrations each.
      mask: logits to weights in [0, 1]; a random one with its key bound.
      chunk: registrations at a time.
    """
    weights, back = jax.vjp(mask, logits)
    value, by_weight = jax.value_and_grad(error)(weights)
    (by_logit,) = back(by_weight)
    both = jnp.tile(rows, 2)
    values = jnp.repeat(jnp.array([0.0, 1.0], weights.dtype), rows.shape[0])
    exact = replaced(error, weights, both, values, chunk=chunk) - value
    expected = (values - weights[both]) * by_weight[both]
    matters = (jnp.abs(expected) > NOTHING * jnp.max(jnp.abs(expected))) | (
        jnp.abs(exact) > NOTHING * jnp.max(jnp.abs(exact))
    )
    dropped, added = jnp.split(exact, 2)
    return Influence(by_weight, by_logit, dropped, added, spearman(expected, exact, matters))


def replaced(
    error: MaskObjective, weights: Array, rows: Array, values: Array, *, chunk: int
) -> jax.Array:
    """The error (R,) after one weight has changed, for each of the rows in turn.

    Args:
      error: of weights (N,).
      weights: (N,) of the others.
      rows: (R,) which weight.
      values: (R,) what it becomes.
      chunk: errors at a time, by ``vmap``.
    """

    def one(change: tuple[Array, Array]) -> Array:
        row, value = change
        return error(weights.at[row].set(value))

    found: jax.Array = jax.lax.map(one, (rows, values), batch_size=chunk)
    return found


def spearman(a: Array, b: Array, use: Array) -> jax.Array:
    """Spearman's rank correlation () of the pairs in use; equal values share their mean rank.

    Args:
      a, b: (R,).
      use: (R,) bool; where all values in use are equal, the correlation is 0.
    """
    count = jnp.maximum(jnp.sum(use), 1)

    def ranks(values: Array) -> jax.Array:
        kept = jnp.where(use, values, jnp.inf)
        order = jnp.sort(kept)
        rank = 0.5 * (
            jnp.searchsorted(order, kept, side="left") + jnp.searchsorted(order, kept, side="right")
        ).astype(values.dtype)
        return jnp.where(use, rank - jnp.sum(jnp.where(use, rank, 0.0)) / count, 0.0)

    x, y = ranks(a), ranks(b)
    size = jnp.sqrt(jnp.sum(x * x) * jnp.sum(y * y))
    return jnp.where(size > 0, jnp.sum(x * y) / jnp.where(size > 0, size, 1.0), 0.0)
