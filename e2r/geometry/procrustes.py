"""The rotation that best fits a 3x3 covariance, with its own derivative, and weighted Procrustes.

The solution is in closed form, without LAPACK, so it compiles for TPU and GPU. Everything is
written on the nine entries of the matrix, so that under ``vmap`` each operation runs along the
batch.

The forward pass finds the largest eigenvalue of Horn's 4x4 quaternion matrix by Newton's method on
its characteristic polynomial (Theobald, Acta Cryst. A61, 2005). It takes the eigenvector from the
adjugate, and polishes it on the rotation group.

The derivative uses that ``S = R^T H`` is symmetric at the optimum:
``(tr(S) I - S) w = vee(R^T dH - dH^T R)`` and ``dR = R hat(w)``. Its only singularity is
``s2 + sign(det H) s3 = 0``; there it is damped relative to the scale of ``H``.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from e2r.geometry import vectors
from e2r.geometry.vectors import Columns
from e2r.types import Array, Float, Pose

DAMPING = 1.0
"""Relative damping of the derivative, in units of the precision; it keeps gradients finite."""
NEWTON_STEPS = 11
"""Newton steps on the quartic. At a double root (an ambiguous reflection) each halves the error."""

Rows: TypeAlias = tuple[Columns, Columns, Columns]
"""A 3x3 matrix, entry by entry."""
Symmetric: TypeAlias = tuple[Array, Array, Array, Array, Array, Array]
"""A symmetric 3x3 matrix: xx, yy, zz, xy, xz, yz."""


class Fit(NamedTuple):
    """A weighted Procrustes solution."""

    pose: Pose
    gap: Float[Array, ""]  # in [0, 1], see :func:`gap`; near 0 the rotation is unreliable


def _rows(m: Array) -> Rows:
    entries = [part.reshape(()) for part in jax.lax.split(m.reshape(9), (1,) * 9)]
    return tuple(entries[:3]), tuple(entries[3:6]), tuple(entries[6:])  # type: ignore[return-value]


def _matrix(rows: Rows) -> jax.Array:
    return jnp.stack([entry for row in rows for entry in row]).reshape(3, 3)


def _transpose(a: Rows) -> Rows:
    return (
        (a[0][0], a[1][0], a[2][0]), (a[0][1], a[1][1], a[2][1]), (a[0][2], a[1][2], a[2][2]),
    )  # fmt: skip


def _transposed_product(a: Rows, b: Rows) -> Rows:
    """``A^T B``."""
    at, bt = _transpose(a), _transpose(b)
    i, j, k = ((vectors.dot(r, bt[0]), vectors.dot(r, bt[1]), vectors.dot(r, bt[2])) for r in at)
    return i, j, k


def _vee(m: Rows) -> Columns:
    """Twice the axial vector of a matrix's skew part."""
    return m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]


def _size(rows: Rows) -> tuple[Array, Array]:
    """The largest absolute entry (1 for a zero matrix), and its reciprocal."""
    biggest = jnp.zeros_like(rows[0][0])
    for row in rows:
        for entry in row:
            biggest = jnp.maximum(biggest, jnp.abs(entry))
    biggest = jnp.where(biggest > 0, biggest, jnp.ones_like(biggest))
    return biggest, 1.0 / biggest


def _scaled(rows: Rows, factor: Array) -> Rows:
    a, b, c = (vectors.scale(factor, row) for row in rows)
    return a, b, c


def _curvature(s: Rows) -> Symmetric:
    """``tr(S) I - sym(S)``: eigenvalues ``s_i + s_j``, signed, >= 0 at the best rotation."""
    return (
        s[1][1] + s[2][2], s[0][0] + s[2][2], s[0][0] + s[1][1],
        -0.5 * (s[0][1] + s[1][0]), -0.5 * (s[0][2] + s[2][0]), -0.5 * (s[1][2] + s[2][1]),
    )  # fmt: skip


def _quadratic(m: Symmetric, a: Columns) -> Array:
    """``a^T M a``."""
    x, y, z = a
    straight = m[0] * x * x + m[1] * y * y + m[2] * z * z
    return straight + 2.0 * (m[3] * x * y + m[4] * x * z + m[5] * y * z)


