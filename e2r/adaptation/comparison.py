"""Base and adapted model on the same held-out frames, each alone and both together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from e2r.config import EvaluationConfig
from e2r.datasets.case import Case
from e2r.evaluation import runner
from e2r.evaluation.calibration_cases import fitted_case
from e2r.evaluation.calibration_fit import FittedCase
from e2r.evaluation.models import Model
from e2r.evaluation.results import Registered
from e2r.evaluation.visible import visible_levels

ONE_TRY = EvaluationConfig(retry_below=0.0)
"""The frames are compared in one try each."""


class Comparison(NamedTuple):
    """The figures of base, adapted and both, and the cases to calibrate both with."""

    rows: list[dict[str, Any]]
    fitted: tuple[FittedCase, ...]


def compare(cases: Sequence[Case], base: Model, adapted: Model) -> Comparison:
    """Registers the frames with each model, without an initial pose.

    Of both together, the result with more evidence counts, as in a later registration.

    Args:
      cases: held-out frames of the patient, with a truth.
      base: before the adaptation.
      adapted: after it.
    """
    alone = {"base": _registered(cases, base), "adapted": _registered(cases, adapted)}
    shared = [name for name in alone["base"] if name in alone["adapted"]]
    both = {
        name: max((alone[one][name] for one in alone), key=lambda found: found.evidence("learnt"))
        for name in shared
    }
    seen = {name: visible_levels(one.case) for name, one in both.items()}
    rows = [_figures(name, found, seen) for name, found in {**alone, "both": both}.items()]
    fitted = [fitted_case(one, foreign=False, seen=seen[name]) for name, one in both.items()]
    return Comparison(rows, tuple(fitted))


def _registered(cases: Sequence[Case], model: Model) -> dict[str, Registered]:
    """The results of the frames that could be registered, by id."""
    single = replace(model, others=(), patient=None)
    results = tqdm(
        runner.run(cases, single, job=ONE_TRY), total=len(cases), desc="compare", unit="case"
    )
    return {one.case.id: one for one in results if isinstance(one, Registered)}


def _figures(
    name: str, found: Mapping[str, Registered], seen: Mapping[str, set[str]]
) -> dict[str, Any]:
    """The errors of the levels that the camera sees, over all frames."""
    tre = np.array(
        [
            errors.tre_mm
            for case in seen
            for level, errors in found[case].errors["learnt"].by_level.items()
            if level in seen[case]
        ]
    )
    return {
        "model": name,
        "frames": len(seen),
        "levels": len(tre),
        "median_tre_mm": float(np.median(tre)) if len(tre) else None,
        "below_2mm": float(np.mean(tre < 2.0)) if len(tre) else None,
        "below_5mm": float(np.mean(tre < 5.0)) if len(tre) else None,
    }
