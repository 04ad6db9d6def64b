"""The rotation nearest to a 3x3 covariance, with a derivative of its own, and weighted Procrustes.

Closed form, no LAPACK, so it compiles for TPU and GPU and batches under ``vmap``. The forward
pass finds the largest eigenvalue of Horn's 4x4 quaternion matrix by Newton's method on its
characteristic polynomial (Theobald, Acta Cryst. A61, 2005), takes the eigenvector from the
adjugate, and polishes on the rotation group. The derivative uses that ``R^T H`` is symmetric at
the optimum: with ``S = R^T H``, ``(tr(S) I - S) w = vee(R^T dH - dH^T R)`` and ``dR = R hat(w)``.
Its only singularity is ``s2 + sign(det H) s3 = 0``; there it is damped relative to the scale.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from e2r.geometry import poses
from e2r.types import Array, Pose

DAMPING = 8.0
"""Relative damping of the derivative, in units of the precision: finite gradients everywhere."""


def _matmul(a: Array, b: Array) -> jax.Array:
    return jnp.matmul(a, b, precision="highest")


def inverse_3x3(m: Array) -> jax.Array:
    """Inverse of a well-conditioned 3x3 matrix by cofactors."""
    a, b, c = m[0], m[1], m[2]
    cofactors = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)])
    return cofactors.T / jnp.sum(a * cofactors[0])


def _vee(m: Array) -> jax.Array:
    """Twice the axial vector of a matrix's skew part."""
    return jnp.stack([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]])


def _scale(h: Array) -> jax.Array:
    biggest = jnp.max(jnp.abs(h))
    return jnp.where(biggest > 0, biggest, jnp.ones_like(biggest))


def _curvature(rotation: Array, h: Array) -> jax.Array:
    """``tr(S) I - S``, ``S = sym(R^T H)``: eigenvalues ``s_i + s_j``, signed, >= 0 at the best."""
    s = _matmul(rotation.T, h)
    s = 0.5 * (s + s.T)
    return jnp.trace(s) * jnp.eye(3, dtype=h.dtype) - s


def _damped(curvature: Array) -> jax.Array:
    size = jnp.trace(curvature)
    relative = DAMPING * jnp.finfo(curvature.dtype).eps
    floor = jnp.where(size > 1e-3, relative * size, 1.0)  # the scale is 1 unless H is zero
    return curvature + floor * jnp.eye(3, dtype=curvature.dtype)


def _horn(h: Array) -> jax.Array:
    """Horn's symmetric, traceless 4x4 matrix for the rotation that maximises ``tr(R^T H)``."""
    skew = _vee(h)
    top = jnp.concatenate([jnp.trace(h)[None], skew])
    block = h + h.T - jnp.trace(h) * jnp.eye(3, dtype=h.dtype)
    return jnp.concatenate([top[None], jnp.concatenate([skew[:, None], block], 1)], 0)


def _from_quaternion(q: Array) -> jax.Array:
    k = poses.hat(q[1:])
    return jnp.eye(3, dtype=q.dtype) + 2.0 * q[0] * k + 2.0 * _matmul(k, k)


def _adjugate_4x4(m: Array) -> jax.Array:
    """Adjugate of a symmetric 4x4 matrix, from 2x2 minors."""
    rows = []
    for i in range(4):
        r = [k for k in range(4) if k != i]
        row = []
        for j in range(4):
            c = [k for k in range(4) if k != j]
            minor = (
                m[r[0], c[0]] * (m[r[1], c[1]] * m[r[2], c[2]] - m[r[1], c[2]] * m[r[2], c[1]])
                - m[r[0], c[1]] * (m[r[1], c[0]] * m[r[2], c[2]] - m[r[1], c[2]] * m[r[2], c[0]])
                + m[r[0], c[2]] * (m[r[1], c[0]] * m[r[2], c[1]] - m[r[1], c[1]] * m[r[2], c[0]])
            )
            row.append(minor if (i + j) % 2 == 0 else -minor)
        rows.append(jnp.stack(row))
    return jnp.stack(rows)


