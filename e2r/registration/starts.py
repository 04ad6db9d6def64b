"""Where a registration begins: many starts from a few guesses, and the choice among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.geometry import poses, procrustes
from e2r.types import Array, Pose, Registration, Surface


def shift_along_spine(guess: Pose, surface: Surface, shifts: Sequence[float]) -> Pose:
    """Each guess (leading axis G) and the same a little headwards or tailwards, (G * S, ...).

    Vertebrae repeat: a guess may be a level off, or between two.

    Args:
      guess: camera from model.
      surface: the model, whose anatomical frame knows the direction.
      shifts: mm towards the head.
    """
    cranial = surface.canonical_from_model.rotation[2]
    moves = jnp.asarray(shifts, guess.translation.dtype)[:, None] * cranial

    def moved(pose: Pose) -> Pose:
        return jax.vmap(
            lambda move: Pose(pose.rotation, pose.translation + poses.rotate(pose, move))
        )(moves)

    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.vmap(moved)(guess))


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


def perturb_hypotheses(parents: Pose, surface: Surface, pivot: Array) -> Pose:
    """Each pose (leading axis P) by each of :data:`HYPOTHESIS_MOVES`, (P * 8, ...): where else it may belong.

    Args:
      parents: camera from model.
      surface: the model, whose anatomical frame names the axes.
      pivot: (3,) mm in the camera frame, the middle of what is seen.
    """
    axes = surface.canonical_from_model.rotation
    moves = jnp.asarray(HYPOTHESIS_MOVES, parents.translation.dtype)

    def moved(pose: Pose) -> Pose:
        def one(move: Array) -> Pose:
            turn = poses.exp_rotation(jnp.deg2rad(move[1:]) @ axes)
            spin = poses.about(Pose(turn, jnp.zeros(3)), poses.apply_inverse(pose, pivot))
            return poses.compose(pose, Pose(spin.rotation, spin.translation + move[0] * axes[2]))

        return jax.vmap(one)(moves)

    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.vmap(moved)(parents))


def select_distinct(
    several: Pose, scores: Array, corners: Array, *, count: int, apart: float
) -> Pose:
    """The best ``count`` poses no two of which are the same, the best first.

    Args:
      several: leading axis S.
      scores: (S,) the higher the better.
      corners: (C, 3) mm, model points by whose mean distance poses are compared.
      count: at most S; where fewer differ, the best of the others fill up.
      apart: mm.
    """
    placed = jax.vmap(lambda pose: poses.apply(pose, corners))(several)

    def take(left: Array, _: None) -> tuple[Array, Array]:
        best = jnp.argmax(left)
        gap = jnp.mean(jnp.linalg.norm(placed - placed[best], axis=-1), axis=-1)
        worse = jnp.where(gap < apart, left - 1e6, left).at[best].set(-jnp.inf)
        return worse, best

    _, best = jax.lax.scan(take, scores, None, length=count)
    return jax.tree.map(lambda leaf: leaf[best], several)


class Choice(NamedTuple):
    """One of many registrations."""

    pose: Pose  # camera from model
    residual: Array  # () robust residual per point of the mask, in [0, 1]; of the chosen, or mean
    probabilities: Array  # (S,) how much each start counts


def choose(attempts: Registration, weights: Array, *, temperature: float | None = None) -> Choice:
    """Chooses among the registrations from many starts by their robust residuals.

    The robust residual of a result is the mask's weight minus its robust inlier mass, over the
    mask's weight. Without a temperature the smallest wins (for inference). With one, each start
    counts by a softmax over the residuals, and the pose is their mean (for training: its derivative
    reaches the mask also through the choice). A mean of poses far apart is no pose to use: let the
    temperature be small, or weigh the losses of the attempts by ``probabilities`` instead.

    Args:
      attempts: leading axis S.
      weights: (N,) the mask they were made with.
      temperature: of the softmax, in units of the residual.
    """
    residuals = 1.0 - attempts.inlier_weight / jnp.maximum(jnp.sum(weights), 1e-6)
    if temperature is None:
        best = jnp.argmin(residuals)
        pose = jax.tree.map(lambda leaf: leaf[best], attempts.pose)
        share = jax.nn.one_hot(best, residuals.shape[0], dtype=residuals.dtype)
        return Choice(pose, residuals[best], share)
    share = jax.nn.softmax(-residuals / temperature)
    mean = jnp.sum(share[:, None, None] * attempts.pose.rotation, axis=0)
    rotation = procrustes.rotation_from_covariance(mean)
    translation = jnp.sum(share[:, None] * attempts.pose.translation, axis=0)
    return Choice(Pose(rotation, translation), jnp.sum(share * residuals), share)
