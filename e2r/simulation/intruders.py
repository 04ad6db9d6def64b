"""What comes between the camera and the wound: a gloved hand, and a metal instrument.

Both are made of ellipsoids. They come in from the side, stay a while, and leave.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry import poses
from e2r.simulation.sequence_paths import SequenceConfig
from e2r.types import Array, Bool, Float, Pose

COMING_SECONDS = 0.6
"""An intruder takes so long to come, and to leave."""
AWAY_MM = 260.0
"""It comes from so far to the side."""
TOOL_SECONDS = (1.0, 3.0)
"""Range of how long an instrument stays."""


class Body(NamedTuple):
    """The shape and the looks of an intruder."""

    ellipsoids: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...]
    """centres and half axes, mm, its own frame"""
    color: tuple[float, float, float]
    metal: bool


HAND = Body(
    (
        ((0.0, 0.0, 0.0), (38.0, 14.0, 45.0)),
        *(((-27.0 + 18.0 * i, -4.0, 70.0), (9.0, 9.0, 42.0)) for i in range(4)),
    ),
    color=(0.75, 0.8, 0.85),
    metal=False,
)
"""Palm and fingers, in a glove."""
TOOL = Body((((0.0, 0.0, 90.0), (3.0, 3.0, 90.0)),), color=(0.62, 0.64, 0.66), metal=True)
"""An instrument whose tip is the origin."""


class Intruder(NamedTuple):
    """Where an intruder is; leading axis F for the frames of a recording."""

    pose: Pose  # canonical from its own frame
    present: Bool[Array, ""]


def hand_path(
    rng: np.random.Generator,
    times: Float[np.ndarray, "f"],
    look_at: Float[np.ndarray, "3"],
    config: SequenceConfig,
) -> Intruder:
    """The hand at each frame. Where two of its stays overlap, the later one counts.

    Args:
      rng: of the paths.
      times: of the frames, s.
      look_at: mm, canonical frame; the hand covers it.
      config: number of hands, and how long they stay.
    """
    shift, present = np.zeros((len(times), 3)), np.zeros(len(times), bool)
    for i in range(config.hands):
        middle = _span(times) * (0.15 + 0.8 * (i + 0.5) / config.hands)
        stay, way = rng.uniform(*config.hand_seconds), rng.uniform(0, 2 * np.pi)
        here, away = _stay(times, middle, stay)
        place = look_at + np.array([0.0, 55.0, -20.0])
        shift[here] = (place + away[:, None] * [np.cos(way), 0.2, np.sin(way)])[here]
        present |= here
    return _intruder(np.tile(np.eye(3), (len(times), 1, 1)), shift, present)


def tool_path(
    rng: np.random.Generator,
    times: Float[np.ndarray, "f"],
    look_at: Float[np.ndarray, "3"],
    config: SequenceConfig,
) -> Intruder:
    """The instrument at each frame. Its tip moves a little over the bone while it is there.

    Args:
      rng: of the instruments alone.
      times: of the frames, s.
      look_at: mm, canonical frame; the tip is above it.
      config: number of tools.
    """
    shift, present = np.zeros((len(times), 3)), np.zeros(len(times), bool)
    turn = np.tile(np.eye(3), (len(times), 1, 1))
    for i in range(config.tools):
        middle = _span(times) * (0.1 + 0.8 * (i + rng.uniform(0.3, 0.7)) / config.tools)
        here, away = _stay(times, middle, rng.uniform(*TOOL_SECONDS))
        way, lean = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(35.0, 55.0))
        tip = look_at + rng.uniform([-12.0, 12.0, -20.0], [12.0, 25.0, 20.0])
        rate, phase = rng.uniform(0.3, 1.0, 3), rng.uniform(0, 2 * np.pi, 3)
        tip = tip + 5.0 * np.sin(2 * np.pi * rate * times[:, None] + phase)
        x, z = np.cos(way), np.sin(way)
        shift[here] = (tip + away[:, None] * [x, 0.5, z])[here]
        across = np.array([-z, 0.0, x])
        shaft = np.array([np.cos(lean) * x, np.sin(lean), np.cos(lean) * z])
        turn[here] = np.stack([across, np.cross(shaft, across), shaft], 1)
        present |= here
    return _intruder(turn, shift, present)


def _intruder(turn: np.ndarray, shift: np.ndarray, present: np.ndarray) -> Intruder:
    return Intruder(Pose(turn.astype(np.float32), shift.astype(np.float32)), present)


def _span(times: Float[np.ndarray, "f"]) -> float:
    """Length of a recording, s."""
    return float(times[-1]) if len(times) > 1 else 1.0


def _stay(
    times: Float[np.ndarray, "f"], middle: float, seconds: float
) -> tuple[Bool[np.ndarray, "f"], Float[np.ndarray, "f"]]:
    """Whether an intruder is there at each time, and how far to the side it is, mm.

    Args:
      times: of the frames, s.
      middle: of its stay, s.
      seconds: that it stays.
    """
    late = (np.abs(times - middle) - 0.5 * seconds) / COMING_SECONDS
    return late < 1.0, AWAY_MM * np.clip(late, 0.0, 1.0) ** 2


def intruder_depth(
    body: Body, intruder: Intruder, origin: Float[Array, "3"], directions: Float[Array, "hw 3"]
) -> tuple[Float[jax.Array, "hw"], Float[jax.Array, "hw"]]:
    """Depth of an intruder at each pixel, mm, 0 where it is not; and its brightness, 0 to 1.

    Args:
      body: its shape.
      intruder: in one frame.
      origin: of the pixels' rays, mm, canonical frame.
      directions: of the rays; one unit is 1 mm of depth.
    """
    origin = poses.apply_inverse(intruder.pose, origin)
    directions = jnp.matmul(directions, intruder.pose.rotation, precision="highest")
    best, shade = jnp.full(directions.shape[0], jnp.inf), jnp.zeros(directions.shape[0])
    for centre, radii in body.ellipsoids:
        start = (origin - jnp.array(centre)) / jnp.array(radii)
        way = directions / jnp.array(radii)[None]
        a, b = jnp.sum(way * way, 1), jnp.matmul(way, start, precision="highest")
        square = b * b - a * (jnp.sum(start * start) - 1.0)
        hit = (square > 0) & intruder.present
        depth = jnp.where(hit, (-b - jnp.sqrt(jnp.where(hit, square, 1.0))) / a, jnp.inf)
        normal = (start[None] + depth[:, None] * way) / jnp.array(radii)[None]
        facing = -jnp.sum(normal * directions, 1)
        facing = facing / jnp.sqrt(jnp.sum(normal * normal, 1) * jnp.sum(directions**2, 1))
        nearer = depth < best
        best = jnp.where(nearer, depth, best)
        shade = jnp.where(nearer, facing, shade)
    there = jnp.isfinite(best)
    return jnp.where(there, best, 0.0), jnp.where(there, shade, 0.0)
