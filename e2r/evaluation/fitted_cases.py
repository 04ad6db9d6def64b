"""Keeps the cases that a calibration was fitted to, so that an adaptation can add a patient's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from e2r.evaluation.calibration import FEATURES
from e2r.evaluation.calibration_fit import FittedCase
from e2r.evaluation.precision import LevelPrecision
from e2r.runtime.atomic_files import atomic_write

CASES_FILE = "calibration_cases.npz"


def save_cases(cases: Sequence[FittedCase], folder: Path) -> None:
    """Writes the cases beside their calibration.

    Args:
      cases: one or more.
      folder: of the calibration.
    """
    precision = np.concatenate([np.stack(case.precision, 1) for case in cases])
    with atomic_write(folder / CASES_FILE) as part, part.open("wb") as file:
        np.savez_compressed(
            file,
            hypotheses=np.array([len(case.errors) for case in cases]),
            levels=np.array([len(case.level_tre) for case in cases]),
            features=np.concatenate([case.features for case in cases]).astype(np.float32),
            errors=np.concatenate([case.errors for case in cases]).astype(np.float32),
            precision=precision.astype(np.float32),
            tre=np.array([case.tre for case in cases], np.float32),
            level_tre=np.concatenate([case.level_tre for case in cases]).astype(np.float32),
        )


def load_cases(folder: Path) -> tuple[FittedCase, ...]:
    """The cases that :func:`save_cases` wrote; none where there is no such file.

    Args:
      folder: of the calibration.

    Raises:
      ValueError: the file is broken.
    """
    path = folder / CASES_FILE
    if not path.is_file():
        return ()
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            stored = {name: arrays[name] for name in arrays.files}
        hypotheses, levels = np.cumsum(stored["hypotheses"]), np.cumsum(stored["levels"])
        if stored["features"].shape != (hypotheses[-1], FEATURES) or len(levels) != len(hypotheses):
            raise ValueError
        parts = zip(
            np.split(stored["features"].astype(float), hypotheses[:-1]),
            np.split(stored["errors"].astype(float), hypotheses[:-1]),
            np.split(stored["precision"].astype(float), levels[:-1]),
            stored["tre"].tolist(),
            np.split(stored["level_tre"].astype(float), levels[:-1]),
            strict=True,
        )
        return tuple(
            FittedCase(features, errors, LevelPrecision(*precision.T), tre, level_tre)
            for features, errors, precision, tre, level_tre in parts
        )
    except (ValueError, TypeError, KeyError, IndexError, OSError, EOFError, BadZipFile):
        raise ValueError(
            f"{path}: is broken; delete it, or write it again with experiments.calibrate"
        ) from None
