"""Random changes of a training example: another view and other colours.

An augmentation has the type :data:`Augmentation`. To add one without editing e2r, use
:func:`e2r.plugin`; e2r's own are listed in :data:`AUGMENTATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from e2r.geometry import poses
from e2r.runtime.registry import Registry
from e2r.types import Array, Cloud, Example, Float, Pose, PRNGKey

TILT_DEG = 8.0
"""Standard deviation of the camera's tilt about each image axis, degrees."""
COLOUR_NOISE = 0.15
"""Standard deviation of the logarithm of gain and contrast."""
KEPT_COLOURS, MIXED_COLOURS = 0.5, 0.35
"""Share of the scenes whose colours :func:`forget_colours` keeps, and mixes; others get one."""

Augmentation: TypeAlias = Callable[[PRNGKey, Example], Example]
"""(key, example) -> example; it keeps all shapes, and moves the truth with the scene."""


def augment_example(key: PRNGKey, example: Example) -> Example:
    """Rotates the scene about its centroid and changes its colours; the truth moves along.

    The rotation is any roll about the optical axis and a small tilt.

    Args:
      key: consumed.
      example: the scene, with its targets and its true pose.
    """
    k_roll, k_tilt, k_colours = jax.random.split(key, 3)
    cloud = example.cloud
    valid = cloud.valid[:, None]
    count = jnp.maximum(jnp.sum(valid), 1).astype(cloud.points.dtype)
    centre = jnp.sum(jnp.where(valid, cloud.points, 0.0), 0) / count
    roll = jax.random.uniform(k_roll, (), maxval=2 * jnp.pi)
    tilt = jnp.deg2rad(TILT_DEG) * jax.random.normal(k_tilt, (2,))
    spin = _rotation(jnp.stack([0.0 * roll, 0.0 * roll, roll]))
    lean = _rotation(jnp.append(tilt, 0.0))
    motion = poses.about(poses.compose(lean, spin), centre)
    return example._replace(
        cloud=Cloud(
            points=poses.apply(motion, cloud.points),
            normals=poses.rotate(motion, cloud.normals),
            colors=augment_colours(k_colours, cloud.colors),
            valid=cloud.valid,
        ),
        targets=example.targets._replace(goals=poses.apply(motion, example.targets.goals)),
        pose=poses.compose(motion, example.pose),
    )


def augment_colours(key: PRNGKey, colours: Float[Array, "n 3"]) -> Float[Array, "n 3"]:
    """Changes each channel's gain, the overall gain, contrast and saturation.

    Args:
      key: consumed.
      colours: 0 to 1.
    """
    k_gain, k_contrast, k_saturation = jax.random.split(key, 3)
    gain = jnp.exp(COLOUR_NOISE * jax.random.normal(k_gain, (4,)))
    power = jnp.exp(COLOUR_NOISE * jax.random.normal(k_contrast))
    colours = jnp.clip(colours * gain[None, :3] * gain[3], 0.0, 1.0)
    colours = jnp.maximum(colours, 1e-4) ** power
    grey = jnp.mean(colours, axis=1, keepdims=True)
    saturation = jax.random.uniform(k_saturation, minval=0.5, maxval=1.2)
    return jnp.clip(grey + saturation * (colours - grey), 0.0, 1.0)


def forget_colours(key: PRNGKey, example: Example) -> Example:
    """Gives the scene colours from which its material cannot be told; often none at all.

    Half of the scenes stay as they are. The colours of the others are mixed, inverted and scaled by
    channel, or all points get one colour. A network that sees such scenes has to know bone by its
    shape.

    Args:
      key: consumed.
      example: the scene.
    """
    k_mix, k_sign, k_gain, k_flat, k_kind = jax.random.split(key, 5)
    colours = example.cloud.colors
    mixture = jax.random.dirichlet(k_mix, jnp.full(3, 0.5), (3,))
    inverted = jax.random.bernoulli(k_sign, 0.25, (3,))
    mixed = jnp.matmul(colours, mixture.T)
    mixed = jnp.where(inverted, 1.0 - mixed, mixed)
    mixed = jnp.clip(mixed * jnp.exp(0.4 * jax.random.normal(k_gain, (3,))), 0.0, 1.0)
    flat = jnp.broadcast_to(jax.random.uniform(k_flat, (3,)), colours.shape)
    kind = jax.random.uniform(k_kind)
    changed = jnp.where(kind < KEPT_COLOURS + MIXED_COLOURS, mixed, flat)
    colours = jnp.where(kind < KEPT_COLOURS, colours, changed)
    return example._replace(cloud=example.cloud._replace(colors=colours))


def _rotation(vector: Float[Array, "3"]) -> Pose:
    """The rotation about the origin by a rotation vector, radians."""
    return Pose(poses.exp_rotation(vector), jnp.zeros(3))


AUGMENTATIONS: Registry[Augmentation] = Registry(
    "augmentation", {"view_and_colours": augment_example, "forget_colours": forget_colours}
)
"""All augmentations, by the name that a configuration gives."""
