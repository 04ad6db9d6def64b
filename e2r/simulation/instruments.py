"""Retractors, instruments, gloved fingers and cables in and around the wound."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from e2r.simulation.incision import Incision
from e2r.simulation.uniform_draws import UniformDraws
from e2r.types import Array, Bool, Float, PRNGKey

RETRACTORS, HANDHELD, CABLES = 4, 4, 2
"""Instruments of each kind, present or not; of those held, some are gloved fingers."""
GAUZES = 2
"""Swabs of gauze, present or not, where scenes have any paint."""
INSTRUMENTS = RETRACTORS + HANDHELD + CABLES
PRESENT = (0.65, 0.65, 0.4, 0.4, 0.45, 0.3, 0.2, 0.15, 0.3, 0.2)
"""Probability of each instrument to be present."""
BLACK = (0.0,) * RETRACTORS + (0.25,) * HANDHELD + (0.7,) * CABLES
"""Probability of each instrument to be black."""
FINGER = 0.3
"""Probability of a handheld instrument to be a finger."""


class Instruments(NamedTuple):
    """Capsules, whole or cut to a blade, K of them; canonical frame, mm."""

    start: Float[Array, "k 3"]
    end: Float[Array, "k 3"]
    radius: Float[Array, "k"]
    flat_normal: Float[Array, "k 3"]  # unit normal of a blade's flat side
    half_thickness: Float[Array, "k"]  # of a blade
    color: Float[Array, "k 3"]
    metal: Bool[Array, "k"]
    present: Bool[Array, "k"]


def sample_instruments(
    key: PRNGKey, incision: Incision, *, floor: Float[Array, ""], top: Float[Array, ""]
) -> Instruments:
    """Draws four retractor blades at the walls, four instruments or fingers, and two cables.

    Args:
      key: consumed.
      incision: where the back is open.
      floor: height (y) of the laminae in the middle of the wound, mm.
      top: height of the highest spinous process in the wound, mm.
    """
    uniform = UniformDraws(key, 192)
    middle = jnp.stack([incision.x, floor, incision.z])
    ways = [
        _retractors(uniform, incision, rise=top - floor),
        _handheld(uniform, incision),
        _cables(uniform, rise=top - floor),
    ]
    start = middle[None] + jnp.concatenate([begin for begin, _ in ways])
    end = start + jnp.concatenate([way for _, way in ways])
    finger = uniform.happens(FINGER, (HANDHELD,))
    radius = jnp.concatenate(
        [
            uniform(8.0, 18.0, (RETRACTORS,)),
            jnp.where(finger, uniform(7.0, 10.0, (HANDHELD,)), uniform(1.5, 6.0, (HANDHELD,))),
            uniform(2.0, 5.0, (CABLES,)),
        ]
    )
    others = HANDHELD + CABLES
    half_thickness = jnp.concatenate([jnp.full(RETRACTORS, 1.2), jnp.full(others, 100.0)])
    sideways, upwards = jnp.array([[1.0, 0.0, 0.0]]), jnp.array([[0.0, 1.0, 0.0]])
    flat_normal = [jnp.tile(sideways, (RETRACTORS, 1)), jnp.tile(upwards, (others, 1))]
    color, metal = _draw_colors(uniform, finger)
    return Instruments(
        start=start,
        end=end,
        radius=radius,
        flat_normal=jnp.concatenate(flat_normal),
        half_thickness=half_thickness,
        color=color,
        metal=metal,
        present=uniform.happens(jnp.array(PRESENT), (INSTRUMENTS,)),
    )


def add_gauze(
    key: PRNGKey, instruments: Instruments, incision: Incision, *, floor: Float[Array, ""]
) -> Instruments:
    """Lays swabs of gauze into the wound or beside it, clean to bloody, each present or not.

    Args:
      key: consumed.
      instruments: those that are there, K of them; the swabs come last.
      incision: where the back is open.
      floor: height (y) of the laminae in the middle of the wound, mm.
    """
    uniform = UniformDraws(key, 32)
    count = (GAUZES,)
    x = incision.x + uniform(-1.2, 1.2, count) * incision.half_x
    z = incision.z + uniform(-1.0, 1.0, count) * incision.half_z
    start = jnp.stack([x, floor + uniform(-6.0, 14.0, count), z], -1)
    angle = uniform(0.0, 2 * np.pi, count)
    way = jnp.stack([jnp.cos(angle), uniform(-0.4, 0.4, count), jnp.sin(angle)], -1)
    normal = jnp.stack([uniform(-0.4, 0.4, count), jnp.ones(GAUZES), uniform(-0.4, 0.4, count)], -1)
    blood = uniform(0.0, 1.0, count)[:, None] ** 2
    white, red = jnp.array([[0.92, 0.90, 0.86]]), jnp.array([[0.55, 0.10, 0.09]])
    swabs = Instruments(
        start=start,
        end=start + way * uniform(8.0, 40.0, count)[:, None],
        radius=uniform(6.0, 20.0, count),
        flat_normal=normal / jnp.linalg.norm(normal, axis=1, keepdims=True),
        half_thickness=uniform(1.5, 6.0, count),
        color=white + blood * (red - white),
        metal=jnp.zeros(GAUZES, bool),
        present=uniform.happens(0.25, count),
    )
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), instruments, swabs)


def _retractors(
    uniform: UniformDraws, incision: Incision, *, rise: Float[Array, ""]
) -> tuple[Float[Array, "k 3"], Float[Array, "k 3"]]:
    """Starts and ways of the blades, two a side, upright along the wall.

    Starts are relative to the middle of the wound's floor. The highest spinous process lies
    ``rise`` mm above it.
    """
    count = (RETRACTORS,)
    side = jnp.array([-1.0, 1.0, -1.0, 1.0])
    along = uniform(-0.75, 0.75, count) * incision.half_z
    depth = uniform(-4.0, 12.0, count)
    start = jnp.stack([side * (incision.half_x - uniform(0.0, 4.0, count)), depth, along], -1)
    lean = side * uniform(0.0, 14.0, count)
    up = rise + uniform(5.0, 30.0, count)
    return start, jnp.stack([lean, up, uniform(-4.0, 4.0, count)], -1)


def _handheld(
    uniform: UniformDraws, incision: Incision
) -> tuple[Float[Array, "k 3"], Float[Array, "k 3"]]:
    """Starts and ways of instruments and fingers: from somewhere in the wound, up and out."""
    count = (HANDHELD,)
    x = uniform(-0.8, 0.8, count) * incision.half_x
    y = uniform(2.0, 30.0, count)
    start = jnp.stack([x, y, uniform(-0.8, 0.8, count) * incision.half_z], -1)
    angle = uniform(0.0, 2 * np.pi, count)
    rise = uniform(0.25, 1.2, count)
    direction = jnp.stack([jnp.cos(angle), rise, jnp.sin(angle)], -1)
    return start, direction * uniform(90.0, 260.0, (HANDHELD, 1))


def _cables(
    uniform: UniformDraws, *, rise: Float[Array, ""]
) -> tuple[Float[Array, "k 3"], Float[Array, "k 3"]]:
    """Starts and ways of cables, which lie on the drapes."""
    count = (CABLES,)
    x = uniform(-1.0, 1.0, count) * 120.0
    y = jnp.full(CABLES, 1.0) * (rise + 24.0)
    start = jnp.stack([x, y, uniform(-1.0, 1.0, count) * 120.0], -1)
    x = uniform(-1.0, 1.0, count)
    return start, jnp.stack([x, jnp.zeros(CABLES), uniform(-1.0, 1.0, count)], -1) * 160.0


def _draw_colors(
    uniform: UniformDraws, finger: Bool[Array, "f"]
) -> tuple[Float[Array, "k 3"], Bool[Array, "k"]]:
    """Colours of the instruments, and which ones are of shiny metal."""
    grey = jnp.array([[0.62, 0.64, 0.66]]) * uniform(0.5, 1.3, (INSTRUMENTS, 1))
    glove = jnp.array([[0.85, 0.80, 0.68]]) * uniform(0.8, 1.1, (INSTRUMENTS, 1))
    dark = jnp.array([[0.10, 0.11, 0.13]]) + uniform(0.0, 0.1, (INSTRUMENTS, 3))
    hand = jnp.concatenate([jnp.zeros(RETRACTORS, bool), finger, jnp.zeros(CABLES, bool)])
    black = uniform.happens(jnp.array(BLACK), (INSTRUMENTS,))
    color = jnp.where(hand[:, None], glove, jnp.where(black[:, None], dark, grey))
    return color, ~(hand | black)


def distance_to_instruments(
    instruments: Instruments, points: Float[Array, "n 3"]
) -> Float[Array, "n k"]:
    """Distance bounds, mm, from points in the canonical frame; far where one is not present."""

    def distance(one: Instruments) -> Float[Array, "n"]:
        axis = one.end - one.start
        t = jnp.clip((points - one.start[None]) @ axis / jnp.dot(axis, axis), 0.0, 1.0)
        away = points - one.start[None] - t[:, None] * axis[None]
        capsule = jnp.sqrt(jnp.sum(away * away, 1) + 1e-9) - one.radius
        blade = jnp.maximum(capsule, jnp.abs(away @ one.flat_normal) - one.half_thickness)
        return jnp.where(one.present, blade, 1e3)

    return jax.vmap(distance, out_axes=1)(instruments)
