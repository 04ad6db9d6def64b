"""One pose a level: each level refines on its own points, and is held by its neighbours.

On the table a spine is bent differently than in the scanner. After the whole model is registered,
each level takes damped steps on the scene points that are nearest to it. It is pulled towards where
its neighbours would carry it if they moved rigidly. A level without points follows them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry import correspondences, poses
from e2r.registration import iterate, kernels, steps
from e2r.registration.schedule import Schedule
from e2r.types import Array, Float, LevelPoses, MaskedCloud, Pose, Registration, ScalarLike, Surface

LEVEL_STEPS = 20
"""Number of steps of each level's refinement."""
FIRST_LEVEL_SCALE_MM = 2.5
"""Robust scale of the first of these steps, if the last scale is not larger."""
NEIGHBOUR_WEIGHT = 4.0
"""Weight of the neighbours' pull, in scene points."""
DAMPING_WEIGHT = 0.5
"""Weight that damps a level's step, in scene points."""
MIN_BENDING_GAIN = 1.03
"""Gain in held-out inlier weight from which the spine counts as bent.

The gain compares poses by level, fitted without a point, with one pose at that point. A mask's
errors repeat in both halves of the points, so a gain of 1 is too little. To two digits, 24 frames
by another renderer in the scan's posture have 1.03 or less, and 18 of 23 bent ones 1.04 or more.
"""
MIN_NEIGHBOUR_INLIERS = 0.01
"""Inlier weight, in scene points, that a neighbour without points counts."""


