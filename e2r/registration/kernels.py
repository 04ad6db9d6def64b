"""Robust kernels: the weight of a point, by its squared distance and a scale in mm.

Each kernel has the type :data:`e2r.types.RobustKernel`. It is the weight of iteratively reweighted
least squares, in [0, 1], and 1 at distance zero (Zhang, "Parameter estimation techniques", 1997).
A kernel sees the mask weights too, but most ignore them.

To add one without editing e2r, use :func:`e2r.plugin`; e2r's own are listed in :data:`KERNELS`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from e2r.runtime.registry import Registry
from e2r.types import Array, Float, RobustKernel, ScalarLike


def welsch(
    square: Float[Array, "n"], weights: Float[Array, "n"], scale: ScalarLike
) -> Float[jax.Array, "n"]:
    """``exp(-d^2 / 2 s^2)``: smooth, and a far outlier weighs nothing."""
    return jnp.exp(-0.5 * square / (scale * scale))


def geman_mcclure(
    square: Float[Array, "n"], weights: Float[Array, "n"], scale: ScalarLike
) -> Float[jax.Array, "n"]:
    """``(1 + d^2 / s^2)^-2``: heavier tails than Welsch's."""
    return 1.0 / jnp.square(1.0 + square / (scale * scale))


def tukey(
    square: Float[Array, "n"], weights: Float[Array, "n"], scale: ScalarLike
) -> Float[jax.Array, "n"]:
    """Tukey's biweight: ``(1 - d^2 / c^2)^2`` within ``c = 3 s``, zero beyond."""
    return jnp.square(jnp.maximum(1.0 - square / (9.0 * scale * scale), 0.0))


def huber(
    square: Float[Array, "n"], weights: Float[Array, "n"], scale: ScalarLike
) -> Float[jax.Array, "n"]:
    """``min(1, s / d)``: an outlier pulls as hard as a point at the scale, never harder."""
    far = square > scale * scale
    return jnp.where(far, scale * jax.lax.rsqrt(jnp.where(far, square, 1.0)), 1.0)


def trimmed(
    square: Float[Array, "n"], weights: Float[Array, "n"], scale: ScalarLike, *, share: float = 0.7
) -> Float[jax.Array, "n"]:
    """1 for the nearest points up to ``share`` of the total mask weight, 0 for the rest.

    (Chetverikov et al., "Robust Euclidean alignment of 3D point sets", 2005.)

    Args:
      square: squared distances, mm^2.
      weights: mask weights.
      scale: not used.
      share: part of the total mask weight that is kept.
    """
    order = jnp.argsort(jnp.where(weights > 0, square, jnp.inf))
    cumulative = jnp.cumsum(weights[order])
    kept = cumulative - weights[order] < share * cumulative[-1]
    return jnp.zeros_like(square).at[order].set(kept.astype(square.dtype))


def constant(
    square: Float[Array, "n"], weights: Float[Array, "n"], scale: ScalarLike
) -> Float[jax.Array, "n"]:
    """Plain least squares: every point weighs 1."""
    return jnp.ones_like(square)


KERNELS: Registry[RobustKernel] = Registry(
    "kernel",
    {
        "welsch": welsch,
        "geman_mcclure": geman_mcclure,
        "tukey": tukey,
        "huber": huber,
        "trimmed": trimmed,
        "constant": constant,
    },
)
"""All robust kernels, by the name that a schedule gives."""
