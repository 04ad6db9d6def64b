"""Loads a trained model."""

from __future__ import annotations

import os
from pathlib import Path

from e2r.config import EvaluationConfig, TrainingConfig
from e2r.evaluation.models import Model, read_model
from e2r.training.trained_model import PACKAGED


def load_model(folder: str | os.PathLike[str] | None = None) -> Model:
    """Loads a trained model.

    Args:
      folder: output folder of ``e2r train`` or ``experiments.publish``; by default, the
        model that comes with e2r.

    Raises:
      ValueError: no usable checkpoint in the folder.
    """
    return read_model(PACKAGED if folder is None else Path(folder))


GIVE = {
    Model: "what e2r.load_model returns",
    EvaluationConfig: "an e2r.EvaluationConfig",
    TrainingConfig: "an e2r.TrainingConfig",
}
"""Type of an argument -> what to give."""


def require_type(kind: type, **named: object) -> None:
    """Refuses arguments of another type.

    Args:
      kind: one of :data:`GIVE`.
      **named: what the caller gave, by the argument's name.

    Raises:
      TypeError: one of them is something else.
    """
    for name, value in named.items():
        if not isinstance(value, kind):
            raise TypeError(f"{name} is a {type(value).__name__}; give {GIVE[kind]}")