def _unit(a: Columns) -> Columns:
    """``a`` at length one; zero stays zero."""
    square = vectors.dot(a, a)
    return vectors.scale(jnp.where(square > 1e-30, jax.lax.rsqrt(square), 0.0), a)


def _solve(m: Symmetric, b: Columns, *, divide_late: bool = True) -> Columns:
    """Solves the damped symmetric 3x3 system by cofactors.

    On XLA's CPU back end a division ends a fused loop: the code before it runs once, not once for
    each entry of the result. So a value divides late, and a derivative divides early, because its
    transpose runs backwards.
    """
    trace = m[0] + m[1] + m[2]
    relative = DAMPING * jnp.finfo(trace.dtype).eps
    floor = jnp.where(trace > 1e-3, relative * trace, 1.0)  # the scale is 1 unless H is zero
    xx, yy, zz = m[0] + floor, m[1] + floor, m[2] + floor
    xy, xz, yz = m[3], m[4], m[5]
    c0, c1, c2 = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
    d1, d2, e2 = xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy
    det = xx * c0 + xy * c1 + xz * c2
    least = 1e-14 * (xx + yy + zz) ** 3  # away from the best, the matrix may be indefinite
    det = jnp.where(jnp.abs(det) > least, det, least)
    if not divide_late:
        b = _divided(b, det)
    v = (
        c0 * b[0] + c1 * b[1] + c2 * b[2],
        c1 * b[0] + d1 * b[1] + d2 * b[2],
        c2 * b[0] + d2 * b[1] + e2 * b[2],
    )
    return _divided(v, det) if divide_late else v


def _divided(a: Columns, by: Array) -> Columns:
    return a[0] / by, a[1] / by, a[2] / by


def _from_quaternion(w: Array, q: Columns) -> Rows:
    x, y, z = q
    xx, yy, zz = 2.0 * x * x, 2.0 * y * y, 2.0 * z * z
    xy, xz, yz = 2.0 * x * y, 2.0 * x * z, 2.0 * y * z
    wx, wy, wz = 2.0 * w * x, 2.0 * w * y, 2.0 * w * z
    return (
        (1.0 - yy - zz, xy - wz, xz + wy),
        (xy + wz, 1.0 - xx - zz, yz - wx),
        (xz - wy, yz + wx, 1.0 - xx - yy),
    )


def _largest_eigenvalue(h: Rows) -> Array:
    """The largest eigenvalue of Horn's matrix.

    It is the largest root of ``(x^2 - |H|^2)^2 - 8 det(H) x - 4 |cof H|^2``. In this form, not
    multiplied out, single precision suffices even if H is nearly of rank one.
    """
    square = sum(vectors.dot(row, row) for row in h)
    cofactors = (vectors.cross(h[1], h[2]), vectors.cross(h[2], h[0]), vectors.cross(h[0], h[1]))
    det = 8.0 * vectors.dot(h[0], cofactors[0])
    minors = 4.0 * sum(vectors.dot(row, row) for row in cofactors)
    x = jnp.sqrt(square + jnp.sqrt(minors + jnp.maximum(det, 0.0) * jnp.sqrt(3.0 * square)))
    tiny = jnp.finfo(x.dtype).tiny

    def newton(_: Array | int, x: Array) -> Array:
        # Newton comes from above, where the quartic is positive and rises. At a double root value
        # and slope are rounding noise, and the step is small or zero.
        bracket = x * x - square
        value = bracket * bracket - det * x - minors
        slope = jnp.maximum(4.0 * x * bracket - det, 1e-3 * square * x + tiny)
        return x - jnp.maximum(value, 0.0) / slope

    return jax.lax.fori_loop(0, NEWTON_STEPS, newton, x)


