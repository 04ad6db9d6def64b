"""Robust kernels: how much a point counts, given its squared distance and a scale in mm."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from e2r.types import Array


def welsch(square: Array, scale: Array) -> jax.Array:
    """Welsch's weight ``exp(-d^2 / 2 s^2)``: an outlier ends with no say at all."""
    return jnp.exp(-0.5 * square / (scale * scale))


def geman_mcclure(square: Array, scale: Array) -> jax.Array:
    """Geman and McClure's weight ``(1 + d^2 / s^2)^-2``: heavier tails than Welsch's."""
    return 1.0 / jnp.square(1.0 + square / (scale * scale))


def constant(square: Array, scale: Array) -> jax.Array:
    """Plain least squares: every point counts in full."""
    return jnp.ones_like(square)
