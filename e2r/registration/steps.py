"""One registration step: match, weigh robustly, move the pose a little. ``State -> State``.

Every step has the type :data:`e2r.types.RegistrationStep`; policies (robust kernel, correspondence, damping)
are keyword arguments, bound with ``functools.partial``. A prior toward the current pose damps
each step: virtual model points of small total weight that want to stay where they are. Hence no
evidence means no motion, and vanishing weights never meet a division 0/0.

The work is done in the model's frame: the scene comes to the model, which is searched there, and
the motion found is put behind the pose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.geometry import correspondences, linear_algebra, poses, procrustes, vectors
from e2r.geometry.vectors import Columns
from e2r.registration import kernels
from e2r.types import Array, CorrespondenceFn, MaskedCloud, Pose, RobustKernel, StepResult, Surface

PRIOR = 1.0
"""Total weight of the virtual points, in scene points."""
LEVER = 30.0
"""mm: their distance from the centroid; about half a vertebra."""
TRACE = 1e-6
"""Weight, in scene points, that keeps a mean of nothing defined and its gradient finite."""
ROUNDING = 2e-6
"""Share of the evidence that damps each direction beside the prior: what single precision loses."""
FLATNESS = 1e-3
"""Generalised ICP: variance across a surface over the variance along it (Segal et al.)."""


class _Pairs(NamedTuple):
    """Scene points and what they are matched with, in the model's frame."""

    points: Columns  # scene points
    onto: Columns  # their matches
    normals: Columns  # the surface's normals there
    scene_normals: Columns
    share: Array  # (N,) weight times detached robust weight, over `size`
    size: Array  # () evidence and prior, detached: both sides over it, so that 1e30 is a weight
    centre: Columns  # () weighted mean of the scene points
    residual: Array  # () mm
    inlier_weight: Array  # ()


def _pairs(
    scene: MaskedCloud,
    surface: Surface,
    pose: Pose,
    scale: Array,
    kernel: RobustKernel,
    correspond: CorrespondenceFn,
    prior: float,
) -> _Pairs:
    queries = poses.apply_inverse(pose, scene.points)
    match = correspond(surface, queries)
    points, onto = vectors.columns(queries), vectors.columns(match.points)
    apart = vectors.subtract(points, onto)
    square = vectors.dot(apart, apart)
    robust = kernel(square, jax.lax.stop_gradient(scene.weights), scale)
    total = scene.weights * jax.lax.stop_gradient(robust)
    moments = jnp.matmul(
        jnp.stack([*points, square, jnp.ones_like(square)]), total, precision="highest"
    )
    weight = moments[4] + TRACE
    anywhere = surface.points[0]
    centre = tuple((moments[i] + TRACE * anywhere[i]) / weight for i in range(3))
    mean = moments[3] / weight
    safe = jnp.where(mean > 0, mean, 1.0)
    size = jax.lax.stop_gradient(moments[4] + prior)
    size = jnp.where(size > 0, size, 1.0)
    return _Pairs(
        points,
        onto,
        vectors.columns(match.normals),
        poses.rotate_columns(pose.rotation.T, vectors.columns(jnp.asarray(scene.normals))),
        total / size,
        size,
        centre,  # type: ignore[arg-type]
        jnp.where(mean > 0, jnp.sqrt(safe), 0.0),
        jnp.sum(scene.weights * robust),
    )