def _solve_rotation(h: Array) -> jax.Array:
    h = h / _scale(h)
    n = _horn(h)
    # Characteristic polynomial of the traceless N: x^4 + c2 x^2 + c1 x + c0.
    n2 = _matmul(n, n)
    c2 = -0.5 * jnp.trace(n2)
    c1 = -jnp.trace(_matmul(n2, n)) / 3.0
    c0 = 0.5 * c2 * c2 - 0.25 * jnp.trace(_matmul(n2, n2))
    x = jnp.sqrt(jnp.maximum(-1.5 * c2, 0.0))  # >= the largest root of a traceless quartic
    tiny = jnp.finfo(h.dtype).tiny
    for _ in range(12):
        value = ((x * x + c2) * x + c1) * x + c0
        slope = (4.0 * x * x + 2.0 * c2) * x + c1
        x = x - value / jnp.where(jnp.abs(slope) > tiny, slope, 1.0)
    adjugate = _adjugate_4x4(n - x * jnp.eye(4, dtype=h.dtype))
    size = jnp.sum(adjugate * adjugate, axis=1)
    q = adjugate[jnp.argmax(size)]
    length = jnp.sqrt(jnp.sum(q * q))
    unit = jnp.array([1.0, 0.0, 0.0, 0.0], h.dtype)
    q = jnp.where(length > tiny, q / jnp.where(length > tiny, length, 1.0), unit)
    q = q / jnp.sqrt(jnp.sum(q * q))
    for _ in range(2):  # Newton on the group: R <- R exp(w), with exp by a unit quaternion
        rotation = _from_quaternion(q)
        torque = _vee(_matmul(rotation.T, h))
        w = 0.5 * _matmul(inverse_3x3(_damped(_curvature(rotation, h))), torque)
        w = w / jnp.maximum(1.0, jnp.sqrt(jnp.sum(w * w)) / 0.2)  # far from it, a short step
        q = jnp.concatenate(
            [
                (q[0] - jnp.sum(q[1:] * w))[None],
                q[1:] + q[0] * w + jnp.cross(q[1:], w),
            ]
        )
        q = q / jnp.sqrt(jnp.sum(q * q))
    return _from_quaternion(q)


@jax.custom_jvp
def rotation_from_covariance(h: Array) -> jax.Array:
    """The rotation ``R`` that maximises ``tr(R^T H)``: the orthogonal Procrustes solution.

    Args:
      h: (3, 3) covariance ``sum_i w_i y_i x_i^T`` of targets ``y`` and sources ``x``; any scale.

    Returns:
      (3, 3), det = +1, ``y ~ R x``. Identity for ``h = 0``. Differentiable in forward and reverse
      mode and finite everywhere; see :func:`gap` for where it cannot be trusted.
    """
    return _solve_rotation(h)


@rotation_from_covariance.defjvp
def _rotation_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (h,), (dh,) = primals, tangents
    rotation = rotation_from_covariance(h)
    scale = _scale(h)
    inverse = inverse_3x3(_damped(_curvature(rotation, h / scale)))
    w = _matmul(inverse, _vee(_matmul(rotation.T, dh / scale)))
    return rotation, _matmul(rotation, poses.hat(w))


def gap(h: Array, rotation: Array) -> jax.Array:
    """Reliability of :func:`rotation_from_covariance`: ``(s2 + sign(det) s3) / (s1 + s2)``.

    In [0, 1]; near zero the rotation is not determined (collinear points, or a reflection that
    fits as well), its gradient large and damped. Zero for ``h = 0``.
    """
    c = _curvature(rotation, h / _scale(h))
    # c has eigenvalues s1+s2 >= s1+s3 >= s2+s3; the product of the last two over the square of
    # the first is cheap, but the smallest itself is what callers ask for: closed-form symmetric.
    mean = jnp.trace(c) / 3.0
    centred = c - mean * jnp.eye(3, dtype=c.dtype)
    p = jnp.sqrt(jnp.sum(centred * centred) / 6.0)
    safe = jnp.where(p > 0, p, 1.0)
    b = centred / safe
    half_det = 0.5 * jnp.sum(b[0] * jnp.cross(b[1], b[2]))
    angle = jnp.arccos(jnp.clip(half_det, -1.0, 1.0)) / 3.0
    big = mean + 2.0 * p * jnp.cos(angle)
    small = mean + 2.0 * p * jnp.cos(angle + 2.0 * jnp.pi / 3.0)
    return jnp.where(big > 0, jnp.clip(small / jnp.where(big > 0, big, 1.0), 0.0, 1.0), 0.0)


def procrustes(source: Array, target: Array, weights: Array) -> Pose:
    """The rigid motion that best moves ``source`` onto ``target`` (weighted least squares).

    The covariance is **linear** in the weights (not ``w^2``, not ``sqrt(w)``), so a point of
    weight zero still has a gradient and can return. (Horn 1987; Kabsch 1976.)

    Args:
      source, target: (N, 3) mm.
      weights: (N,) >= 0; all zero gives the identity rotation.
    """
    total = jnp.sum(weights)
    safe = jnp.where(total > 0, total, jnp.ones_like(total))
    share = weights / safe
    source_mean = jnp.sum(share[:, None] * source, axis=0)
    target_mean = jnp.sum(share[:, None] * target, axis=0)
    covariance = _matmul(
        (share[:, None] * (target - target_mean)).T,
        source - source_mean,
    )
    rotation = rotation_from_covariance(covariance)
    return Pose(rotation, target_mean - _matmul(rotation, source_mean))
