"""A procedural lumbar spine: the shapes of its levels, and how they stand on each other.

Canonical frame of a spine (LPS): x to the patient's left, y posterior, z cranial, mm.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from e2r.geometry import poses
from e2r.simulation import vertebra
from e2r.simulation.uniform_draws import UniformDraws
from e2r.simulation.vertebra import Vertebra
from e2r.types import Array, Float, Pose, PRNGKey

LEVELS = ("T12", "L1", "L2", "L3", "L4", "L5", "S1")
POSITIONS = (-0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
"""Position of each vertebra along the lumbar spine; the sacrum is no vertebra of this kind."""


def sample_spine(key: PRNGKey, *, any_shape: bool = False) -> tuple[Vertebra, Pose]:
    """Draws a specimen: the shape and the pose of each level.

    Lordosis, a little scoliosis with axial rotation, and disc heights vary by specimen. The origin
    is the mean of the lumbar bodies' centres.

    Args:
      key: consumed.
      any_shape: some are scoliotic, have a slipped level, rough bone or swollen joints.

    Returns:
      The shapes and the poses (canonical from level), leading axis as in :data:`LEVELS`.
    """
    k_scale, k_shape, k_curve, k_disc, k_twist = jax.random.split(key, 5)
    scale = jnp.exp(0.07 * jnp.clip(jax.random.normal(k_scale), -2.0, 2.0))
    count, positions = len(LEVELS), jnp.array(POSITIONS)
    k_sacrum, *k_shapes = jax.random.split(k_shape, count)
    shapes = jax.vmap(lambda k, position: vertebra.sample_vertebra(k, position, scale))(
        jnp.stack(k_shapes), positions
    )
    shapes = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b[None]]), shapes, vertebra.sample_sacrum(k_sacrum, scale)
    )
    lordosis = jnp.deg2rad(jax.random.uniform(k_curve, (), minval=15.0, maxval=48.0))
    # About x: L1's end plate faces back, L5's faces forward.
    tilt = lordosis * (positions - 0.3)
    sacral = jax.random.uniform(jax.random.fold_in(k_curve, 1), (), minval=8.0, maxval=20.0)
    tilt = jnp.append(tilt, tilt[-1] + jnp.deg2rad(sacral))
    lateral, axial = jnp.deg2rad(jax.random.normal(k_twist, (2, count)) * jnp.array([[2.0], [2.5]]))
    slip: Array = jnp.zeros((count, 3))
    if any_shape:
        k_bend, k_slip, k_rough = jax.random.split(jax.random.fold_in(key, 5), 3)
        shapes = jax.vmap(vertebra.age_vertebra)(jax.random.split(k_rough, count), shapes)
        bend = _scoliosis(k_bend, count)
        lateral, axial = lateral + bend, axial - 0.6 * bend
        slip = _slipped_level(k_slip, count)
    rotation = jax.vmap(poses.exp_rotation)(jnp.stack([tilt, lateral, axial], 1))
    disc = scale * jax.random.uniform(k_disc, (count,), minval=7.0, maxval=12.0)
    reach = shapes.body[:, 2] + 0.5 * disc
    axis = rotation[:, :, 2]
    below = axis[:-1] * reach[:-1, None] + axis[1:] * reach[1:, None]
    centres = jnp.concatenate([jnp.zeros((1, 3)), -jnp.cumsum(below, axis=0)])
    centres = centres + slip
    centres = centres - jnp.mean(centres[1:6], axis=0, keepdims=True)
    return shapes, Pose(rotation, centres)


def _scoliosis(key: PRNGKey, count: int) -> Float[Array, "l"]:
    """Lateral tilt of each level, radians: one bow in three of ten spines, none in the others."""
    uniform = UniformDraws(key, 4)
    bow = jnp.where(uniform.happens(0.3), jnp.deg2rad(uniform(-20.0, 20.0)), 0.0)
    middle = uniform(0.0, float(count - 1))
    return bow * jnp.sin(2.0 * math.pi * (jnp.arange(count, dtype=jnp.float32) - middle) / 9.0)


def _slipped_level(key: PRNGKey, count: int) -> Float[Array, "l 3"]:
    """Shift of each level, mm: in one of seven spines, L3, L4 or L5 slips forward, or a bit back.

    All levels above it go with it.
    """
    uniform = UniformDraws(key, 3)
    slip = jnp.where(uniform.happens(1 / 7), uniform(-3.0, 9.0), 0.0)
    lowest = jnp.floor(uniform(3.0, 6.0))
    forward = jnp.where(jnp.arange(count, dtype=jnp.float32) <= lowest, -slip, 0.0)
    return forward[:, None] * jnp.array([[0.0, 1.0, 0.0]])
