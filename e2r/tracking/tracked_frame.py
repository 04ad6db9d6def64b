"""What a tracker says of a frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

from e2r.types import Pose

State: TypeAlias = Literal["searching", "tracking", "occluded", "lost"]
"""``searching``: nothing was found yet. ``tracking``: the levels are followed. ``occluded``:
something covers the wound, or too little of the bone agrees for the moment. ``lost``: the levels
are not where they were."""


class TrackedLevel(NamedTuple):
    """One level in one frame."""

    pose: Pose  # camera from model
    expected_tre_mm: float | None  # None without a calibration, or where the level is not seen
    bound95_mm: float | None  # a larger TRE has a chance of 5 %
    accepted: bool = False  # whether the pose may be used


class TrackedFrame(NamedTuple):
    """What the tracker says of one frame."""

    number: int
    seconds: float
    state: State
    levels: Mapping[str, TrackedLevel]  # empty while searching, and once lost
    accepted: bool  # whether the pose of some level may be used
    agreeing: float  # share of the remembered bone that lies on the model
    covered: float  # share that something covers
    latency: float  # seconds from the frame to its poses
