"""Base and adapted model on the same held-out frames, each alone and both together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from e2r.config import EvaluationConfig
from e2r.datasets.case import Case
from e2r.evaluation import metrics, runner
from e2r.evaluation.calibration import SUCCESS_THRESHOLD_MM
from e2r.evaluation.calibration_cases import fitted_case
from e2r.evaluation.calibration_fit import FittedCase
from e2r.evaluation.models import Model
from e2r.evaluation.results import Registered
from e2r.evaluation.visible import visible_levels

ONE_TRY = EvaluationConfig(retry_below=0.0)
"""The frames are compared in one try each."""


class Comparison(NamedTuple):
    """The figures of base, adapted and both, and what follows from them."""

    rows: list[dict[str, Any]]
    believed: str  # "both", or "base" where both together are worse than it
    fitted: tuple[FittedCase, ...]  # of those that are believed, to calibrate them


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
    kept = believed(rows)
    fitted = [
        fitted_case(found, foreign=False, seen=seen[name])
        for name, found in (alone["base"] if kept == "base" else both).items()
        if name in seen
    ]
    return Comparison(rows, kept, tuple(fitted))


def believed(rows: Sequence[Mapping[str, Any]]) -> str:
    """Who is asked in later registrations: ``both``, or ``base`` alone where both are worse.

    They are worse if the mean of the levels' errors is larger, each counted as 5 mm at most: how
    far a lost level is off does not count. So an adaptation that brings nothing costs nothing.

    Args:
      rows: of :func:`compare`.
    """
    errors = {row["model"]: np.minimum(row["tre_mm"], SUCCESS_THRESHOLD_MM) for row in rows}
    return "base" if np.sum(errors["both"]) > np.sum(errors["base"]) else "both"


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
    errors = [
        (case, one.tre_mm)
        for case in seen
        for level, one in found[case].errors["learnt"].by_level.items()
        if level in seen[case]
    ]
    tre = np.array([value for _, value in errors])
    known = len(tre) > 0
    median = metrics.STATISTICS["median"]
    return {
        "model": name,
        "frames": len(seen),
        "levels": len(tre),
        "median_tre_mm": float(np.median(tre)) if known else None,
        "interval_mm": metrics.bootstrap(tre, [case for case, _ in errors], median, seed=0)
        if known
        else None,
        "below_2mm": float(np.mean(tre < 2.0)) if known else None,
        "below_5mm": float(np.mean(tre < 5.0)) if known else None,
        "tre_mm": tre.round(4).tolist(),
    }
