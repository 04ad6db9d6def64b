"""Rigid motions: apply, compose, invert, exponential map, and 4x4 matrices.

Tangent vectors are ``(omega, v)``: three of rotation (radians), then three of translation (mm).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry import vectors
from e2r.types import Array, Float, Pose, PRNGKey, ScalarLike


def apply(pose: Pose, points: Float[Array, "... 3"]) -> Float[jax.Array, "... 3"]:
    """Moves points by a pose.

    Args:
      pose: the rigid motion.
      points: mm, in the frame that the pose maps from.
    """
    x, y, z = rotate_columns(pose.rotation, vectors.columns(jnp.asarray(points)))
    t = pose.translation
    return vectors.join((x + t[0], y + t[1], z + t[2]))


def rotate(pose: Pose, directions: Float[Array, "... 3"]) -> Float[jax.Array, "... 3"]:
    """Rotates direction vectors by a pose, which does not translate them."""
    return vectors.join(rotate_columns(pose.rotation, vectors.columns(jnp.asarray(directions))))


def apply_inverse(pose: Pose, points: Float[Array, "... 3"]) -> Float[jax.Array, "... 3"]:
    """Moves points by the inverse of a pose.

    Args:
      pose: the rigid motion.
      points: mm, in the frame that the pose maps to.
    """
    x, y, z = vectors.columns(jnp.asarray(points))
    t = pose.translation
    back = rotate_columns(pose.rotation.T, (x - t[0], y - t[1], z - t[2]))
    return vectors.join(back)


def apply_host(pose: Pose, points: Float[Array, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Moves points by a pose on the host, in float64: for files, figures and measures.

    Args:
      pose: the rigid motion.
      points: mm, of any precision, in the frame that the pose maps from.
    """
    rotation = np.asarray(pose.rotation, np.float64)
    moved: np.ndarray = np.asarray(points, np.float64) @ rotation.T
    return moved + np.asarray(pose.translation, np.float64)


def rotate_columns(rotation: Float[Array, "3 3"], a: vectors.Columns) -> vectors.Columns:
    """Rotates vectors that are given as three columns."""
    r = rotation
    return (
        r[0, 0] * a[0] + r[0, 1] * a[1] + r[0, 2] * a[2],
        r[1, 0] * a[0] + r[1, 1] * a[1] + r[1, 2] * a[2],
        r[2, 0] * a[0] + r[2, 1] * a[1] + r[2, 2] * a[2],
    )


def compose(a: Pose, b: Pose) -> Pose:
    """The motion ``a after b``."""
    rotation = jnp.matmul(a.rotation, b.rotation, precision="highest")
    return Pose(rotation, apply(a, b.translation))


def inverse(pose: Pose) -> Pose:
    """The motion that undoes ``pose``."""
    return Pose(pose.rotation.T, -jnp.matmul(pose.translation, pose.rotation, precision="highest"))


def about(pose: Pose, centre: Float[Array, "3"]) -> Pose:
    """The motion that does ``pose`` in coordinates whose origin is ``centre``.

    Args:
      pose: the rigid motion.
      centre: mm; where the translation is zero, the motion leaves it in place.
    """
    turned = jnp.matmul(pose.rotation, centre, precision="highest")
    return Pose(pose.rotation, pose.translation + centre - turned)


def identity(dtype: jnp.dtype = jnp.float32) -> Pose:
    """The motion that moves nothing."""
    return Pose(jnp.eye(3, dtype=dtype), jnp.zeros(3, dtype))


def hat(omega: Float[Array, "3"]) -> Float[jax.Array, "3 3"]:
    """The matrix of the cross product with ``omega``."""
    x, y, z = omega[0], omega[1], omega[2]
    o = jnp.zeros_like(x)
    return jnp.stack([jnp.stack([o, -z, y]), jnp.stack([z, o, -x]), jnp.stack([-y, x, o])])


