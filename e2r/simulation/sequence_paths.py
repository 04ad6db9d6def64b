"""How a recording goes: its length, the camera's path, hands that come and go, cuts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry import poses
from e2r.types import Array, Float, Pose

Path: TypeAlias = Literal["static", "robot", "hand"]
"""How the camera moves: not at all, smoothly between stops, or as held by hand."""


@dataclass(frozen=True)
class SequenceConfig:
    """How a recording is simulated."""

    frames: int = 300
    """frames"""
    rate: float = 30.0
    """frames a second"""
    width: int = 640
    """pixels"""
    height: int = 480
    """pixels"""
    path: Path = "hand"
    """static, robot (smooth moves between stops) or hand"""
    wound_fraction: tuple[float, float] = (0.05, 0.25)
    """range of the wound's share of a frame, while the camera stands at its first place"""
    breathing_mm: float = 1.5
    """amplitude of the patient's breathing, along the line of sight"""
    hands: int = 1
    """times that a hand covers the wound"""
    cuts: int = 0
    """times that the picture is lost for half a second while the camera goes elsewhere"""
    posture_degrees: float = 2.0
    """turn of each level since the scan, standard deviation per axis"""
    posture_mm: float = 1.5
    """shift of each level since the scan, standard deviation per axis"""

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("hands", 0), ("cuts", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} is {getattr(self, name)}; use {least} or more")
        if not 1 <= self.rate <= 240:
            raise ValueError(f"--rate is {self.rate}; use 1 to 240 frames a second")
        for name in ("width", "height"):
            value = getattr(self, name)
            if not 64 <= value <= 2048 or value % 4:
                raise ValueError(f"--{name} is {value}; use a multiple of 4, 64 to 2048")


def draw_cuts(
    rng: np.random.Generator, times: np.ndarray, config: SequenceConfig
) -> tuple[np.ndarray, np.ndarray]:
    """The number of cuts before each frame, and whether a frame shows nothing.

    Args:
      rng: of the paths.
      times: of the frames, s.
      config: number of cuts.
    """
    span = times[-1] if len(times) > 1 else 1.0
    at = [
        span * (0.35 + 0.6 * (i + rng.uniform(0.2, 0.8)) / max(config.cuts, 1))
        for i in range(config.cuts)
    ]
    number = np.zeros(len(times), int)
    hidden = np.zeros(len(times), bool)
    for one in at:
        hidden |= (times >= one) & (times < one + 0.5)
        number += times >= one
    return number, hidden


def camera_path(
    rng: np.random.Generator,
    times: np.ndarray,
    cuts: np.ndarray,
    *,
    base: Pose,
    look_at: Float[np.ndarray, "3"],
    config: SequenceConfig,
) -> Pose:
    """The camera at each frame, from the canonical frame of the patient who breathes.

    Args:
      rng: of the paths.
      times: of the frames, s.
      cuts: number of cuts before each frame.
      base: the camera at its first place, from the canonical frame.
      look_at: mm, canonical frame; the camera turns about it.
      config: path and breathing.
    """
    shift, turn = np.zeros((len(times), 3)), np.zeros((len(times), 3))
    if config.path == "hand":
        for _ in range(3):
            rate, phase = rng.uniform(0.1, 0.35), rng.uniform(0, 2 * np.pi, (2, 3))
            shift += rng.uniform(6.0, 18.0) * np.sin(2 * np.pi * rate * times[:, None] + phase[0])
            turn += np.deg2rad(rng.uniform(0.5, 2.5)) * np.sin(
                2 * np.pi * rate * times[:, None] + phase[1]
            )
        for _ in range(4):
            rate, phase = rng.uniform(2.0, 6.0), rng.uniform(0, 2 * np.pi, (2, 3))
            shift += 0.25 * np.sin(2 * np.pi * rate * times[:, None] + phase[0])
            turn += np.deg2rad(0.03) * np.sin(2 * np.pi * rate * times[:, None] + phase[1])
    elif config.path == "robot":
        stops = max(2, int(times[-1] / 2.0) + 2)
        places = rng.uniform(-1.0, 1.0, (stops, 6)) * [40, 40, 25, 0.09, 0.09, 0.09]
        where = times / max(times[-1], 1e-9) * (stops - 1)
        first = np.minimum(where.astype(int), stops - 2)
        s = np.clip(1.5 * (where - first), 0.0, 1.0)[:, None]
        s = s**3 * (10.0 - 15.0 * s + 6.0 * s**2)  # least jerk
        path = places[first] + s * (places[first + 1] - places[first])
        shift, turn = path[:, :3], path[:, 3:]
    jumps = rng.uniform(-1.0, 1.0, (cuts.max() + 1, 6)) * [60, 60, 40, 0.12, 0.12, 0.5]
    jumps[0] = 0.0
    shift, turn = shift + jumps[cuts][:, :3], turn + jumps[cuts][:, 3:]
    breath = np.zeros((len(times), 3))
    breath[:, 1] = config.breathing_mm * np.sin(2 * np.pi * 0.25 * times)
    pivot = np.asarray(poses.apply(base, look_at))

    def view(turn: Array, shift: Array, breath: Array) -> Pose:
        motion = poses.about(Pose(poses.exp_rotation(turn), shift), pivot)
        moved = Pose(jnp.eye(3), breath)
        return poses.compose(motion, poses.compose(base, moved))

    f32 = np.float32
    paths: Pose = jax.jit(jax.vmap(view))(turn.astype(f32), shift.astype(f32), breath.astype(f32))
    return jax.tree.map(np.asarray, paths)


def hand_path(
    rng: np.random.Generator,
    times: np.ndarray,
    look_at: Float[np.ndarray, "3"],
    config: SequenceConfig,
) -> np.ndarray:
    """Place of the hand at each frame, mm in the canonical frame, and whether it is there.

    Args:
      rng: of the paths.
      times: of the frames, s.
      look_at: mm, canonical frame; the hand covers it.
      config: number of hands.
    """
    path = np.zeros((len(times), 4), np.float32)
    span = times[-1] if len(times) > 1 else 1.0
    for i in range(config.hands):
        middle = span * (0.15 + 0.8 * (i + 0.5) / config.hands)
        stay, way = rng.uniform(0.5, 1.5), rng.uniform(0, 2 * np.pi)
        u = (times - middle) / (0.5 * stay + 0.6)
        out = np.clip((np.abs(u) * (0.5 * stay + 0.6) - 0.5 * stay) / 0.6, 0.0, 1.0)
        here = np.abs(u) < 1.0
        away = 260.0 * out**2
        place = look_at + np.array([0.0, 55.0, -20.0])
        path[here, 0] = (place[0] + away * np.cos(way))[here]
        path[here, 1] = (place[1] + 0.2 * away)[here]
        path[here, 2] = (place[2] + away * np.sin(way))[here]
        path[here, 3] = 1.0
    return path
