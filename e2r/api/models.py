"""Loads a trained model."""

from __future__ import annotations

import os
from pathlib import Path

from e2r.config import EvaluationConfig
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


def require_job(job: object) -> None:
    """Refuses what are no settings of an evaluation.

    Args:
      job: what the caller gave.

    Raises:
      TypeError: it is no :class:`EvaluationConfig`.
    """
    if not isinstance(job, EvaluationConfig):
        raise TypeError(f"job is a {type(job).__name__}; give an e2r.EvaluationConfig")


def require_model(model: object) -> None:
    """Refuses what is no model.

    Args:
      model: what the caller gave.

    Raises:
      TypeError: it is no :class:`Model`.
    """
    if not isinstance(model, Model):
        raise TypeError(f"model is a {type(model).__name__}; give what e2r.load_model returns")
