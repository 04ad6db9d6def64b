"""Arithmetic on lists of 3-vectors, one coordinate at a time.

Points are (..., 3) everywhere in e2r. Inside a function they are taken apart into three arrays, and
put together at its end: plain multiplications and additions, without products of tiny matrices,
compile to loops that vectorise over the points on every back end.
"""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp

from e2r.types import Array

Columns: TypeAlias = tuple[Array, Array, Array]
"""x, y and z of some vectors, each of the same shape (...)."""


def columns(vectors: Array) -> Columns:
    """Takes (..., 3) apart; by a split, whose transpose is one concatenation."""
    x, y, z = jax.lax.split(vectors, (1, 1, 1), axis=vectors.ndim - 1)
    return x[..., 0], y[..., 0], z[..., 0]


def join(a: Columns) -> jax.Array:
    """Puts (..., 3) together."""
    return jnp.stack(a, axis=-1)


def dot(a: Columns, b: Columns) -> Array:
    """Inner products (...)."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Columns, b: Columns) -> Columns:
    """Cross products."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def add(a: Columns, b: Columns) -> Columns:
    """Sums."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def subtract(a: Columns, b: Columns) -> Columns:
    """Differences."""
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def scale(s: Array, a: Columns) -> Columns:
    """Multiples by ``s`` (...)."""
    return s * a[0], s * a[1], s * a[2]
