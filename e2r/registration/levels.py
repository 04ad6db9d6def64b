"""One pose a level: each refines on its own evidence, held by its neighbours.

A spine on the table is not bent as it was in the scanner. After the whole model is registered, each
level takes damped steps on the scene points that are nearest to it, and is pulled towards where its
neighbours, moving rigidly, would carry it. A level without evidence follows them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from e2r.geometry import correspondences, poses
from e2r.registration import iterate, kernels, steps
from e2r.registration.schedule import Schedule
from e2r.types import Array, LevelPoses, MaskedCloud, Pose, Registration, Surface

LEVEL_STEPS = 20
LEVEL_SCALE = 2.5
"""Steps of the refinement of each level, and its first robust scale, mm."""


def register_levels(
    scene: MaskedCloud, surface: Surface, whole: Registration, centres: Array, schedule: Schedule
) -> LevelPoses:
    """One pose a level, if the spine is not bent as it was in the scan; else that of the whole.

    Args:
      scene, surface: as registered.
      whole: the whole model's registration by ``schedule``.
      centres: (L, 3) mm, middle of each level, see :func:`e2r.registration.levels.refine_levels`.
      schedule: its last scale is the levels' too.
    """
    last = schedule.last_scale_mm
    scales = iterate.annealed_scales(
        max(LEVEL_SCALE, last), last, LEVEL_STEPS, hold=LEVEL_STEPS // 3
    )
    scene = iterate.zero_nonfinite(scene)
    count = centres.shape[0]
    one = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), whole.pose)
    several, gain = cross_validate_levels(scene, surface, whole.pose, centres, scales)
    single = score_levels(scene, surface, one, scales[-1])
    bent = gain > MIN_BENDING_GAIN
    return jax.tree.map(lambda each, same: jnp.where(bent, each, same), several, single)


NEIGHBOUR_WEIGHT = 1.0
"""Weight of the neighbours' pull, in scene points."""
DAMPING_WEIGHT = 0.5
"""Weight that damps a level's step, in scene points."""
MIN_BENDING_GAIN = 1.05
"""The posture has changed when poses by level, refined without a point, explain it better than one
pose does: over all points, by so many times. A mask's errors repeat in both halves, so 1 is too
little: of 96 held-out frames in the scan's posture 10 % gain as much, of 40 bent ones 72 %."""
MIN_NEIGHBOUR_INLIERS = 0.01
"""Evidence, in scene points, that a neighbour with none counts."""


def refine_levels(
    scene: MaskedCloud,
    surface: Surface,
    start: Pose,
    centres: Array,
    scales: Array,
    *,
    hold: float = NEIGHBOUR_WEIGHT,
) -> LevelPoses:
    """Refines the pose of a whole model to one pose a level; differentiable.

    Args:
      scene: N points under their mask, camera frame.
      surface: the model.
      start: camera from model.
      centres: (L, 3) mm, middle of each level in the model frame, in any order: who is next to
        whom follows from their places along the spine. Rows of no level are not finite.
      scales: (K,) mm, robust scale of each step.
      hold: weight of the neighbours' pull, in scene points.
    """
    scene = iterate.zero_nonfinite(scene)
    real = jnp.isfinite(centres).all(axis=1)
    middles = jnp.where(real[:, None], centres, 0.0)
    count = middles.shape[0]
    index = jnp.arange(count)
    height = jnp.where(real, poses.apply(surface.canonical_from_model, middles)[:, 2], jnp.inf)
    rank = jnp.argsort(jnp.argsort(height))
    neighbour = (jnp.abs(rank[:, None] - rank) == 1) & real & real[:, None]

    zero = jnp.zeros(count, jnp.asarray(scene.points).dtype)

    def body(state: tuple[Pose, Array], scale: Array) -> tuple[tuple[Pose, Array], Array]:
        pose, evidence = state
        share = jnp.where(neighbour, evidence + MIN_NEIGHBOUR_INLIERS, 0.0)

        def one(level: Array, at: Pose, share: Array, middle: Array) -> tuple[Pose, Array]:
            anchor = _mean(pose, share, middle, at)
            queries = poses.apply_inverse(at, scene.points)
            own = correspondences.project(surface, queries).levels == level
            mine = scene._replace(weights=jnp.where(own, scene.weights, 0.0))
            moved = steps.symmetric(
                mine, surface, at, scale, prior=DAMPING_WEIGHT, anchor=anchor, hold=hold
            )
            return moved.pose, moved.inlier_weight

        return jax.vmap(one)(index, pose, share, middles), zero[0]

    begin = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), start)
    (pose, _), _ = jax.lax.scan(body, (begin, zero), jnp.asarray(scales, zero.dtype))
    return score_levels(scene, surface, pose, scales[-1])


