"""The compiled programs of a track: one takes it into the next frame, one recalls it anywhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from e2r.geometry import poses
from e2r.geometry.depth_pixels import Pinhole
from e2r.registration import relocalisation, tracking
from e2r.registration.tracking import Evidence, SeenBone, TrackingSettings, TrackState
from e2r.runtime.compile_cache import CachedProgram
from e2r.tracking.past_frames import PastFrame
from e2r.types import Array, Pose, Surface


@lru_cache(maxsize=4)
def _follow_program(settings: TrackingSettings) -> CachedProgram[tuple[TrackState, Evidence]]:
    def follow(
        track: TrackState, depth: Array, seconds: Array, camera: Pinhole, surface: Surface
    ) -> tuple[TrackState, Evidence]:
        after, _, evidence = tracking.track_frame(
            track, depth, seconds, camera=camera, surface=surface, settings=settings
        )
        return after, evidence

    return CachedProgram(follow)


@lru_cache(maxsize=1)
def _recall_program() -> CachedProgram[tuple[Pose, Array]]:
    def recall(
        before: tuple[Array, Pinhole, Pose, SeenBone], depth: Array, camera: Pinhole
    ) -> tuple[Pose, Array]:
        image, lens, levels, bone = before
        view = relocalisation.view_depth(image, lens)
        keyframe = relocalisation.make_keyframe(view, tracking.centre_of(levels, bone))
        motion, score = relocalisation.relocalise(
            keyframe, relocalisation.view_depth(depth, camera)
        )
        moved: Pose = jax.vmap(lambda one: poses.compose(motion, one))(levels)
        return moved._replace(rotation=jax.vmap(poses.nearest_rotation)(moved.rotation)), score

    return CachedProgram(recall)


class FramePrograms:
    """The programs for frames of one size; another size compiles others.

    Args:
      surface: of all levels.
      settings: of each step.
    """

    def __init__(self, surface: Surface, settings: TrackingSettings) -> None:
        self._surface, self._settings = surface, settings
        self._compiled: dict[tuple[str, tuple[int, ...]], Callable[..., Any]] = {}

    def follow(
        self, track: TrackState, frame: PastFrame, seconds: float
    ) -> tuple[TrackState, Evidence]:
        """The track in a frame, and the evidence.

        Args:
          track: in an earlier frame.
          frame: that it is taken into.
          seconds: since the earlier one.
        """
        passed = np.asarray(seconds, np.float32)
        arguments = track, frame.depth, passed, frame.camera, self._surface
        program = _follow_program(self._settings)
        found: tuple[TrackState, Evidence] = self._run(
            "follow", program, frame.depth.shape, arguments
        )
        return found

    def recall(
        self, before: PastFrame, levels: Pose, bone: SeenBone, frame: PastFrame
    ) -> tuple[Pose, float]:
        """Poses of the levels in a frame that is seen from elsewhere, and a score, 0 to 1.

        Args:
          before: an earlier frame.
          levels: their poses in it.
          bone: that was seen of them.
          frame: as large as the earlier one.
        """
        remembered = before.depth, before.camera, levels, bone
        arguments = remembered, frame.depth, frame.camera
        pose, score = self._run("recall", _recall_program(), frame.depth.shape, arguments)
        return jax.tree.map(np.asarray, pose), float(score)

    def _run(
        self,
        name: str,
        program: CachedProgram[Any],
        shape: tuple[int, ...],
        arguments: tuple[Any, ...],
    ) -> Any:
        """Calls a program; to look it up by its arguments would take longer than to run it."""
        compiled = self._compiled.get((name, shape))
        if compiled is None:
            compiled = self._compiled[name, shape] = program.prepare(*arguments)
        return compiled(*arguments)