def _eigenvector(h: Rows, x: Array) -> tuple[Array, Columns]:
    """A quaternion in the kernel of Horn's matrix minus ``x I``: its adjugate's longest row."""
    skew = _vee(h)
    n = [
        [h[0][0] + h[1][1] + h[2][2] - x, skew[0], skew[1], skew[2]],
        [skew[0], h[0][0] - h[1][1] - h[2][2] - x, h[0][1] + h[1][0], h[0][2] + h[2][0]],
        [skew[1], h[0][1] + h[1][0], h[1][1] - h[0][0] - h[2][2] - x, h[1][2] + h[2][1]],
        [skew[2], h[0][2] + h[2][0], h[1][2] + h[2][1], h[2][2] - h[0][0] - h[1][1] - x],
    ]
    pairs = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    top = {p: n[0][p[0]] * n[1][p[1]] - n[0][p[1]] * n[1][p[0]] for p in pairs}
    low = {p: n[2][p[0]] * n[3][p[1]] - n[2][p[1]] * n[3][p[0]] for p in pairs}

    def row(minors: dict, r: list) -> list:
        """Signed 3x3 minors of one row ``r`` and the two rows whose 2x2 minors are given."""
        return [
            r[1] * minors[2, 3] - r[2] * minors[1, 3] + r[3] * minors[1, 2],
            -(r[0] * minors[2, 3] - r[2] * minors[0, 3] + r[3] * minors[0, 2]),
            r[0] * minors[1, 3] - r[1] * minors[0, 3] + r[3] * minors[0, 1],
            -(r[0] * minors[1, 2] - r[1] * minors[0, 2] + r[2] * minors[0, 1]),
        ]

    best, longest = [unit + 0.0 * x for unit in (1.0, 0.0, 0.0, 0.0)], jnp.zeros_like(x)
    for minors, r in ((low, n[1]), (low, n[0]), (top, n[3]), (top, n[2])):
        candidate = row(minors, r)
        length = sum(entry * entry for entry in candidate)
        better = length > longest
        best = [jnp.where(better, new, old) for new, old in zip(candidate, best, strict=True)]
        longest = jnp.where(better, length, longest)
    none = longest <= jnp.finfo(x.dtype).tiny
    over = jax.lax.rsqrt(jnp.where(none, 1.0, longest))
    w, x, y, z = (over * entry for entry in best)
    return jnp.where(none, 1.0, w), (x, y, z)


def _solve_rotation(h: Rows) -> Rows:
    h = _scaled(h, _size(h)[1])
    w, q = _eigenvector(h, _largest_eigenvalue(h))
    w, q = _polish_weak(h, w, q)
    return _from_quaternion(*_polish(h, w, q))


def _polish_weak(h: Rows, w: Array, q: Columns) -> tuple[Array, Columns]:
    """Turns to the exact maximum about the weakest axis, and takes a Newton step across it.

    About that axis the objective is ``along cos t + across sin t``, whose maximum is known.
    Newton's method alone could stay at the minimum if the objective is nearly flat.
    """
    s = _transposed_product(_from_quaternion(w, q), h)
    curvature, torque = _curvature(s), _vee(s)
    v = _solve(curvature, torque)
    axis = _unit(_solve(curvature, v))
    along, across = _quadratic(curvature, axis), vectors.dot(axis, torque)
    v = vectors.subtract(v, vectors.scale(vectors.dot(axis, v), axis))
    short = jnp.minimum(0.5, 0.1 * jax.lax.rsqrt(vectors.dot(v, v) + 1e-30))
    radius = jnp.sqrt(along * along + across * across)
    ahead = along >= 0
    flat = radius < 1e-12
    cosine = jnp.where(ahead, radius + along, jnp.abs(across)) + flat.astype(radius.dtype)
    sine = jnp.where(ahead, across, jnp.where(across < 0, along - radius, radius - along))
    step = vectors.add(vectors.scale(sine, axis), vectors.scale(short * cosine, v))
    return _turn(w, q, cosine, step)


def _polish(h: Rows, w: Array, q: Columns) -> tuple[Array, Columns]:
    """One step of Newton's method on the group: ``R <- R exp(v)``."""
    s = _transposed_product(_from_quaternion(w, q), h)
    v = vectors.scale(0.5, _solve(_curvature(s), _vee(s)))
    return _turn(w, q, 1.0, v)


def _turn(w: Array, q: Columns, cosine: Array | float, step: Columns) -> tuple[Array, Columns]:
    """The unit quaternion of ``(w, q)`` times ``(cosine, step)``."""
    turned = vectors.add(vectors.scale(cosine, q), vectors.scale(w, step))
    turned = vectors.add(turned, vectors.cross(q, step))
    w = cosine * w - vectors.dot(q, step)
    over = jax.lax.rsqrt(w * w + vectors.dot(turned, turned))
    return over * w, vectors.scale(over, turned)


