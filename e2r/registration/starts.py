"""Where a registration begins: crude automatic starts, and the choice among many."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry import poses, procrustes
from e2r.types import Array, Pose, Registration, Surface

ROLLS = 12
SHIFTS = (-50.0, -25.0, 0.0, 25.0, 50.0)
DEPTHS = (10.0, 30.0)
"""mm: how far behind the visible bone the middle of the model may lie."""


def principal_axes(points: Array, weights: Array) -> tuple[jax.Array, jax.Array]:
    """Weighted centroid (3,) and axes (3, 3) as rows, longest first, right-handed.

    For inference: the eigenvectors come from LAPACK on the CPU.
    """
    total = jnp.maximum(jnp.sum(weights), 1e-6)
    centre = jnp.sum(weights[:, None] * points, axis=0) / total
    apart = points - centre
    _, vectors = jnp.linalg.eigh((weights[:, None] * apart).T @ apart / total)
    first, second = vectors[:, 2], vectors[:, 1]
    return centre, jnp.stack([first, second, jnp.cross(first, second)])


def axes_starts(points: Array, weights: Array, surface: Surface) -> Pose:
    """Starts (leading axis S = 240) that lay the model's long axis along the mask's.

    Both directions of the axis, rolls about it, shifts along it, and depths behind what is seen.
    Crude on purpose: no shape is compared, so most starts are outside the basin of convergence.

    Args:
      points: (N, 3) mm, camera frame.
      weights: (N,) mask.
      surface: the model.
    """
    seen, seen_axes = principal_axes(points, weights)
    ones = jnp.ones(surface.points.shape[0], surface.points.dtype)
    middle, axes = principal_axes(surface.points, ones)
    away = seen / jnp.maximum(jnp.linalg.norm(seen), 1e-6)
    flips = jnp.array([1.0, -1.0])
    angles = jnp.asarray(np.arange(ROLLS) * 2 * np.pi / ROLLS, points.dtype)

    def start(flip: Array, angle: Array, shift: Array, depth: Array) -> Pose:
        frame = seen_axes * jnp.stack([flip, flip, jnp.ones_like(flip)])[:, None]
        turn = poses.exp_rotation(angle * frame[0])
        product = partial(jnp.matmul, precision="highest")
        rotation = product(product(turn, frame.T), axes)
        place = seen + shift * frame[0] + depth * away
        return Pose(rotation, place - product(rotation, middle))

    mesh = jnp.meshgrid(flips, angles, jnp.array(SHIFTS), jnp.array(DEPTHS), indexing="ij")
    return jax.vmap(start)(*(axis.ravel() for axis in mesh))


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
    residuals = 1.0 - attempts.evidence / jnp.maximum(jnp.sum(weights), 1e-6)
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
