"""A loss over a plane, through a place of interest: of logits, of weights, of poses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from e2r.registration import steps
from e2r.types import Array, Pose


def plane(
    loss: Callable[[Any], Array],
    origin: Any,
    first: Any,
    second: Any,
    along_first: Array,
    along_second: Array,
    *,
    chunk: int = 64,
) -> jax.Array:
    """``loss(origin + a first + b second)``, (A, B), for all ``a`` and ``b``.

    Args:
      loss: of a pytree.
      origin: where ``a = b = 0``.
      first, second: pytrees like it, any two directions.
      along_first, along_second: (A,) and (B,) how far.
      chunk: losses at a time.
    """
    a, b = jnp.meshgrid(jnp.asarray(along_first), jnp.asarray(along_second), indexing="ij")

    def one(place: tuple[Array, Array]) -> Array:
        moved = jax.tree.map(lambda x, u, v: x + place[0] * u + place[1] * v, origin, first, second)
        return loss(moved)

    found = jax.lax.map(one, (a.ravel(), b.ravel()), batch_size=chunk)
    return found.reshape(a.shape)


def directions(key: Array, gradient: Array) -> tuple[jax.Array, jax.Array]:
    """Downhill, and a random direction at right angles to it, both of length one.

    Args:
      key: consumed.
      gradient: (D,) of the loss; where it vanishes, both are random.
    """
    k_first, k_second = jax.random.split(key)
    size = jnp.linalg.norm(gradient)
    spare = jax.random.normal(k_first, gradient.shape, gradient.dtype)
    first = jnp.where(size > 0, -gradient, spare)
    first = first / jnp.linalg.norm(first)
    second = jax.random.normal(k_second, gradient.shape, gradient.dtype)
    second = second - jnp.dot(second, first, precision="highest") * first
    return first, second / jnp.linalg.norm(second)


def of_poses(loss: Callable[[Pose], Array], pose: Pose, centre: Array) -> Callable[[Array], Array]:
    """A loss of poses as one of ``nudge`` (6,), mm, that leads away from ``pose``.

    Args:
      loss: of a pose, the start of a registration, say.
      pose: camera from model.
      centre: (3,) mm in the model frame, what the model turns about; the first three entries turn
        it, by so many mm at :data:`e2r.registration.steps.LEVER`, the others shift it.
    """
    return lambda nudge: loss(steps.apply_twist(pose, nudge, centre))
