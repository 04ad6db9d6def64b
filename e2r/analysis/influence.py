"""Which points does the registration error reward, and does its derivative tell the truth?"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.types import Array, Bool, Float, Int, MaskObjective

NEGLIGIBLE = 1e-4
"""Share of the largest effect. Points with smaller effects, estimated and exact, are not ranked."""


class Influence(NamedTuple):
    """The effect of each of N points on an error, to first order, and exactly for R of them."""

    by_weight: Float[Array, "n"]  # d error / d weight
    by_logit: Float[Array, "n"]  # d error / d logit
    removed: Float[Array, "r"]  # change of the error if the point's weight becomes zero
    added: Float[Array, "r"]  # change of the error if the point's weight becomes one
    rank_correlation: Float[Array, ""]  # Spearman's, of the estimated and the exact changes


def influence(
    error: MaskObjective,
    logits: Float[Array, "n"],
    rows: Int[Array, "r"],
    *,
    mask: Callable[[Float[Array, "n"]], Float[Array, "n"]] = jax.nn.sigmoid,
    chunk: int = 64,
) -> Influence:
    """Compares the derivative of an error with the effect of removing and adding single points.

    They agree as far as the error is smooth: nearly so with soft correspondences. They agree less
    where a point changes its triangle, and where the derivative of the robust weight, which is
    cut, matters.

    Args:
      error: of the weights.
      logits: of the mask.
      rows: points whose exact effect is computed, by two registrations each.
      mask: logits to weights in [0, 1]; a random mask has its key bound.
      chunk: registrations at a time.
    """
    weights, to_logits = jax.vjp(mask, logits)
    value, by_weight = jax.value_and_grad(error)(weights)
    (by_logit,) = to_logits(by_weight)
    both = jnp.tile(rows, 2)
    values = jnp.repeat(jnp.array([0.0, 1.0], weights.dtype), rows.shape[0])
    exact = errors_with_one_weight_replaced(error, weights, rows=both, values=values, chunk=chunk)
    exact = exact - value
    estimated = (values - weights[both]) * by_weight[both]
    matters = (jnp.abs(estimated) > NEGLIGIBLE * jnp.max(jnp.abs(estimated))) | (
        jnp.abs(exact) > NEGLIGIBLE * jnp.max(jnp.abs(exact))
    )
    removed, added = jnp.split(exact, 2)
    return Influence(
        by_weight, by_logit, removed, added, rank_correlation(estimated, exact, matters)
    )


def errors_with_one_weight_replaced(
    error: MaskObjective,
    weights: Float[Array, "n"],
    *,
    rows: Int[Array, "r"],
    values: Float[Array, "r"],
    chunk: int,
) -> Float[jax.Array, "r"]:
    """The error with one weight replaced, for each of the rows in turn.

    Args:
      error: of the weights.
      weights: all others stay at these.
      rows: which weight is replaced.
      values: what it is replaced by.
      chunk: errors at a time, by ``vmap``.
    """

    def one(change: tuple[Array, Array]) -> Array:
        row, value = change
        return error(jnp.asarray(weights).at[row].set(value))

    errors: jax.Array = jax.lax.map(one, (rows, values), batch_size=chunk)
    return errors


def rank_correlation(
    a: Float[Array, "r"], b: Float[Array, "r"], use: Bool[Array, "r"]
) -> Float[jax.Array, ""]:
    """Spearman's rank correlation of some pairs; equal values share their mean rank.

    Args:
      a: first value of each pair.
      b: second value of each pair.
      use: pairs that count; where all of their values are equal, the correlation is 0.
    """
    a, b = jnp.asarray(a), jnp.asarray(b)
    count = jnp.maximum(jnp.sum(use), 1).astype(a.dtype)

    def centred_ranks(values: Array) -> jax.Array:
        kept = jnp.where(use, values, jnp.inf)
        order = jnp.sort(kept)
        rank = 0.5 * (
            jnp.searchsorted(order, kept, side="left") + jnp.searchsorted(order, kept, side="right")
        ).astype(values.dtype)
        return jnp.where(use, rank - jnp.sum(jnp.where(use, rank, 0.0)) / count, 0.0)

    x, y = centred_ranks(a), centred_ranks(b)
    size = jnp.sqrt(jnp.sum(x * x) * jnp.sum(y * y))
    return jnp.where(size > 0, jnp.sum(x * y) / jnp.where(size > 0, size, 1.0), 0.0)
