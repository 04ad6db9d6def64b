"""Arithmetic on lists of 3-vectors, one coordinate at a time.

Points are (..., 3) everywhere in e2r. A function splits them into three arrays, and joins those at
its end. Plain products and sums compile to loops that vectorise over the points on every back end;
products of tiny matrices do not.
"""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp

from e2r.types import Array, Float

Columns: TypeAlias = tuple[Array, Array, Array]
"""x, y and z of some vectors, each of the same shape (...)."""


def columns(vectors: Float[Array, "... 3"]) -> Columns:
    """Splits vectors into x, y and z. The transpose of a split is one concatenation."""
    x, y, z = jax.lax.split(vectors, (1, 1, 1), axis=vectors.ndim - 1)
    return x[..., 0], y[..., 0], z[..., 0]


def join(a: Columns) -> Float[jax.Array, "... 3"]:
    """Joins x, y and z to vectors."""
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


def scale(s: Array | float, a: Columns) -> Columns:
    """Multiples by ``s`` (...)."""
    return s * a[0], s * a[1], s * a[2]
