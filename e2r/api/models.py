"""Loads a trained model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from e2r.config import TrainingConfig
from e2r.evaluation.calibration import Calibration, load_calibration
from e2r.training.trained_model import PACKAGED, load_trained
from e2r.types import Params


@dataclass(frozen=True)
class Model:
    """A trained model: networks, parameters, calibration."""

    config: TrainingConfig
    """settings it was trained with"""
    params: Params
    """of both networks, ``{"mask": ..., "coarse": ...}``"""
    calibration: Calibration | None
    """turns inliers into probabilities; None where the run was not calibrated"""


def load_model(folder: str | os.PathLike[str] | None = None) -> Model:
    """Loads a trained model.

    Args:
      folder: output folder of ``e2r train`` or ``experiments.publish``; by default, the
        model that comes with e2r.

    Raises:
      ValueError: no usable checkpoint in the folder.
    """
    place = PACKAGED if folder is None else Path(folder)
    config, params = load_trained(place)
    return Model(config, params, load_calibration(place))


def require_model(model: object) -> None:
    """Refuses what is no model.

    Args:
      model: what the caller gave.

    Raises:
      TypeError: it is no :class:`Model`.
    """
    if not isinstance(model, Model):
        raise TypeError(
            f"model is a {type(model).__name__}; give what e2r.load_model returns, as the second "
            "argument"
        )
