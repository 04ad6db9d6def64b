"""What the host checks of a registered case: size, mirror image, free space, precision."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from e2r.evaluation import frame_scale, mirror_fit
from e2r.evaluation.frame_scale import FrameScale
from e2r.evaluation.free_space import sticking_out
from e2r.evaluation.precision import LevelPrecision, level_precision
from e2r.evaluation.shared_models import SharedModel
from e2r.pipeline import CasePredictions
from e2r.runtime.timing import timed
from e2r.types import Cloud, Float


class FitChecks(NamedTuple):
    """The checks of one case, by name of the mask."""

    scales: dict[str, FrameScale]  # size of the frame over that of the model
    mirror_gains: dict[str, float]  # how much better the mirror image fits
    sticking_out: dict[str, Float[np.ndarray, "k"]]  # share of each hypothesis before the scene
    precisions: dict[str, LevelPrecision]  # of the levels' poses


def check_fits(predictions: CasePredictions, model: SharedModel, cloud: Cloud) -> FitChecks:
    """Checks the registrations of one case.

    Args:
      predictions: of the case, on the host.
      model: its model.
      cloud: of all samples, mm, camera frame.
    """
    points, surface = np.asarray(cloud.points), model.surface
    scales = frame_scale.fit_frame_scales(predictions, surface, points)
    gains = mirror_fit.fit_mirror_gains(
        predictions, surface, points, canonical=surface.canonical_from_model
    )
    with timed("free space"):
        out = {
            mask: sticking_out(cloud, surface, hypotheses.pose)
            for mask, hypotheses in predictions.hypotheses.items()
        }
    with timed("precision"):
        precisions = {
            mask: level_precision(
                points[np.asarray(weights) > 0.5], model.tree, surface, predictions.levels[mask]
            )
            for mask, weights in predictions.weights.items()
        }
    return FitChecks(scales, gains, out, precisions)
