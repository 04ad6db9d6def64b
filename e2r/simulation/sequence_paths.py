"""How a recording goes: its length, the camera's path, cuts, light, and a level that moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NoReturn, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry import poses
from e2r.types import Array, Float, Pose

Path: TypeAlias = Literal["static", "robot", "hand"]
"""How the camera moves: not at all, smoothly between stops, or as held by hand."""
MOVED_DEGREES, MOVED_MM, MOVED_SECONDS = 2.0, 3.0, 0.5
"""How far a surgeon moves a level, and for how long."""


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
    speed: float = 1.0
    """the camera moves so many times as fast. At 1, its fastest moments are about 70 mm/s and 8
    degrees/s by hand. On a robot they are 100 mm/s and 14 degrees/s"""
    wound_fraction: tuple[float, float] = (0.05, 0.25)
    """range of the wound's share of a frame, while the camera stands at its first place"""
    breathing_mm: float = 1.5
    """amplitude of the patient's breathing, along the line of sight"""
    hands: int = 1
    """times that a hand covers the wound"""
    hand_seconds: tuple[float, float] = (0.5, 1.5)
    """range of how long a hand stays"""
    tools: int = 0
    """times that a metal instrument enters the wound, for 1 to 3 s"""
    cuts: int = 0
    """times that the picture is lost for half a second while the camera goes elsewhere"""
    posture_degrees: float = 2.0
    """turn of each level since the scan, standard deviation per axis"""
    posture_mm: float = 1.5
    """shift of each level since the scan, standard deviation per axis"""
    exposure: float = 0.0
    """amplitude of slow changes of the brightness, as a logarithm: 0.5 is 0.6 to 1.6 times"""
    moved_level: bool = False
    """half way, the surgeon moves an exposed level by 2 degrees and 3 mm, and it stays there"""

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("hands", 0), ("tools", 0), ("cuts", 0)):
            if getattr(self, name) < least:
                self._refuse(name, f"{least} or more")
        if not 1 <= self.rate <= 240:
            self._refuse("rate", "1 to 240 frames a second")
        if not 0 < self.speed <= 20:
            self._refuse("speed", "more than 0, and 20 at most")
        if not 0 < self.hand_seconds[0] <= self.hand_seconds[1] < float("inf"):
            self._refuse("hand_seconds", "a range above 0, smaller first")
        if not 0 < self.wound_fraction[0] <= self.wound_fraction[1] <= 1:
            self._refuse("wound_fraction", "two shares in (0, 1], in order")
        for name, most in (("exposure", 2), ("breathing_mm", 20)):
            if not 0 <= getattr(self, name) <= most:
                self._refuse(name, f"0 to {most}")
        for name in ("posture_degrees", "posture_mm"):
            if not 0 <= getattr(self, name) <= 15:
                self._refuse(name, "0 to 15")
        for name in ("width", "height"):
            value = getattr(self, name)
            if not 64 <= value <= 2048 or value % 4:
                self._refuse(name, "a multiple of 4, 64 to 2048")

    def _refuse(self, name: str, remedy: str) -> NoReturn:
        raise ValueError(f"recording.{name} is {getattr(self, name)}; use {remedy}")


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
      config: path, speed and breathing. A hand's tremor and the breathing have their own pace.
    """
    shift, turn = np.zeros((len(times), 3)), np.zeros((len(times), 3))
    if config.path == "hand":
        for _ in range(3):
            rate, phase = rng.uniform(0.1, 0.35), rng.uniform(0, 2 * np.pi, (2, 3))
            rate *= config.speed
            shift += rng.uniform(6.0, 18.0) * np.sin(2 * np.pi * rate * times[:, None] + phase[0])
            turn += np.deg2rad(rng.uniform(0.5, 2.5)) * np.sin(
                2 * np.pi * rate * times[:, None] + phase[1]
            )
        for _ in range(4):
            rate, phase = rng.uniform(2.0, 6.0), rng.uniform(0, 2 * np.pi, (2, 3))
            shift += 0.25 * np.sin(2 * np.pi * rate * times[:, None] + phase[0])
            turn += np.deg2rad(0.03) * np.sin(2 * np.pi * rate * times[:, None] + phase[1])
    elif config.path == "robot":
        stops = max(2, int(config.speed * times[-1] / 2.0) + 2)
        places = rng.uniform(-1.0, 1.0, (stops, 6)) * [40, 40, 25, 0.09, 0.09, 0.09]
        where = times / max(times[-1], 1e-9) * (stops - 1)
        first = np.minimum(where.astype(int), stops - 2)
        s = _least_jerk(1.5 * (where - first))[:, None]
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


def brightness_path(
    rng: np.random.Generator, times: Float[np.ndarray, "f"], config: SequenceConfig
) -> Float[np.ndarray, "f"]:
    """Gain of the colours at each frame, 1 where nothing changes.

    Args:
      rng: of the brightness alone.
      times: of the frames, s.
      config: exposure.
    """
    rate, phase = rng.uniform(0.05, 0.3, 3), rng.uniform(0, 2 * np.pi, 3)
    wave = np.sin(2 * np.pi * rate * times[:, None] + phase).mean(1)
    return np.exp(config.exposure * wave).astype(np.float32)


def level_path(
    rng: np.random.Generator, times: Float[np.ndarray, "f"], centre: Float[np.ndarray, "3"]
) -> Pose:
    """The motion (leading axis F) of a level that is moved half way, canonical frame.

    Args:
      rng: of the level alone.
      times: of the frames, s.
      centre: mm, canonical frame, of the level; it turns about it.
    """
    ways = rng.normal(size=(2, 3))
    turn, shift = ways / np.linalg.norm(ways, axis=1, keepdims=True)
    share = _least_jerk((times - 0.5 * times[-1]) / MOVED_SECONDS)[:, None]

    def motion(turn: Array, shift: Array) -> Pose:
        return poses.about(Pose(poses.exp_rotation(turn), shift), centre.astype(np.float32))

    turns, shifts = share * np.deg2rad(MOVED_DEGREES) * turn, share * MOVED_MM * shift
    path: Pose = jax.jit(jax.vmap(motion))(turns.astype(np.float32), shifts.astype(np.float32))
    return jax.tree.map(np.asarray, path)


def _least_jerk(share: np.ndarray) -> np.ndarray:
    """Share of a way at a share of its time, both 0 to 1, with the least jerk."""
    s = np.clip(share, 0.0, 1.0)
    eased: np.ndarray = s**3 * (10.0 - 15.0 * s + 6.0 * s**2)
    return eased
