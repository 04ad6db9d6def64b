"""Robust kernels: how much a point counts, given its squared distance and a scale in mm.

Each is the weight of iteratively reweighted least squares, in [0, 1] and 1 at distance zero, of the
type :data:`e2r.types.RobustKernel`. (Zhang, "Parameter estimation techniques", 1997.)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from e2r.types import Array


def welsch(square: Array, weights: Array, scale: Array) -> jax.Array:
    """``exp(-d^2 / 2 s^2)``: smooth, and an outlier ends with no say at all."""
    return jnp.exp(-0.5 * square / (scale * scale))


def geman_mcclure(square: Array, weights: Array, scale: Array) -> jax.Array:
    """``(1 + d^2 / s^2)^-2``: heavier tails than Welsch's."""
    return 1.0 / jnp.square(1.0 + square / (scale * scale))


def tukey(square: Array, weights: Array, scale: Array) -> jax.Array:
    """Tukey's biweight ``(1 - d^2 / c^2)^2`` within ``c``, nothing beyond, with ``c = 3 s``."""
    return jnp.square(jnp.maximum(1.0 - square / (9.0 * scale * scale), 0.0))


def huber(square: Array, weights: Array, scale: Array) -> jax.Array:
    """``min(1, s / d)``: an outlier pulls as hard as a point at the scale, never harder."""
    far = square > scale * scale
    return jnp.where(far, scale * jax.lax.rsqrt(jnp.where(far, square, 1.0)), 1.0)


def trimmed(square: Array, weights: Array, scale: Array, *, share: float = 0.7) -> jax.Array:
    """1 for the nearest ``share`` of the total weight, 0 for the rest; the scale plays no part.

    (Chetverikov et al., "Robust Euclidean alignment of 3D point sets", 2005.)
    """
    order = jnp.argsort(jnp.where(weights > 0, square, jnp.inf))
    before = jnp.cumsum(weights[order])
    kept = before <= share * before[-1]
    return jnp.zeros_like(square).at[order].set(kept.astype(square.dtype))


def constant(square: Array, weights: Array, scale: Array) -> jax.Array:
    """Plain least squares: every point counts in full."""
    return jnp.ones_like(square)
