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


def _rotation(vector: Float[Array, "3"]) -> Pose:
    """The rotation about the origin by a rotation vector, radians."""
    return Pose(poses.exp_rotation(vector), jnp.zeros(3))


AUGMENTATIONS: Registry[Augmentation] = Registry(
    "augmentation", {"view_and_colours": augment_example}
)
"""All augmentations, by the name that a configuration gives."""