def point_to_point(
    scene: MaskedCloud,
    surface: Surface,
    pose: Pose,
    scale: Array,
    *,
    kernel: RobustKernel = kernels.welsch,
    correspond: CorrespondenceFn = correspondences.project,
    prior: float = PRIOR,
) -> StepResult:
    """Moves the model by weighted Procrustes onto its matches (Besl and McKay, PAMI 1992).

    Args:
      scene: points (N, 3) mm in the camera frame, their normals, and mask weights in [0, 1]; a
        weight is zero where the cloud is padded.
      surface: the model.
      pose: camera from model.
      scale: () mm, of the robust kernel.
      kernel: robust weight of a squared distance; its derivative is cut.
      correspond: what a scene point is matched with.
      prior: total weight of the virtual points that hold the current pose.
    """
    pairs = _pairs(scene, surface, pose, scale, kernel, correspond, prior)
    held = prior / pairs.size
    place = vectors.subtract(pairs.points, pairs.centre)
    onto = vectors.subtract(pairs.onto, pairs.centre)
    # Moments of the pairs and of six virtual points around the centre.
    sums = jnp.matmul(
        jnp.stack([*vectors.scale(pairs.share, place), pairs.share]),
        jnp.stack([*onto, jnp.ones_like(pairs.share)]).T,
        precision="highest",
    )
    all_ = sums[3, 3] + held + TRACE / pairs.size
    from_mean, to_mean = sums[3, :3] / all_, sums[:3, 3] / all_
    anchors = held * LEVER**2 / 6.0 * jnp.eye(3, dtype=sums.dtype)
    covariance = sums[:3, :3] - all_ * to_mean[:, None] * from_mean + anchors
    rotation = procrustes.rotation_from_covariance(covariance)
    moved = rotation @ from_mean
    move = poses.about(Pose(rotation, to_mean - moved), jnp.stack(pairs.centre))
    stiff = rotation.T @ covariance
    stiff = (jnp.trace(stiff) * jnp.eye(3, dtype=stiff.dtype) - 0.5 * (stiff + stiff.T)) / LEVER**2
    rounding = ROUNDING * jnp.trace(stiff) + jnp.finfo(stiff.dtype).tiny
    firm = linear_algebra.inverse_3x3(stiff + rounding * jnp.eye(3, dtype=stiff.dtype))
    loose = (held / 3.0 + rounding) * jnp.trace(firm)
    freedom = 6.0 - loose - 3.0 * held / all_
    return StepResult(
        poses.compose(pose, move), pairs.residual, pairs.inlier_weight, _still(freedom)
    )


Directions = Callable[[Columns, Columns], list[tuple[Columns, float | Array]]]
"""(surface normals, scene normals) -> directions in which a distance counts, and how much."""


def _gauss_newton(
    scene: MaskedCloud,
    surface: Surface,
    pose: Pose,
    scale: Array,
    directions: Directions,
    *,
    kernel: RobustKernel,
    correspond: CorrespondenceFn,
    prior: float,
    halves: bool = False,
    anchor: Pose | None = None,
    hold: float = 0.0,
) -> StepResult:
    """One damped Gauss-Newton step on the distances along the given directions.

    With ``halves``, the lever is the middle between a point and its match, and the model turns by
    half the angle before and half after it shifts. An ``anchor`` pulls with the weight ``hold``, in
    scene points, as the prior does towards where the model is.
    """
    pairs = _pairs(scene, surface, pose, scale, kernel, correspond, prior)
    apart = vectors.subtract(pairs.points, pairs.onto)
    middle = vectors.subtract(pairs.points, vectors.scale(0.5, apart)) if halves else pairs.points
    # Rotation columns in units of LEVER, so that all six unknowns are millimetres.
    lever = vectors.scale(1.0 / LEVER, vectors.subtract(middle, pairs.centre))
    blocks, weights = [], []
    for direction, much in directions(pairs.normals, pairs.scene_normals):
        row = (*vectors.cross(lever, direction), *direction, vectors.dot(apart, direction))
        blocks.append(jnp.stack([jnp.broadcast_to(entry, pairs.share.shape) for entry in row]))
        weights.append(much * pairs.share)
    rows, weight = jnp.concatenate(blocks, axis=1), jnp.concatenate(weights)
    gram = jnp.matmul(rows * weight, rows.T, precision="highest")
    normal, right = gram[:6, :6], gram[:6, 6]
    floor = prior / 3.0 / pairs.size + ROUNDING * jnp.trace(normal)
    floor = jnp.where(floor > 0, floor, 1.0)
    centre = jnp.stack(pairs.centre)
    if anchor is not None:
        pull = hold / 3.0 / pairs.size
        normal = normal + pull * jnp.eye(6, dtype=normal.dtype)
        right = right + pull * twist_between(pose, anchor, centre)
    inverse = linear_algebra.inverse_6x6(normal + floor * jnp.eye(6, dtype=normal.dtype))
    update = jnp.matmul(inverse, right, precision="highest")
    if halves:
        turn = poses.about(
            Pose(poses.exp_rotation(0.5 / LEVER * update[:3]), jnp.zeros_like(centre)), centre
        )
        shift = Pose(turn.rotation, turn.translation + update[3:])
        move = poses.compose(turn, shift)
    else:
        move = poses.about(Pose(poses.exp_rotation(update[:3] / LEVER), update[3:]), centre)
    freedom = 6.0 - floor * jnp.trace(inverse)
    return StepResult(
        poses.compose(pose, move), pairs.residual, pairs.inlier_weight, _still(freedom)
    )


def apply_twist(pose: Pose, nudge: Array, centre: Array) -> Pose:
    """``pose`` after a small motion of the model about ``centre``; ``nudge`` is (6,) in mm."""
    turn = poses.exp_rotation(nudge[:3] / LEVER)
    return poses.compose(pose, poses.about(Pose(turn, nudge[3:]), centre))


