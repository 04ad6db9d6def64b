"""The frames that a tracker keeps: of their own memory, and only while something needs them."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

import numpy as np

from e2r.formats.file_checks import MIN_DISTANCE_MM
from e2r.formats.scenes import RgbdImage
from e2r.geometry.depth_pixels import Pinhole
from e2r.types import Pose

KEPT = 120
"""Frames that are kept, at most, for what runs beside them."""


class FrameError(ValueError):
    """A frame cannot be used; the next one may be."""


class PastFrame(NamedTuple):
    """A frame of the tracker."""

    number: int
    seconds: float
    depth: np.ndarray  # (H, W) mm, 0 where unseen
    camera: Pinhole
    pose: Pose | None = None  # of each level; None where they are not followed


def take_frame(image: RgbdImage, number: int, seconds: float) -> PastFrame:
    """A frame with a depth of its own: cameras write into the same memory again.

    A depth that is not finite (some cameras say inf for what is too far) counts as unseen.

    Args:
      image: without distortion.
      number: of the frame.
      seconds: when it was taken.

    Raises:
      FrameError: the depth does not lie on the colour, or the lens is none.
    """
    depth = np.array(image.depth, np.float32)
    color = np.shape(image.color)
    if depth.ndim != 2 or color != (*depth.shape, 3):
        raise FrameError(
            f"the frame's colour is {color} and its depth {depth.shape}; give (H, W, 3) and "
            "(H, W), aligned to each other"
        )
    depth[~np.isfinite(depth)] = 0.0
    lens = (image.fx, image.fy, image.cx, image.cy)
    if not (np.isfinite(lens).all() and min(lens[:2]) > 0):
        raise FrameError(f"the frame's fx, fy, cx, cy are {lens}; give those of the camera, pixels")
    return PastFrame(number, seconds, depth, Pinhole(*(np.asarray(v, np.float32) for v in lens)))


def check_unit(frame: PastFrame) -> None:
    """Refuses a depth that cannot be in mm.

    Args:
      frame: one without any depth is in any unit.

    Raises:
      FrameError: what it shows is too near.
    """
    seen = frame.depth[frame.depth > 0]
    median = float(np.median(seen)) if len(seen) else np.inf
    if not median >= MIN_DISTANCE_MM:
        raise FrameError(f"half of the frame's depth is nearer than {median:.3g} mm; give it in mm")


class PastFrames:
    """The latest frames, in order; one thread adds them, others may read."""

    def __init__(self) -> None:
        self._frames: deque[PastFrame] = deque(maxlen=KEPT)
        self._lock = threading.Lock()

    def add(self, frame: PastFrame) -> None:
        """Keeps a frame.

        Args:
          frame: later than those that are kept.
        """
        with self._lock:
            self._frames.append(frame)

    def clear(self) -> None:
        """Forgets all of them."""
        with self._lock:
            self._frames.clear()

    def after(self, number: int) -> list[PastFrame]:
        """The kept frames after one.

        Args:
          number: of that frame.
        """
        with self._lock:
            return [one for one in self._frames if one.number > number]