@jax.custom_jvp
def rotation_from_covariance(h: Float[Array, "3 3"]) -> Float[jax.Array, "3 3"]:
    """The rotation ``R`` that maximises ``tr(R^T H)``: the orthogonal Procrustes solution.

    Args:
      h: covariance ``sum_i w_i y_i x_i^T`` of targets ``y`` and sources ``x``, of any scale.

    Returns:
      The rotation, ``y ~ R x`` with determinant +1; the identity for ``h = 0``. It has finite
      derivatives in forward and reverse mode. :func:`gap` tells where it is unreliable.
    """
    return _matrix(_solve_rotation(_rows(h)))


@rotation_from_covariance.defjvp
def _rotation_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (h,), (dh,) = primals, tangents
    rotation = rotation_from_covariance(h)
    r, rows = _rows(rotation), _rows(h)
    over = _size(rows)[1]
    s = _transposed_product(r, _scaled(rows, over))
    v = _solve(
        _curvature(s), _vee(_transposed_product(r, _scaled(_rows(dh), over))), divide_late=False
    )
    a, b, c = (vectors.cross(row, v) for row in r)  # row of R hat(v)
    return rotation, _matrix((a, b, c))


def gap(h: Float[Array, "3 3"], rotation: Float[Array, "3 3"]) -> Float[jax.Array, ""]:
    """Reliability of :func:`rotation_from_covariance`: ``(s2 + sign(det) s3) / (s1 + s2)``.

    Near zero the rotation is not determined: the points are collinear, or a reflection fits as
    well. Its gradient is then large and damped.

    Args:
      h: the covariance.
      rotation: the solution for it.

    Returns:
      A number in [0, 1]; 0 for ``h = 0``.
    """
    rows = _rows(h)
    s = _transposed_product(_rows(rotation), _scaled(rows, _size(rows)[1]))
    xx, yy, zz, xy, xz, yz = _curvature(s)
    # The smallest and largest eigenvalue of a symmetric 3x3 matrix, in closed form.
    mean = (xx + yy + zz) / 3.0
    a, b, c = xx - mean, yy - mean, zz - mean
    square = (a * a + b * b + c * c + 2.0 * (xy * xy + xz * xz + yz * yz)) / 6.0
    p = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    det = a * (b * c - yz * yz) - xy * (xy * c - yz * xz) + xz * (xy * yz - b * xz)
    cube = jnp.where(p > 0, p * p * p, 1.0)
    limit = 1.0 - 4.0 * float(jnp.finfo(p.dtype).eps)  # at 1 the derivative is infinite
    angle = jnp.arccos(jnp.clip(0.5 * det / cube, -limit, limit)) / 3.0
    big = mean + 2.0 * p * jnp.cos(angle)
    small = mean + 2.0 * p * jnp.cos(angle + 2.0 * jnp.pi / 3.0)
    return jnp.where(big > 0, jnp.clip(small / jnp.where(big > 0, big, 1.0), 0.0, 1.0), 0.0)


def procrustes(
    source: Float[Array, "n 3"], target: Float[Array, "n 3"], weights: Float[Array, "n"]
) -> Fit:
    """The rigid motion that best moves ``source`` onto ``target`` (weighted least squares).

    The covariance is **linear** in the weights (not ``w^2``, not ``sqrt(w)``). So a point of
    weight zero still has a gradient and can return. (Horn 1987; Kabsch 1976.)

    Args:
      source: mm.
      target: mm.
      weights: 0 or more; if all are zero, the rotation is the identity.
    """
    total = jnp.sum(weights)
    safe = jnp.where(total > 0, total, jnp.ones_like(total))
    share = weights / safe
    x, y = vectors.columns(source), vectors.columns(target)
    x_mean, y_mean = (
        (jnp.sum(share * a[0]), jnp.sum(share * a[1]), jnp.sum(share * a[2])) for a in (x, y)
    )
    x = vectors.subtract(x, x_mean)
    y = vectors.scale(share, vectors.subtract(y, y_mean))
    covariance = jnp.matmul(jnp.stack(y), jnp.stack(x).T, precision="highest")
    rotation = rotation_from_covariance(covariance)
    moved = (vectors.dot(row, x_mean) for row in _rows(rotation))
    translation = jnp.stack([to - at for to, at in zip(y_mean, moved, strict=True)])
    return Fit(Pose(rotation, translation), gap(covariance, rotation))
