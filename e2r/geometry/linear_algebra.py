"""Small symmetric matrices inverted in closed form: no LAPACK, so they compile for TPU and GPU."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from e2r.types import Array, Float


def inverse_3x3(m: Float[Array, "3 3"]) -> Float[jax.Array, "3 3"]:
    """Inverse of a well-conditioned symmetric 3x3 matrix, by cofactors."""
    xx, xy, xz, yy, yz, zz = m[0, 0], m[0, 1], m[0, 2], m[1, 1], m[1, 2], m[2, 2]
    c0, c1, c2 = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
    d1, d2, e2 = xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy
    over = 1.0 / (xx * c0 + xy * c1 + xz * c2)
    return over * jnp.stack([c0, c1, c2, c1, d1, d2, c2, d2, e2]).reshape(3, 3)


def inverse_6x6(m: Float[Array, "6 6"]) -> Float[jax.Array, "6 6"]:
    """Inverse of a symmetric positive definite 6x6 matrix, by its Schur complement."""
    a, b, d = m[:3, :3], m[:3, 3:], m[3:, 3:]
    d_inverse = inverse_3x3(d)
    bd = _matmul(b, d_inverse)
    top = inverse_3x3(a - _matmul(bd, b.T))
    side = -_matmul(top, bd)
    return jnp.block([[top, side], [side.T, d_inverse - _matmul(bd.T, side)]])


def _matmul(a: Array, b: Array) -> jax.Array:
    return jnp.matmul(a, b, precision="highest")
