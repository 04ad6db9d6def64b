"""What lies in and around the wound that is neither bone nor tissue."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from e2r.types import Array

INSTRUMENTS = 10


class Draws:
    """Uniform numbers handed out one after the other, all drawn at once: quick to compile."""

    def __init__(self, key: Array, count: int):
        self._left = jax.random.uniform(key, (count,))

    def __call__(self, low: float, high: float, shape: tuple[int, ...] = ()) -> Array:
        """The next numbers, even between ``low`` and ``high``, in the given shape."""
        size = int(np.prod(shape))
        if size > self._left.shape[0]:
            raise ValueError("more draws than were made; raise the count")
        taken, self._left = self._left[:size], self._left[size:]
        return low + (high - low) * taken.reshape(shape)


class Instruments(NamedTuple):
    """Capsules, whole or cut to a blade: retractors, instruments, fingers, cables."""

    a: Array  # (TOOLS, 3)
    b: Array  # (TOOLS, 3)
    radius: Array  # (TOOLS,)
    flat: Array  # (TOOLS, 3) unit normal of a blade's flat side
    thin: Array  # (TOOLS,) mm, half a blade's thickness
    color: Array  # (TOOLS, 3)
    metal: Array  # (TOOLS,) bool
    present: Array  # (TOOLS,) bool


def sample_instruments(
    key: Array, x_mid: Array, z_mid: Array, half_x: Array, half_z: Array, floor: Array, top: Array
) -> Instruments:
    """Four retractor blades at the walls with arms, four instruments or fingers, two cables."""
    uniform = Draws(key, 192)
    middle = jnp.stack([x_mid, floor, z_mid])
    # Blades: two a side, upright plates along the wall.
    side = jnp.array([-1.0, 1.0, -1.0, 1.0])
    along = uniform(-0.75, 0.75, (4,)) * half_z
    depth = uniform(-4.0, 12.0, (4,))
    low = jnp.stack([side * (half_x - uniform(0.0, 4.0, (4,))), depth, along], -1)
    lean = jnp.stack([side * uniform(0.0, 14.0, (4,)), top - floor + uniform(5.0, 30.0, (4,)),
                      uniform(-4.0, 4.0, (4,))], -1)  # fmt: skip
    # Instruments: from somewhere in the wound up and out; some are gloved fingers.
    tip = jnp.stack(
        [uniform(-0.8, 0.8, (4,)) * half_x, uniform(2.0, 30.0, (4,)),
         uniform(-0.8, 0.8, (4,)) * half_z], -1,
    )  # fmt: skip
    way = uniform(0.0, 2 * np.pi, (4,))
    rise = uniform(0.25, 1.2, (4,))
    out = jnp.stack([jnp.cos(way), rise, jnp.sin(way)], -1) * uniform(90.0, 260.0, (4, 1))
    # Cables lie on the drapes.
    lie = jnp.stack([uniform(-1.0, 1.0, (2,)) * 120.0, jnp.full(2, 1.0) * (top - floor + 24.0),
                     uniform(-1.0, 1.0, (2,)) * 120.0], -1)  # fmt: skip
    reach = (
        jnp.stack([uniform(-1.0, 1.0, (2,)), jnp.zeros(2), uniform(-1.0, 1.0, (2,))], -1) * 160.0
    )
    a = middle + jnp.concatenate([low, tip, lie])
    b = a + jnp.concatenate([lean, out, reach])
    finger = uniform(0.0, 1.0, (4,)) < 0.3
    radius = jnp.concatenate(
        [
            uniform(8.0, 18.0, (4,)),
            jnp.where(finger, uniform(7.0, 10.0, (4,)), uniform(1.5, 6.0, (4,))),
            uniform(2.0, 5.0, (2,)),
        ]
    )
    thin = jnp.concatenate([jnp.full(4, 1.2), jnp.full(6, 100.0)])
    flat = jnp.concatenate([jnp.tile(jnp.array([1.0, 0.0, 0.0]), (4, 1)), jnp.tile(
        jnp.array([0.0, 1.0, 0.0]), (6, 1))])  # fmt: skip
    grey = jnp.array([0.62, 0.64, 0.66]) * uniform(0.5, 1.3, (INSTRUMENTS, 1))
    glove = jnp.array([0.85, 0.80, 0.68]) * uniform(0.8, 1.1, (INSTRUMENTS, 1))
    dark = jnp.array([0.10, 0.11, 0.13]) + uniform(0.0, 0.1, (INSTRUMENTS, 3))
    hand = jnp.concatenate([jnp.zeros(4, bool), finger, jnp.zeros(2, bool)])
    black = uniform(0.0, 1.0, (INSTRUMENTS,)) < jnp.array([0.0] * 4 + [0.25] * 4 + [0.7] * 2)
    color = jnp.where(hand[:, None], glove, jnp.where(black[:, None], dark, grey))
    chance = jnp.array([0.65, 0.65, 0.4, 0.4, 0.45, 0.3, 0.2, 0.15, 0.3, 0.2])
    return Instruments(
        a, b, radius, flat, thin, color, ~(hand | black), uniform(0, 1, (INSTRUMENTS,)) < chance
    )


def distance_to_instruments(tools: Instruments, points: Array) -> Array:
    """Distance bounds (N, TOOLS)."""

    def one(a: Array, b: Array, radius: Array, flat: Array, thin: Array, present: Array) -> Array:
        axis = b - a
        t = jnp.clip((points - a) @ axis / jnp.dot(axis, axis), 0.0, 1.0)
        away = points - a - t[:, None] * axis
        capsule = jnp.sqrt(jnp.sum(away * away, 1) + 1e-9) - radius
        blade = jnp.maximum(capsule, jnp.abs(away @ flat) - thin)
        return jnp.where(present, blade, 1e3)

    return jax.vmap(one, out_axes=1)(
        tools.a, tools.b, tools.radius, tools.flat, tools.thin, tools.present
    )
