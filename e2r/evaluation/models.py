"""A trained model: its networks, their parameters and its calibration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from e2r.config import TrainingConfig
from e2r.evaluation.calibration import Calibration, load_calibration
from e2r.training.trained_model import load_trained
from e2r.types import Params


@dataclass(frozen=True)
class Model:
    """A trained model: networks, parameters, calibration."""

    config: TrainingConfig
    """settings it was trained with"""
    params: Params
    """of both networks, ``{"mask": ..., "coarse": ...}``"""
    calibration: Calibration | None = None
    """turns inliers into probabilities; None where the run was not calibrated"""


def read_model(folder: Path) -> Model:
    """Reads a trained model.

    Args:
      folder: of a run, or of an exported model.

    Raises:
      ValueError: no usable checkpoint in the folder, or its calibration is broken.
    """
    config, params = load_trained(folder)
    return Model(config, params, load_calibration(folder))
