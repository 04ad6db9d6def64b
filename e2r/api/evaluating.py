"""Registers many cases, in memory, and measures the errors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from e2r.api.models import require_type
from e2r.config import EvaluationConfig
from e2r.datasets.case import Case
from e2r.datasets.case_folder import as_case, find_cases
from e2r.evaluation import runner
from e2r.evaluation.errors_table import table_rows
from e2r.evaluation.models import Model
from e2r.evaluation.predictions import CaseScores, Prediction, judge_case
from e2r.evaluation.results import Failed
from e2r.evaluation.summary import Summary, summarise_job, summary_table
from e2r.runtime.compile_cache import enable_cache
from e2r.runtime.provenance import code_record
from e2r.runtime.registry import PluginName


@dataclass(frozen=True)
class Evaluation:
    """The results of :func:`evaluate`."""

    summary: Summary
    """all figures"""
    predictions: dict[str, list[Prediction]]
    """mask name -> prediction of every case, also of failed ones"""
    scores: list[CaseScores]
    """errors of every registered case"""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row a case and mask, as in ``errors.csv``; pandas makes a table of them."""
        return table_rows(self.predictions, self.scores)

    def to_table(self) -> str:
        """The figures of each mask as text."""
        return summary_table(self.summary)

    def __repr__(self) -> str:
        """The table."""
        return f"<Evaluation of {self.summary.cases} cases>\n{self.to_table()}"


def evaluate(
    cases: str | os.PathLike[str] | Iterable[Case | str | os.PathLike[str]],
    model: Model,
    *,
    masks: str | Sequence[str] = ("learnt",),
    estimator: PluginName = "soft",
    job: EvaluationConfig = EvaluationConfig(),
) -> Evaluation:
    """Registers many cases and measures the errors, in memory.

    A case that cannot be registered, or has the id of another, counts as failed. ``e2r evaluate``
    is for long jobs.

    Args:
      cases: a data set's folder; or cases, and folders of cases.
      model: the trained model.
      masks: masks to register under: all, learnt, oracle.
      estimator: how logits become weights of the learnt mask: its name, or a function.
      job: initial pose, schedule, seed; masks and estimator are set in it.

    Raises:
      ValueError: the folder holds no case, or the settings are refused.
      TypeError: the model is no :class:`Model`, the job no :class:`EvaluationConfig`, or a case
        neither a case nor a path.
    """
    require_type(Model, model=model)
    require_type(EvaluationConfig, job=job)
    masks = (masks,) if isinstance(masks, str) else masks
    if isinstance(cases, (str, os.PathLike)):
        cases = find_cases(Path(cases))
    enable_cache()
    program = replace(job.program, masks=tuple(masks), estimator=estimator)
    job = replace(job, program=program)
    predictions: dict[str, list[Prediction]] = {mask: [] for mask in program.masks}
    scores: list[CaseScores] = []
    order: dict[str, int] = {}

    def read() -> Iterator[Case | Failed]:
        for number, case in enumerate(map(_read_or_fail, cases), 1):
            known = case.id in order
            name = f"{case.id} (case {number})" if known else case.id
            order[name] = len(order)
            message = f"{case.id}: another case has this id; give it its own"
            yield Failed(name, message) if known else case

    for result in runner.run(read(), model, job=job):
        outcome = judge_case(result, program.masks, calibration=model.calibration)
        for mask, several in predictions.items():
            several.append(outcome.predictions[mask])
        if outcome.scores is not None:
            scores.append(outcome.scores)
    for several in predictions.values():
        several.sort(key=lambda prediction: order[prediction.id])
    scores.sort(key=lambda score: order[score.id])
    summary = summarise_job(
        predictions[job.primary_mask],
        scores,
        job=job,
        config=model.config,
        origin={},
        code=code_record(model.config.network, program, program.schedule),
    )
    return Evaluation(summary, predictions, scores)


def _read_or_fail(case: Case | str | os.PathLike[str]) -> Case | Failed:
    try:
        return as_case(case)
    except (ValueError, OSError) as error:
        return Failed(str(case), str(error))