def score_levels(scene: MaskedCloud, surface: Surface, pose: Pose, scale: Array) -> LevelPoses:
    """What each level explains where it is: its own points, by Welsch's kernel.

    Args:
      scene, surface: as registered.
      pose: leading axis L.
      scale: () mm.
    """

    def one(level: Array, at: Pose) -> LevelPoses:
        queries = poses.apply_inverse(at, scene.points)
        match = correspondences.project(surface, queries)
        square = jnp.sum(jnp.square(queries - match.points), axis=1)
        own = jnp.where(match.levels == level, scene.weights, 0.0)
        share = own * kernels.welsch(square, own, scale)
        total = jnp.sum(share)
        mean = jnp.sum(share * square) / jnp.maximum(total, 1e-6)
        return LevelPoses(at, total, jnp.sqrt(jnp.maximum(mean, 1e-12)))

    found: LevelPoses = jax.vmap(one)(jnp.arange(pose.translation.shape[0]), pose)
    return found


def cross_validate_levels(
    scene: MaskedCloud, surface: Surface, whole: Pose, centres: Array, scales: Array
) -> tuple[LevelPoses, Array]:
    """Poses by level, and how many times the points that one pose explains they explain.

    The latter by two-fold cross-validation: more freedom always explains more of the points it was
    fitted to, and where the posture is the scan's it explains fewer of the others.

    Args:
      scene: its points' order is random, as a cloud's is; each half is every other point.
      surface, centres, scales: as in :func:`refine_levels`.
      whole: the pose of the whole model, fitted to all points.
    """
    one = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(centres), *leaf.shape)), whole)
    last = scales[-1]
    odd = jnp.arange(scene.weights.shape[0]) % 2
    seen = jnp.stack([jnp.ones_like(odd), 1 - odd, odd]) * jnp.asarray(scene.weights)
    each = jax.lax.map(  # one after the other: compiled once
        lambda weights: (
            refine_levels(scene._replace(weights=weights), surface, whole, centres, scales).pose
        ),
        seen,
    )
    fitted = jax.tree.map(lambda leaf: leaf[0], each)
    asked = jax.tree.map(lambda several, a: jnp.concatenate([several[1:], a[None]]), each, one)
    unseen = jnp.stack([seen[2], seen[1], seen[0]])
    explained = jax.lax.map(
        lambda pair: (
            score_levels(scene._replace(weights=pair[1]), surface, pair[0], last).inlier_weight
        ),
        (asked, unseen),
    )
    apart, together = jnp.sum(explained[:2]), jnp.sum(explained[2])
    return score_levels(scene, surface, fitted, last), apart / jnp.maximum(together, 1.0)


def _mean(several: Pose, share: Array, point: Array, fallback: Pose) -> Pose:
    """The weighted mean of poses (leading axis L), as they move a point; or the fallback."""
    total = jnp.sum(share)
    share = share / jnp.where(total > 0, total, 1.0)
    turn = jnp.sum(share[:, None, None] * several.rotation, axis=0)
    turn = jnp.where(total > 0, turn, fallback.rotation)
    rotation = poses.nearby_rotation(turn)
    places = jax.vmap(lambda pose: poses.apply(pose, point))(several)
    place = jnp.sum(share[:, None] * places, axis=0)
    place = jnp.where(total > 0, place, poses.apply(fallback, point))
    moved = jnp.matmul(rotation, point, precision="highest")
    return Pose(rotation, place - moved)