def twist_between(pose: Pose, other: Pose, centre: Array) -> jax.Array:
    """The ``nudge`` (6,) that leads from ``pose`` to a pose nearby, to first order."""
    apart = jnp.matmul(pose.rotation.T, other.rotation, precision="highest")
    skew = 0.5 * (apart - apart.T)
    shift = poses.apply_inverse(pose, poses.apply(other, centre)) - centre
    turn = jnp.stack([skew[2, 1], skew[0, 2], skew[1, 0]])
    return jnp.concatenate([LEVER * turn, shift])


def _still(effective_dof: Array) -> jax.Array:
    return jnp.clip(jax.lax.stop_gradient(effective_dof), 0.0, 6.0)


def point_to_plane(
    scene: MaskedCloud,
    surface: Surface,
    pose: Pose,
    scale: Array,
    *,
    kernel: RobustKernel = kernels.welsch,
    correspond: CorrespondenceFn = correspondences.project,
    prior: float = PRIOR,
) -> StepResult:
    """Distances to tangent planes of the model (Chen and Medioni, 1992).

    Arguments as in :func:`point_to_point`.
    """

    def normal(surface_normals: Columns, _: Columns) -> list[tuple[Columns, float | Array]]:
        return [(surface_normals, 1.0)]

    return _gauss_newton(
        scene, surface, pose, scale, normal, kernel=kernel, correspond=correspond, prior=prior
    )


def symmetric(
    scene: MaskedCloud,
    surface: Surface,
    pose: Pose,
    scale: Array,
    *,
    kernel: RobustKernel = kernels.welsch,
    correspond: CorrespondenceFn = correspondences.project,
    prior: float = PRIOR,
    anchor: Pose | None = None,
    hold: float = 0.0,
) -> StepResult:
    """Distances along the mean of both normals: exact to second order on a curved surface.

    Rusinkiewicz, "A symmetric objective function for ICP", SIGGRAPH 2019, equation 10; the mean is
    not made unit, so that pairs whose normals disagree count less. Arguments as in
    :func:`point_to_point`; an ``anchor`` is a pose that pulls with the weight ``hold``, in scene
    points.
    """

    def mean(
        surface_normals: Columns, scene_normals: Columns
    ) -> list[tuple[Columns, float | Array]]:
        return [(vectors.scale(0.5, vectors.add(surface_normals, scene_normals)), 1.0)]

    return _gauss_newton(
        scene,
        surface,
        pose,
        scale,
        mean,
        kernel=kernel,
        correspond=correspond,
        prior=prior,
        halves=True,
        anchor=anchor,
        hold=hold,
    )


def generalised(
    scene: MaskedCloud,
    surface: Surface,
    pose: Pose,
    scale: Array,
    *,
    kernel: RobustKernel = kernels.welsch,
    correspond: CorrespondenceFn = correspondences.project,
    prior: float = PRIOR,
    flatness: float = FLATNESS,
) -> StepResult:
    """Generalised ICP: both clouds are locally flat, with a little variance across.

    Segal, Haehnel, Thrun, "Generalized-ICP", RSS 2009. With normals n and m and variances
    ``I - s n n^T`` and ``I - s m m^T``, ``s = 1 - flatness``, the inverse of their sum is
    ``I/2 + (n+m)(n+m)^T / 4(a-c) + (n-m)(n-m)^T / 4(a+c)`` with ``a = 2/s - 1`` and ``c = n.m``;
    here it is scaled so that the common normal counts 1. Arguments as in :func:`point_to_point`,
    and the variance across a surface over that along it.
    """
    s = 1.0 - flatness
    a = 2.0 / s - 1.0
    whole = 1.0 / (0.5 + 1.0 / (a - 1.0))

    def both(
        surface_normals: Columns, scene_normals: Columns
    ) -> list[tuple[Columns, float | Array]]:
        c = jnp.clip(vectors.dot(surface_normals, scene_normals), -1.0, 1.0)
        one, none = jnp.ones_like(c), jnp.zeros_like(c)
        return [
            ((one, none, none), 0.5 * whole),
            ((none, one, none), 0.5 * whole),
            ((none, none, one), 0.5 * whole),
            (vectors.add(surface_normals, scene_normals), 0.25 * whole / (a - c)),
            (vectors.subtract(surface_normals, scene_normals), 0.25 * whole / (a + c)),
        ]

    return _gauss_newton(
        scene, surface, pose, scale, both, kernel=kernel, correspond=correspond, prior=prior
    )
