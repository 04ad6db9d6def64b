"""Initial poses of the global search, made from other poses, and the selection among them."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from e2r.geometry import poses
from e2r.types import Array, Float, Pose, Surface


def shift_along_spine(several: Pose, surface: Surface, shifts: Sequence[float]) -> Pose:
    """Each pose (leading axis P), shifted along the spine by each shift: leading axis P * S.

    Vertebrae repeat, so a coarse pose may be a level off, or between two levels.

    Args:
      several: camera from model.
      surface: the model, whose canonical frame gives the direction.
      shifts: mm towards the head.
    """
    cranial = surface.canonical_from_model.rotation[2]
    moves = jnp.asarray(shifts, several.translation.dtype)[:, None] * cranial[None]

    def shifted(pose: Pose) -> Pose:
        return jax.vmap(
            lambda move: Pose(pose.rotation, pose.translation + poses.rotate(pose, move))
        )(moves)

    return merge_axes(jax.vmap(shifted)(several))


HYPOTHESIS_MOVES = (
    (-35.0, 0.0, 0.0, 0.0),
    (35.0, 0.0, 0.0, 0.0),
    (-17.0, 0.0, 0.0, 0.0),
    (17.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 0.0, -22.0),
    (0.0, 0.0, 0.0, 22.0),
    (0.0, -18.0, 0.0, 0.0),
    (0.0, 18.0, 0.0, 0.0),
)
"""mm towards the head; degrees about the left, the posterior and the cranial axis."""


def perturb_hypotheses(parents: Pose, surface: Surface, pivot: Float[Array, "3"]) -> Pose:
    """Each pose (leading axis P), moved by each of :data:`HYPOTHESIS_MOVES`: leading axis P * 8.

    Args:
      parents: camera from model.
      surface: the model, whose canonical frame gives the axes.
      pivot: centre of the rotations, mm, camera frame.
    """
    axes = surface.canonical_from_model.rotation
    moves = jnp.asarray(HYPOTHESIS_MOVES, parents.translation.dtype)

    def moved(pose: Pose) -> Pose:
        def one(move: Array) -> Pose:
            turn = poses.exp_rotation(jnp.deg2rad(move[1:]) @ axes)
            spin = poses.about(Pose(turn, jnp.zeros(3)), poses.apply_inverse(pose, pivot))
            return poses.compose(pose, Pose(spin.rotation, spin.translation + move[0] * axes[2]))

        return jax.vmap(one)(moves)

    return merge_axes(jax.vmap(moved)(parents))


def select_distinct(
    several: Pose,
    scores: Float[Array, "s"],
    probes: Float[Array, "c 3"],
    *,
    count: int,
    min_distance_mm: float,
) -> Pose:
    """The ``count`` best poses that differ from each other, the best first.

    Args:
      several: leading axis S.
      scores: one a pose, the higher the better.
      probes: model points, mm; the distance of two poses is their mean distance at these.
      count: at most S; if fewer poses differ, the best of the others follow.
      min_distance_mm: poses nearer to each other than this are the same.
    """
    placed = jax.vmap(lambda pose: poses.apply(pose, probes))(several)

    def take(left: Array, _: None) -> tuple[Array, Array]:
        best = jnp.argmax(left)
        distance = jnp.mean(jnp.linalg.norm(placed - placed[best][None], axis=-1), axis=-1)
        worse = jnp.where(distance < min_distance_mm, left - 1e6, left).at[best].set(-jnp.inf)
        return worse, best

    _, best = jax.lax.scan(take, scores, None, length=count)
    return jax.tree.map(lambda leaf: leaf[best], several)


def merge_axes(several: Pose) -> Pose:
    """Merges the two leading axes to one."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), several)
