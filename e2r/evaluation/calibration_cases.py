"""The cases that a calibration is fitted to: some under a cloth, some with a foreign model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

import jax
import numpy as np

from e2r.config import EvaluationConfig
from e2r.datasets.case import Case, scored_targets
from e2r.evaluation import metrics, runner
from e2r.evaluation.calibration_fit import FittedCase
from e2r.evaluation.metrics import CaseErrors
from e2r.evaluation.models import Model
from e2r.evaluation.preparation import stable_seed
from e2r.evaluation.results import Registered
from e2r.evaluation.visible import visible_levels
from e2r.simulation.cloth import hide_bone

MAX_HIDDEN = 0.6
"""Largest share of a frame's bone that a cloth hides."""


def with_cloths(cases: Iterable[Case], every: int, seed: int) -> Iterator[Case]:
    """Lays a cloth over one frame of so many, which hides up to 60 % of its bone.

    Args:
      cases: simulated ones.
      every: such a frame follows so many less one that stay as they are; 0: none does.
      seed: of the cloths.
    """
    for number, case in enumerate(cases):
        if every and number % every == every - 1:
            rng = np.random.default_rng([seed, stable_seed(case.id)])
            yield hide_bone(case, rng.uniform(0.0, MAX_HIDDEN), rng)
        else:
            yield case


def with_foreign_models(cases: Iterable[Case], every: int) -> Iterator[Case]:
    """Gives every so many frames the model of the specimen before; they have no truth then.

    Args:
      cases: specimen after specimen.
      every: such a frame follows so many less one that keep their model; 0: none does.
    """
    before: Case | None = None  # the latest case of another specimen
    last: Case | None = None
    for number, case in enumerate(cases, 1):
        if last is not None and last.source != case.source:
            before = last
        last = case
        if every and before is not None and number % every == 0:
            model = before.model
            yield replace(case, model=model, exposed=None, targets=None, truth=None, folder=None)
        else:
            yield case


def register_cases(
    cases: Iterable[Case], model: Model, *, job: EvaluationConfig = EvaluationConfig()
) -> Iterator[FittedCase]:
    """Registers the cases, without an initial pose; those that fail are left out.

    Args:
      cases: with a truth; those without one have another specimen's model.
      model: the trained networks.
      job: as the cases are registered later.
    """
    for result in runner.run(cases, model, job=job):
        if isinstance(result, Registered):
            yield fitted_case(result, foreign=result.case.truth is None)


def fitted_case(
    result: Registered, *, foreign: bool, seen: Collection[str] | None = None
) -> FittedCase:
    """What a registered case tells the calibration, under the learnt mask.

    Args:
      result: of a case with a truth, or with another specimen's model.
      foreign: whether its model is another specimen's.
      seen: the levels that the camera sees, where they are known.
    """
    case, hypotheses = result.case, result.hypotheses["learnt"]
    rows = np.flatnonzero(hypotheses.distinct)
    features, precision = result.hypothesis_features("learnt")[rows], result.precisions["learnt"]
    if foreign:
        return FittedCase(
            features,
            np.full(len(rows), np.inf),
            precision,
            np.inf,
            np.full(len(precision.inliers), np.nan),
        )
    targets = scored_targets(case)
    seen = set(visible_levels(case) if seen is None else seen) & set(targets)
    found = [
        dict.fromkeys(case.model, jax.tree.map(lambda leaf, row=row: leaf[row], hypotheses.pose))
        for row in rows
    ]
    deep = metrics.deep_targets(case.model, targets)
    errors = [
        metrics.case_errors(one, case.truth or {}, targets, model=case.model, deep=deep)
        for one in found
    ]
    errors[0] = result.errors["learnt"]  # with one pose a level, as predictions have it
    by_level = errors[0].by_level
    return FittedCase(
        features,
        np.array([middle_level(one, seen) for one in errors]),
        precision,
        errors[0].tre_mm,
        np.array([by_level[name].tre_mm if name in seen else np.nan for name in case.model]),
    )


def middle_level(errors: CaseErrors, seen: Collection[str]) -> float:
    """The median TRE of the levels that are seen, mm; the TRE of the case where none is."""
    return float(np.median([errors.by_level[name].tre_mm for name in seen] or [errors.tre_mm]))
