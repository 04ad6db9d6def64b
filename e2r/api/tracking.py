"""Follows a patient's levels from frame to frame."""

from __future__ import annotations

import os
from collections.abc import Mapping

import trimesh

from e2r.api.models import require_type
from e2r.evaluation.models import Model
from e2r.formats import meshes, notices
from e2r.runtime.compile_cache import enable_cache
from e2r.tracking import tracker
from e2r.tracking.finder import ModelFinder
from e2r.tracking.settings import TrackerConfig


class Tracker(tracker.Tracker):
    """Follows a patient's levels in the frames of a camera, live or recorded.

    A live camera is five lines, with ``e2r.formats.scenes.RgbdImage``::

        with e2r.Tracker(e2r.load_model(), "patient/model") as tracker:
            for seconds, color, depth in camera:
                image = RgbdImage(color, depth, fx, fy, cx, cy)
                print(tracker.update(image, seconds))

    Args:
      model: the trained model.
      surfaces: level -> surface, mm, model frame; or their folder.
      config: thresholds and times.
      beside: register beside the frames, in a thread, as a live camera needs it. Otherwise a frame
        waits for its registration, and the results depend on the frames alone.

    Raises:
      ValueError: the surfaces cannot be read, or are not those of the model's patient.
      TypeError: the model is no :class:`Model`.
    """

    def __init__(
        self,
        model: Model,
        surfaces: str | os.PathLike[str] | Mapping[str, trimesh.Trimesh],
        *,
        config: TrackerConfig = TrackerConfig(),
        beside: bool = True,
    ) -> None:
        require_type(Model, model=model)
        enable_cache()
        if model.calibration is None:
            notices.say(
                "model",
                "has no calibration, so no pose is accepted; run experiments.calibrate on it",
            )
        levels = surfaces if isinstance(surfaces, Mapping) else meshes.read_meshes(surfaces)
        finder = ModelFinder(model, levels, points=config.points)
        super().__init__(finder, config=config, beside=beside)
