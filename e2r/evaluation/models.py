"""A trained model: its networks, their parameters and its calibration.

A model that was adapted to a patient keeps the one it began with: a frame is shown to both, unless
that was worse on held-out frames than the old one alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from e2r.config import TrainingConfig
from e2r.evaluation.calibration import CALIBRATION_FILE, Calibration, load_calibration
from e2r.evaluation.calibration_fit import FittedCase
from e2r.evaluation.fitted_cases import load_cases
from e2r.evaluation.patient import Sizes, read_patient
from e2r.training.trained_model import load_trained
from e2r.types import Params

BASE = "base"
"""In the folder of an adapted model: the model it began with."""


@dataclass(frozen=True)
class Model:
    """A trained model: networks, parameters, calibration."""

    config: TrainingConfig
    """settings it was trained with"""
    params: Params
    """of both networks, ``{"mask": ..., "coarse": ...}``"""
    calibration: Calibration | None = None
    """turns inliers into probabilities; None where the run was not calibrated"""
    fitted: tuple[FittedCase, ...] = ()
    """cases that the calibration was fitted to; none where they were not kept"""
    others: tuple[Params, ...] = ()
    """parameters of further networks of the same sizes, to which each frame is shown, too"""
    patient: Sizes | None = None
    """of the patient's levels; another patient's model is refused. None: it is anybody's"""


def read_model(folder: Path) -> Model:
    """Reads a trained model.

    Args:
      folder: of a run, or of an exported model.

    Raises:
      ValueError: no usable checkpoint in the folder, its calibration is broken, or its adaptation
        to a patient is not finished.
    """
    patient = read_patient(folder)
    if patient is not None and not (folder / CALIBRATION_FILE).is_file():
        raise ValueError(
            f"{folder}: its adaptation is not finished; give the same e2r adapt command again"
        )
    config, params = load_trained(folder)
    calibration = load_calibration(folder)
    fitted = load_cases(folder)
    if patient is None:
        return Model(config, params, calibration, fitted)
    known = Model(config, params, calibration, fitted, patient=patient["sizes"])
    if patient["believed"] == "base":
        return known
    _, base = load_trained(folder / BASE)
    return replace(known, others=(base,))
