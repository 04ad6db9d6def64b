"""One registration step: match, weigh robustly, move the pose a little. ``State -> State``.

Every step has the type :data:`e2r.types.Step`; policies (robust kernel, correspondence, damping)
are keyword arguments, bound with ``functools.partial``. A prior toward the current pose damps
each step: virtual model points of small total weight that want to stay where they are. Hence no
evidence means no motion, and vanishing weights never meet a division 0/0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from e2r.geometry import poses, procrustes, surfaces
from e2r.registration import kernels
from e2r.types import Array, Correspond, Kernel, Match, Pose, Surface

PRIOR = 1.0
"""Total weight of the virtual points, in scene points."""
LEVER = 30.0
"""mm: their distance from the centroid; about half a vertebra."""
TRACE = 1e-6
"""Weight, in scene points, that keeps a mean of nothing defined and its gradient finite."""


def _evidence(
    points: Array,
    weights: Array,
    surface: Surface,
    pose: Pose,
    scale: Array,
    kernel: Kernel,
    correspond: Correspond,
) -> tuple[Match, Array, Array, Array]:
    """Matches in the camera frame, total weights (linear in the mask), residual, evidence."""
    match = correspond(surface, poses.apply_inverse(pose, points))
    match = Match(poses.apply(pose, match.points), poses.rotate(pose, match.normals))
    square = jnp.sum(jnp.square(points - match.points), axis=1)
    robust = jax.lax.stop_gradient(kernel(square, scale))
    total = weights * robust
    evidence = jnp.sum(total)
    mean = jnp.sum(total * square) / (evidence + TRACE)
    safe = jnp.where(mean > 0, mean, 1.0)
    return match, total, jnp.where(mean > 0, jnp.sqrt(safe), 0.0), evidence


def point_to_point(
    points: Array,
    weights: Array,
    surface: Surface,
    pose: Pose,
    scale: Array,
    *,
    kernel: Kernel = kernels.welsch,
    correspond: Correspond = surfaces.project,
    prior: float = PRIOR,
) -> tuple[Pose, Array, Array]:
    """Moves the model by weighted Procrustes onto its matches (Besl and McKay, PAMI 1992).

    Args:
      points: (N, 3) mm, camera frame.
      weights: (N,) mask weights in [0, 1]; zero where the cloud is padded.
      surface: the model.
      pose: camera from model.
      scale: () mm, of the robust kernel.
      kernel: robust weight of a squared distance; its derivative is cut.
      correspond: what a scene point is matched with.
      prior: total weight of the virtual points that hold the current pose.

    Returns:
      the next pose, the robust weighted RMS distance before the move (mm), and the evidence.
    """
    match, total, residual, evidence = _evidence(
        points, weights, surface, pose, scale, kernel, correspond
    )
    centre = _weighted_mean(match.points, total, evidence)
    arms = LEVER * jnp.sqrt(0.5) * jnp.concatenate([jnp.eye(3), -jnp.eye(3)]).astype(points.dtype)
    anchors = centre + arms
    move = procrustes.procrustes(
        jnp.concatenate([match.points, anchors]),
        jnp.concatenate([points, anchors]),
        jnp.concatenate([total, jnp.full(6, prior / 6.0, total.dtype)]),
    )
    return poses.compose(move, pose), residual, evidence


def point_to_plane(
    points: Array,
    weights: Array,
    surface: Surface,
    pose: Pose,
    scale: Array,
    *,
    kernel: Kernel = kernels.welsch,
    correspond: Correspond = surfaces.project,
    prior: float = PRIOR,
) -> tuple[Pose, Array, Array]:
    """One damped Gauss-Newton step on the distances to tangent planes (Chen and Medioni, 1992).

    Arguments and returns as in :func:`point_to_point`. The 6x6 normal equations are solved in
    closed form by 3x3 blocks.
    """
    match, total, residual, evidence = _evidence(
        points, weights, surface, pose, scale, kernel, correspond
    )
    centre = _weighted_mean(match.points, total, evidence)
    # Rotation columns in units of LEVER, so that all six unknowns are millimetres.
    arm = jnp.cross(match.points - centre, match.normals) / LEVER
    jacobian = jnp.concatenate([arm, match.normals], axis=1)
    error = jnp.sum((points - match.points) * match.normals, axis=1)
    weighted = total[:, None] * jacobian
    normal = jnp.matmul(weighted.T, jacobian, precision="highest")
    normal = normal + prior / 3.0 * jnp.eye(6, dtype=normal.dtype)
    size = jax.lax.stop_gradient(evidence + prior)  # both sides over it: 1e30 is a weight, too
    update = solve_6x6(normal / size, jnp.matmul((weighted / size).T, error, precision="highest"))
    move = Pose(poses.exp_rotation(update[:3] / LEVER), update[3:])
    return poses.compose(poses.about(move, centre), pose), residual, evidence


def _weighted_mean(points: Array, weights: Array, total: Array) -> Array:
    """Mean of the points by weight, which becomes the plain mean as the weights vanish."""
    even = TRACE / points.shape[0]
    return jnp.sum((weights + even)[:, None] * points, axis=0) / (total + TRACE)


def solve_6x6(matrix: Array, right: Array) -> Array:
    """Solves a symmetric positive definite 6x6 system by its Schur complement (no LAPACK)."""
    a, b, d = matrix[:3, :3], matrix[:3, 3:], matrix[3:, 3:]
    d_inverse = procrustes.inverse_3x3(d)
    bd = jnp.matmul(b, d_inverse, precision="highest")
    schur = a - jnp.matmul(bd, b.T, precision="highest")
    top = jnp.matmul(
        procrustes.inverse_3x3(schur),
        right[:3] - jnp.matmul(bd, right[3:], precision="highest"),
        precision="highest",
    )
    rest = right[3:] - jnp.matmul(b.T, top, precision="highest")
    return jnp.concatenate([top, jnp.matmul(d_inverse, rest, precision="highest")])
