"""Compares masks on the same cases: the errors of every case, and figures over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from e2r.config import EvaluationConfig, TrainingConfig
from e2r.datasets.case import Case
from e2r.evaluation import metrics, runner
from e2r.evaluation.models import Model
from e2r.evaluation.results import Registered
from e2r.pipeline import ProgramConfig
from e2r.types import Params


def errors_by_mask(
    cases: Sequence[Case],
    config: TrainingConfig,
    params: Params,
    *,
    masks: tuple[str, ...],
    start: str = "auto",
) -> dict[str, dict[str, Any]]:
    """Registers cases with one pose for all levels and no second try.

    Args:
      cases: each with a truth.
      config: the settings that the network was trained with.
      params: of the network.
      masks: all, learnt or oracle.
      start: initial pose: auto or truth, as in :class:`e2r.config.EvaluationConfig`.

    Returns:
      mask -> ``tre_mm``, ``source`` and ``id``, each with an entry for each registered case.
    """
    job = EvaluationConfig(ProgramConfig(masks=masks, per_level=False), start, retry_below=0.0)
    results = [
        r for r in runner.run(cases, Model(config, params), job=job) if isinstance(r, Registered)
    ]
    return {
        mask: {
            "tre_mm": [result.errors[mask].tre_mm for result in results],
            "source": [result.case.source for result in results],
            "id": [result.case.id for result in results],
        }
        for mask in masks
    }


def pooled_figures(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures over the cases of several runs together.

    Args:
      runs: for each run the errors of one mask, as :func:`errors_by_mask` returns them.

    Returns:
      ``median`` (mm), its ``interval95`` over specimens, ``below_2mm`` and ``below_5mm`` (shares).
    """
    tre = np.concatenate([run["tre_mm"] for run in runs])
    specimens = [source for run in runs for source in run["source"]]
    return {
        "median": float(np.median(tre)),
        "interval95": metrics.bootstrap(tre, specimens, metrics.STATISTICS["median"], seed=0),
        "below_2mm": float(np.mean(tre < 2.0)),
        "below_5mm": float(np.mean(tre < 5.0)),
    }