def level_scales(last_scale_mm: float) -> Float[np.ndarray, "steps"]:
    """Robust scales of the levels' refinement, mm.

    Args:
      last_scale_mm: of the whole model's schedule; the levels end at the same scale.
    """
    first = max(FIRST_LEVEL_SCALE_MM, last_scale_mm)
    return iterate.annealed_scales(first, last_scale_mm, LEVEL_STEPS, hold=LEVEL_STEPS // 3)


def register_levels(
    cloud: MaskedCloud,
    surface: Surface,
    whole: Registration,
    *,
    centres: Float[Array, "l 3"],
    schedule: Schedule,
) -> LevelPoses:
    """One pose a level if the spine is bent differently than in the scan, else one pose for all.

    Args:
      cloud: scene points with their mask weights.
      surface: the model.
      whole: the whole model's registration by ``schedule``.
      centres: of the levels, mm, model frame, as in :func:`refine_levels`.
      schedule: of the whole model's registration; its last scale is the levels' too, and so is
        whether robust weights have a derivative.
    """
    scales = level_scales(schedule.last_scale_mm)
    cloud = iterate.zero_nonfinite(cloud)
    rigid = _repeat_pose(whole.pose, centres.shape[0])
    several, gain = cross_validate_levels(
        cloud,
        surface,
        whole.pose,
        centres=centres,
        scales=scales,
        detach_robust_weights=schedule.detach_robust_weights,
    )
    single = score_levels(cloud, surface, rigid, scale=scales[-1])
    bent = gain > MIN_BENDING_GAIN
    return jax.tree.map(lambda each, same: jnp.where(bent, each, same), several, single)


def refine_levels(
    cloud: MaskedCloud,
    surface: Surface,
    start: Pose,
    *,
    centres: Float[Array, "l 3"],
    scales: Float[Array, "steps"],
    neighbour_weight: float = NEIGHBOUR_WEIGHT,
    detach_robust_weights: bool = True,
) -> LevelPoses:
    """Refines one pose of the whole model to one pose a level; differentiable.

    Args:
      cloud: scene points with their mask weights.
      surface: the model.
      start: initial pose of every level, camera from model.
      centres: of the levels, mm, model frame, in any order: their places along the spine tell which
        levels are neighbours. Padded rows are not finite.
      scales: robust scale of each step, mm.
      neighbour_weight: weight of the neighbours' pull, in scene points.
      detach_robust_weights: cut the derivative of the robust weights; False keeps all, also of the
        inlier weight by which a level pulls its neighbours.
    """
    cloud = iterate.zero_nonfinite(cloud)
    real = jnp.isfinite(centres).all(axis=1)
    middles = jnp.where(real[:, None], centres, 0.0)
    count = middles.shape[0]
    index = jnp.arange(count, dtype=jnp.int32)
    height = jnp.where(real, poses.apply(surface.canonical_from_model, middles)[:, 2], jnp.inf)
    rank = jnp.argsort(jnp.argsort(height))
    neighbour = (jnp.abs(rank[:, None] - rank[None]) == 1) & real[None] & real[:, None]

    zero = jnp.zeros(count, jnp.asarray(cloud.points).dtype)

    def body(
        state: tuple[Pose, jax.Array], scale: jax.Array
    ) -> tuple[tuple[Pose, jax.Array], jax.Array]:
        several, inliers = state
        share = jnp.where(neighbour, (inliers + MIN_NEIGHBOUR_INLIERS)[None], 0.0)

        def one(level: Array, pose: Pose, share: Array, middle: Array) -> tuple[Pose, jax.Array]:
            carried = mean_pose(several, share, middle, fallback=pose)
            queries = poses.apply_inverse(pose, cloud.points)
            own = correspondences.project(surface, queries).levels == level
            result = steps.symmetric(
                cloud._replace(weights=jnp.where(own, cloud.weights, 0.0)),
                surface,
                pose,
                scale,
                prior=DAMPING_WEIGHT,
                anchor=steps.Anchor(carried, neighbour_weight),
                detach_robust_weights=detach_robust_weights,
            )
            return result.pose, jnp.asarray(result.inlier_weight)

        return jax.vmap(one)(index, several, share, middles), zero[0]

    state = (_repeat_pose(start, count), zero)
    (several, _), _ = jax.lax.scan(body, state, jnp.asarray(scales, zero.dtype))
    return score_levels(cloud, surface, several, scale=scales[-1])


def score_levels(
    cloud: MaskedCloud, surface: Surface, several: Pose, *, scale: ScalarLike
) -> LevelPoses:
    """Inlier weight and residual of each level's pose on the points nearest to the level.

    Args:
      cloud: scene points with their mask weights.
      surface: the model.
      several: camera from model, leading axis L.
      scale: of Welsch's kernel, mm.
    """

    def one(level: Array, pose: Pose) -> LevelPoses:
        queries = poses.apply_inverse(pose, cloud.points)
        match = correspondences.project(surface, queries)
        square = jnp.sum(jnp.square(queries - match.points), axis=1)
        own = jnp.where(match.levels == level, cloud.weights, 0.0)
        share = own * kernels.welsch(square, own, scale)
        total = jnp.sum(share)
        mean = jnp.sum(share * square) / jnp.maximum(total, 1e-6)
        return LevelPoses(pose, total, jnp.sqrt(jnp.maximum(mean, 1e-12)))

    found: LevelPoses = jax.vmap(one)(
        jnp.arange(several.translation.shape[0], dtype=jnp.int32), several
    )
    return found


def cross_validate_levels(
    cloud: MaskedCloud,
    surface: Surface,
    whole: Pose,
    *,
    centres: Float[Array, "l 3"],
    scales: Float[Array, "steps"],
    detach_robust_weights: bool = True,
) -> tuple[LevelPoses, Float[Array, ""]]:
    """Poses by level, and their gain in inlier weight over one pose, by two-fold cross-validation.

    Poses by level always explain more of the points they were fitted to. In the scan's posture they
    explain fewer of the others.

    Args:
      cloud: scene points with their mask weights, in random order; a half is every other point.
      surface: the model.
      whole: pose of the whole model, fitted to all points.
      centres: of the levels, mm, model frame, as in :func:`refine_levels`.
      scales: robust scale of each step, mm.
      detach_robust_weights: as in :func:`refine_levels`.
    """
    rigid = _repeat_pose(whole, len(centres))
    last = scales[-1]
    weights = jnp.asarray(cloud.weights)
    odd = jnp.arange(weights.shape[0]) % 2
    halves = jnp.stack([jnp.ones_like(odd), 1 - odd, odd])
    seen = halves.astype(weights.dtype) * weights[None]
    fitted = jax.lax.map(  # one after the other: compiled once
        lambda some: (
            refine_levels(
                cloud._replace(weights=some),
                surface,
                whole,
                centres=centres,
                scales=scales,
                detach_robust_weights=detach_robust_weights,
            ).pose
        ),
        seen,
    )
    by_all = jax.tree.map(lambda leaf: leaf[0], fitted)
    judged = jax.tree.map(lambda leaf, a: jnp.concatenate([leaf[1:], a[None]]), fitted, rigid)
    unseen = jnp.stack([seen[2], seen[1], seen[0]])
    explained = jax.lax.map(
        lambda pair: (
            score_levels(
                cloud._replace(weights=pair[1]), surface, pair[0], scale=last
            ).inlier_weight
        ),
        (judged, unseen),
    )
    by_level, by_one = jnp.sum(explained[:2]), jnp.sum(explained[2])
    gain = by_level / jnp.maximum(by_one, 1.0)
    return score_levels(cloud, surface, by_all, scale=last), gain


def _repeat_pose(pose: Pose, count: int) -> Pose:
    """The same pose for each level, leading axis L."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), pose)


def mean_pose(
    several: Pose, share: Float[Array, "l"], point: Float[Array, "3"], *, fallback: Pose
) -> Pose:
    """The weighted mean of poses, as they move a point.

    Args:
      several: camera from model, leading axis L; less than 90 degrees apart.
      share: weight of each.
      point: mm, model frame.
      fallback: returned where all weights are zero.
    """
    total = jnp.sum(share)
    share = share / jnp.where(total > 0, total, 1.0)
    matrix = jnp.sum(share[:, None, None] * several.rotation, axis=0)
    matrix = jnp.where(total > 0, matrix, fallback.rotation)
    rotation = poses.nearest_rotation(matrix)
    placed = jax.vmap(lambda pose: poses.apply(pose, point))(several)
    mean = jnp.sum(share[:, None] * placed, axis=0)
    mean = jnp.where(total > 0, mean, poses.apply(fallback, point))
    moved = jnp.matmul(rotation, point, precision="highest")
    return Pose(rotation, mean - moved)
