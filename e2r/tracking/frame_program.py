"""The compiled program that takes a track into a frame."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from e2r.geometry.depth_pixels import Pinhole
from e2r.registration import tracking
from e2r.registration.tracking import Evidence, TrackingSettings, TrackState
from e2r.runtime.compile_cache import CachedProgram
from e2r.types import Array, Surface


@lru_cache(maxsize=4)
def _program(settings: TrackingSettings) -> CachedProgram[tuple[TrackState, Evidence]]:
    def follow(
        track: TrackState, depth: Array, seconds: Array, camera: Pinhole, surface: Surface
    ) -> tuple[TrackState, Evidence]:
        after, _, evidence = tracking.track_frame(
            track, depth, seconds, camera=camera, surface=surface, settings=settings
        )
        return after, evidence

    return CachedProgram(follow)


class FrameProgram:
    """Takes tracks into frames of one size; another size compiles another program.

    Args:
      surface: of all levels.
      settings: of each step.
    """

    def __init__(self, surface: Surface, settings: TrackingSettings) -> None:
        self._surface, self._settings = surface, settings
        self._compiled: tuple[tuple[int, ...], Callable[..., Any]] | None = None

    def __call__(
        self, track: TrackState, depth: np.ndarray, seconds: float, camera: Pinhole
    ) -> tuple[TrackState, Evidence]:
        """The track in a frame, and the evidence.

        Args:
          track: in an earlier frame.
          depth: (H, W) mm, 0 where unseen.
          seconds: since that frame.
          camera: of the depth.
        """
        arguments = track, depth, np.asarray(seconds, np.float32), camera, self._surface
        if self._compiled is None or self._compiled[0] != depth.shape:
            self._compiled = depth.shape, _program(self._settings).prepare(*arguments)
        found: tuple[TrackState, Evidence] = self._compiled[1](*arguments)
        return found
