"""How does a loss change around a point of interest: of weights, of logits, of poses?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from e2r.registration import steps
from e2r.types import Array, Float, Pose


def plane(
    loss: Callable[[Any], Array],
    origin: Any,
    *,
    directions: tuple[Any, Any],
    offsets: tuple[Float[Array, "a"], Float[Array, "b"]],
    chunk: int = 64,
) -> Float[jax.Array, "a b"]:
    """The loss on a grid in a plane: ``loss(origin + a first + b second)``.

    Args:
      loss: of a pytree.
      origin: where both offsets are zero.
      directions: first and second, pytrees like ``origin``.
      offsets: along the first and along the second direction.
      chunk: losses at a time.
    """
    first, second = directions
    a, b = jnp.meshgrid(*map(jnp.asarray, offsets), indexing="ij")

    def one(place: tuple[Array, Array]) -> Array:
        moved = jax.tree.map(lambda x, u, v: x + place[0] * u + place[1] * v, origin, first, second)
        return loss(moved)

    values = jax.lax.map(one, (a.ravel(), b.ravel()), batch_size=chunk)
    return values.reshape(a.shape)


def loss_of_twist(
    loss: Callable[[Pose], Array], pose: Pose, centre: Float[Array, "3"]
) -> Callable[[Float[Array, "6"]], Array]:
    """A loss of poses as a loss of twists away from ``pose``.

    The first three entries of a twist turn the model, by so many mm at
    :data:`e2r.registration.steps.LEVER`. The others shift it, in mm.

    Args:
      loss: of a pose, for instance of a registration's initial pose.
      pose: camera from model.
      centre: mm, model frame; the model turns about it.
    """
    return lambda twist: loss(steps.apply_twist(pose, twist, centre))
