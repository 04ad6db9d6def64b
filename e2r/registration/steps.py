"""Registration steps: find correspondences, weigh them robustly, move the pose.

Every step has the type :data:`e2r.types.RegistrationStep`. Its policies (robust kernel,
correspondences, prior) are keyword arguments, bound with ``functools.partial``.

A prior damps each step towards the current pose: virtual model points of small total weight, which
are matched with themselves. So a scene without weights moves nothing, and no division is 0/0.

A step works in the model frame: the scene points move there, and the motion found is composed
behind the pose.

To add one without editing e2r, use :func:`e2r.plugin`; e2r's own are listed in :data:`STEPS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.geometry import correspondences, linear_algebra, poses, procrustes, vectors
from e2r.geometry.vectors import Columns
from e2r.registration import kernels
from e2r.runtime.registry import Registry
from e2r.types import (
    Array,
    CorrespondenceFn,
    Float,
    MaskedCloud,
    Pose,
    RobustKernel,
    ScalarLike,
    StepResult,
    Surface,
)

PRIOR = 1.0
"""Total weight of the virtual points, in scene points."""
LEVER = 30.0
"""Distance of the virtual points from the centroid, mm: about half a vertebra."""
TRACE = 1e-6
"""Weight, in scene points, that keeps the mean of an empty cloud defined and differentiable."""
ROUNDING = 2e-6
"""Relative damping of each direction beside the prior: the rounding error of single precision."""
FLATNESS = 1e-3
"""Generalised ICP: variance across a surface over the variance along it (Segal et al.)."""


class Anchor(NamedTuple):
    """A pose that pulls the model towards itself."""

    pose: Pose  # camera from model
    weight: ScalarLike  # in scene points


class _Pairs(NamedTuple):
    """Scene points and their correspondences, in the model frame."""

    points: Columns  # scene points, mm
    matches: Columns  # surface points, mm
    normals: Columns  # of the surface
    scene_normals: Columns
    share: Array  # (N,) mask weight times robust weight, over `size`
    size: Array  # () total weight and prior, detached; normalises weights as large as 1e30
    centre: Columns  # () weighted mean of the scene points
    residual: Array  # () mm
    inlier_weight: Array  # ()
    detach: bool  # cut the derivatives of robust weights and effective dof


def _find_pairs(
    cloud: MaskedCloud,
    surface: Surface,
    pose: Pose,
    scale: ScalarLike,
    *,
    kernel: RobustKernel,
    correspond: CorrespondenceFn,
    prior: float,
    detach: bool,
) -> _Pairs:
    """The correspondences of the cloud at a pose, with their robust weights."""
    queries = poses.apply_inverse(pose, cloud.points)
    match = correspond(surface, queries)
    points, matches = vectors.columns(queries), vectors.columns(match.points)
    apart = vectors.subtract(points, matches)
    square = vectors.dot(apart, apart)
    robust = kernel(square, _constant(cloud.weights, detach), scale)
    total = cloud.weights * _constant(robust, detach)
    moments = jnp.matmul(
        jnp.stack([*points, square, jnp.ones_like(square)]), total, precision="highest"
    )
    weight = moments[4] + TRACE
    fallback = surface.points[0]
    centre = tuple((moments[i] + TRACE * fallback[i]) / weight for i in range(3))
    mean = moments[3] / weight
    safe = jnp.where(mean > 0, mean, 1.0)
    size = jax.lax.stop_gradient(moments[4] + prior)  # it cancels: no pose depends on it
    size = jnp.where(size > 0, size, 1.0)
    return _Pairs(
        points,
        matches,
        vectors.columns(match.normals),
        poses.rotate_columns(pose.rotation.T, vectors.columns(jnp.asarray(cloud.normals))),
        total / size,
        size,
        centre,  # type: ignore[arg-type]
        jnp.where(mean > 0, jnp.sqrt(safe), 0.0),
        jnp.sum(cloud.weights * robust),
        detach,
    )


def _constant(value: Array, detach: bool) -> Array:
    return jax.lax.stop_gradient(value) if detach else value


def point_to_point(
    cloud: MaskedCloud,
    surface: Surface,
    pose: Pose,
    scale: ScalarLike,
    *,
    kernel: RobustKernel = kernels.welsch,
    correspond: CorrespondenceFn = correspondences.project,
    prior: float = PRIOR,
    detach_robust_weights: bool = True,
) -> StepResult:
    """Fits the scene points to their matches by weighted Procrustes (Besl and McKay, PAMI 1992).

    Args:
      cloud: scene points with their mask weights; padded points weigh zero.
      surface: the model.
      pose: camera from model.
      scale: of the robust kernel, mm.
      kernel: gives the robust weights.
      correspond: finds the surface point that each scene point is matched with.
      prior: total weight of the virtual points, in scene points.
      detach_robust_weights: cut the derivative of the robust weights and of the effective dof, as
        iteratively reweighted least squares does; False differentiates the whole step.
    """
    pairs = _find_pairs(
        cloud,
        surface,
        pose,
        scale,
        kernel=kernel,
        correspond=correspond,
        prior=prior,
        detach=detach_robust_weights,
    )
    held = prior / pairs.size
    points = vectors.subtract(pairs.points, pairs.centre)
    matches = vectors.subtract(pairs.matches, pairs.centre)
    # Moments of the pairs and of six virtual points around the centre.
    sums = jnp.matmul(
        jnp.stack([*vectors.scale(pairs.share, points), pairs.share]),
        jnp.stack([*matches, jnp.ones_like(pairs.share)]).T,
        precision="highest",
    )
    total = sums[3, 3] + held + TRACE / pairs.size
    from_mean, to_mean = sums[3, :3] / total, sums[:3, 3] / total
    anchors = held * LEVER**2 / 6.0 * jnp.eye(3, dtype=sums.dtype)
    covariance = sums[:3, :3] - total * to_mean[:, None] * from_mean[None] + anchors
    rotation = procrustes.rotation_from_covariance(covariance)
    moved = rotation @ from_mean
    move = poses.about(Pose(rotation, to_mean - moved), jnp.stack(pairs.centre))
    scatter = rotation.T @ covariance
    eye = jnp.eye(3, dtype=scatter.dtype)
    stiffness = (jnp.trace(scatter) * eye - 0.5 * (scatter + scatter.T)) / LEVER**2
    rounding = ROUNDING * jnp.trace(stiffness) + jnp.finfo(stiffness.dtype).tiny
    compliance = linear_algebra.inverse_3x3(stiffness + rounding * eye)
    held_rotations = (held / 3.0 + rounding) * jnp.trace(compliance)
    effective_dof = 6.0 - held_rotations - 3.0 * held / total
    return _result(pose, move, pairs, effective_dof)


def _result(pose: Pose, move: Pose, pairs: _Pairs, effective_dof: Array) -> StepResult:
    effective_dof = jnp.clip(_constant(effective_dof, pairs.detach), 0.0, 6.0)
    return StepResult(poses.compose(pose, move), pairs.residual, pairs.inlier_weight, effective_dof)


Directions = Callable[[Columns, Columns], list[tuple[Columns, float | Array]]]
"""(surface normals, scene normals) -> directions along which distances count, and their weights."""


def _gauss_newton(
    pose: Pose,
    pairs: _Pairs,
    directions: Directions,
    *,
    prior: float,
    symmetric: bool = False,
    anchor: Anchor | None = None,
) -> StepResult:
    """One damped Gauss-Newton step on the distances along the given directions.

    Args:
      pose: camera from model.
      pairs: the correspondences at that pose.
      directions: along which distances count.
      prior: total weight of the virtual points, in scene points.
      symmetric: take the lever at the middle between a point and its match; rotate by half the
        angle before the translation, and by half after it.
      anchor: pulls as the prior does, but towards another pose.
    """
    apart = vectors.subtract(pairs.points, pairs.matches)
    middle = pairs.points
    if symmetric:
        middle = vectors.subtract(middle, vectors.scale(0.5, apart))
    # Rotation columns in units of LEVER, so that all six unknowns are millimetres.
    lever = vectors.scale(1.0 / LEVER, vectors.subtract(middle, pairs.centre))
    blocks, weights = [], []
    for direction, factor in directions(pairs.normals, pairs.scene_normals):
        row = (*vectors.cross(lever, direction), *direction, vectors.dot(apart, direction))
        blocks.append(jnp.stack([jnp.broadcast_to(entry, pairs.share.shape) for entry in row]))
        weights.append(factor * pairs.share)
    rows, weight = jnp.concatenate(blocks, axis=1), jnp.concatenate(weights)
    gram = jnp.matmul(rows * weight[None], rows.T, precision="highest")
    normal, right = gram[:6, :6], gram[:6, 6]
    floor = prior / 3.0 / pairs.size + ROUNDING * jnp.trace(normal)
    floor = jnp.where(floor > 0, floor, 1.0)
    centre = jnp.stack(pairs.centre)
    if anchor is not None:
        pull = anchor.weight / 3.0 / pairs.size
        normal = normal + pull * jnp.eye(6, dtype=normal.dtype)
        right = right + pull * twist_between(pose, anchor.pose, centre)
    inverse = linear_algebra.inverse_6x6(normal + floor * jnp.eye(6, dtype=normal.dtype))
    update = jnp.matmul(inverse, right, precision="highest")
    if symmetric:
        turn = poses.about(
            Pose(poses.exp_rotation(0.5 / LEVER * update[:3]), jnp.zeros_like(centre)), centre
        )
        shift = Pose(turn.rotation, turn.translation + update[3:])
        move = poses.compose(turn, shift)
    else:
        move = poses.about(Pose(poses.exp_rotation(update[:3] / LEVER), update[3:]), centre)
    return _result(pose, move, pairs, 6.0 - floor * jnp.trace(inverse))


def apply_twist(pose: Pose, twist: Float[Array, "6"], centre: Float[Array, "3"]) -> Pose:
    """``pose`` after a small motion of the model.

    Args:
      pose: camera from model.
      twist: mm: rotation times :data:`LEVER`, then translation, in the model frame.
      centre: of the rotation, mm, model frame.
    """
    turn = poses.exp_rotation(twist[:3] / LEVER)
    return poses.compose(pose, poses.about(Pose(turn, twist[3:]), centre))


def twist_between(pose: Pose, other: Pose, centre: Float[Array, "3"]) -> Float[jax.Array, "6"]:
    """The twist of :func:`apply_twist` from a pose to another one nearby, to first order.

    Args:
      pose: camera from model.
      other: camera from model.
      centre: of the rotation, mm, model frame.
    """
    apart = jnp.matmul(pose.rotation.T, other.rotation, precision="highest")
    skew = 0.5 * (apart - apart.T)
    shift = poses.apply_inverse(pose, poses.apply(other, centre)) - centre
    turn = jnp.stack([skew[2, 1], skew[0, 2], skew[1, 0]])
    return jnp.concatenate([LEVER * turn, shift])


def point_to_plane(
    cloud: MaskedCloud,
    surface: Surface,
    pose: Pose,
    scale: ScalarLike,
    *,
    kernel: RobustKernel = kernels.welsch,
    correspond: CorrespondenceFn = correspondences.project,
    prior: float = PRIOR,
    detach_robust_weights: bool = True,
) -> StepResult:
    """Minimises distances to the model's tangent planes (Chen and Medioni, 1992).

    The arguments are those of :func:`point_to_point`.
    """
    pairs = _find_pairs(
        cloud,
        surface,
        pose,
        scale,
        kernel=kernel,
        correspond=correspond,
        prior=prior,
        detach=detach_robust_weights,
    )

    def normal(surface_normals: Columns, _: Columns) -> list[tuple[Columns, float | Array]]:
        return [(surface_normals, 1.0)]

    return _gauss_newton(pose, pairs, normal, prior=prior)


def symmetric(
    cloud: MaskedCloud,
    surface: Surface,
    pose: Pose,
    scale: ScalarLike,
    *,
    kernel: RobustKernel = kernels.welsch,
    correspond: CorrespondenceFn = correspondences.project,
    prior: float = PRIOR,
    detach_robust_weights: bool = True,
    anchor: Anchor | None = None,
) -> StepResult:
    """Minimises distances along the mean of both normals: exact to second order on curved surfaces.

    (Rusinkiewicz, "A symmetric objective function for ICP", SIGGRAPH 2019, equation 10.) The mean
    is not normalised, so pairs whose normals disagree count less. The arguments are those of
    :func:`point_to_point`, and an anchor that pulls the model.
    """
    pairs = _find_pairs(
        cloud,
        surface,
        pose,
        scale,
        kernel=kernel,
        correspond=correspond,
        prior=prior,
        detach=detach_robust_weights,
    )

    def mean(
        surface_normals: Columns, scene_normals: Columns
    ) -> list[tuple[Columns, float | Array]]:
        return [(vectors.scale(0.5, vectors.add(surface_normals, scene_normals)), 1.0)]

    return _gauss_newton(pose, pairs, mean, prior=prior, symmetric=True, anchor=anchor)


def generalised(
    cloud: MaskedCloud,
    surface: Surface,
    pose: Pose,
    scale: ScalarLike,
    *,
    kernel: RobustKernel = kernels.welsch,
    correspond: CorrespondenceFn = correspondences.project,
    prior: float = PRIOR,
    detach_robust_weights: bool = True,
    flatness: float = FLATNESS,
) -> StepResult:
    """Generalised ICP: both clouds are locally flat, with a small variance across the surface.

    (Segal, Haehnel, Thrun, "Generalized-ICP", RSS 2009.) The normals are n and m, the variances
    ``I - s n n^T`` and ``I - s m m^T`` with ``s = 1 - flatness``. The inverse of their sum is
    ``I/2 + (n+m)(n+m)^T / 4(a-c) + (n-m)(n-m)^T / 4(a+c)`` with ``a = 2/s - 1`` and ``c = n.m``.
    Here it is scaled so that a common normal counts 1.

    The arguments are those of :func:`point_to_point`, and the ``flatness``: the variance across a
    surface over the variance along it.
    """
    pairs = _find_pairs(
        cloud,
        surface,
        pose,
        scale,
        kernel=kernel,
        correspond=correspond,
        prior=prior,
        detach=detach_robust_weights,
    )
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

    return _gauss_newton(pose, pairs, both, prior=prior)


STEPS: Registry[Callable[..., StepResult]] = Registry(
    "step",
    {
        "point_to_point": point_to_point,
        "point_to_plane": point_to_plane,
        "symmetric": symmetric,
        "generalised": generalised,
    },
)
"""All registration steps, by the name that a schedule gives."""