def exp_rotation(omega: Float[Array, "3"]) -> Float[jax.Array, "3 3"]:
    """The rotation matrix of a rotation vector in radians (Rodrigues' formula).

    It is smooth at zero: ``sin(t)/t`` and ``(1 - cos t)/t^2`` switch to their Taylor series. The
    argument of the unused branch is made safe, so every derivative is finite there.
    """
    square = jnp.dot(omega, omega, precision="highest")
    small = square < 1e-6
    safe = jnp.where(small, jnp.ones_like(square), square)
    angle = jnp.sqrt(safe)
    a = jnp.where(small, 1.0 - square / 6.0, jnp.sin(angle) / angle)
    b = jnp.where(small, 0.5 - square / 24.0, (1.0 - jnp.cos(angle)) / safe)
    k = hat(omega)
    return jnp.eye(3, dtype=k.dtype) + a * k + b * jnp.matmul(k, k, precision="highest")


def nearest_rotation(matrix: Float[Array, "3 3"]) -> Float[jax.Array, "3 3"]:
    """The rotation nearest to a mean of rotations that are less than 90 degrees apart.

    Newton and Schulz's iteration for the polar factor (Higham, "Functions of Matrices", 2008,
    equation 8.20). The error squares at each step, so five steps reach rounding for rotations up
    to 45 degrees apart.

    Args:
      matrix: a convex combination of rotation matrices.
    """
    x = jnp.asarray(matrix)
    for _ in range(5):
        x = 1.5 * x - 0.5 * jnp.matmul(
            x, jnp.matmul(x.T, x, precision="highest"), precision="highest"
        )
    return x


def rotation_angle(rotation: Float[Array, "3 3"]) -> float:
    """The angle of a rotation matrix in radians, on the host in float64.

    By atan2, so it is exact at 0 and at 180 degrees.
    """
    r = np.asarray(rotation, np.float64)
    skew = r - r.T
    sine = 0.5 * np.linalg.norm([skew[2, 1], skew[0, 2], skew[1, 0]])
    return float(np.arctan2(sine, 0.5 * (np.trace(r) - 1.0)))


def perturb(
    key: PRNGKey, pose: Pose, centre: Float[Array, "3"], *, degrees: ScalarLike, mm: ScalarLike
) -> Pose:
    """``pose`` after a small random motion about ``centre``, in the camera frame.

    Args:
      key: consumed.
      pose: camera from model.
      centre: mm, camera frame; the rotation leaves it in place.
      degrees: standard deviation of each component of the rotation vector.
      mm: standard deviation of each component of the translation.
    """
    k_omega, k_shift = jax.random.split(key)
    dtype = jnp.result_type(pose.rotation)
    omega = jnp.deg2rad(degrees) * jax.random.normal(k_omega, (3,), dtype)
    shift = mm * jax.random.normal(k_shift, (3,), dtype)
    return compose(about(Pose(exp_rotation(omega), shift), centre), pose)


def to_matrix(pose: Pose) -> Float[np.ndarray, "4 4"]:
    """The 4x4 row-major matrix of ``pose``, float64, on the host."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(pose.rotation, np.float64)
    matrix[:3, 3] = np.asarray(pose.translation, np.float64)
    return matrix


def from_matrix(matrix: object, where: str) -> Pose:
    """Checks a 4x4 matrix from a user's file, and returns its pose, on the host.

    Args:
      matrix: anything that numpy reads as 4x4 numbers, row-major, translation in mm.
      where: file and field, for the error message.

    Raises:
      ValueError: the matrix is not 4x4 finite numbers, not rigid to 1e-4, or mirrored.
    """
    try:
        m = np.asarray(matrix, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where}: not a 4x4 matrix of numbers; write it row-major") from None
    if m.shape != (4, 4) or not np.isfinite(m).all():
        raise ValueError(f"{where}: shape {m.shape}, but a pose is 4x4 finite numbers, row-major")
    if np.abs(m[3] - [0.0, 0.0, 0.0, 1.0]).max() > 1e-6:
        raise ValueError(f"{where}: last row {m[3].tolist()}, not 0 0 0 1; is it transposed?")
    r = m[:3, :3]
    error = np.abs(r @ r.T - np.eye(3)).max()
    if error > 1e-4:
        scale = np.cbrt(abs(np.linalg.det(r)))
        raise ValueError(
            f"{where}: not rigid (R R^T is off by {error:.2g}, scale about {scale:.4g}); "
            "remove scale and shear from the matrix"
        )
    if np.linalg.det(r) < 0:
        raise ValueError(
            f"{where}: mirrored (determinant -1); model and camera differ in handedness, "
            "flip one axis of the model or of the matrix"
        )
    return Pose(np.asarray(r, np.float32), np.asarray(m[:3, 3], np.float32))
