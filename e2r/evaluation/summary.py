"""The figures of a job: error statistics by mask, level and specimen, risk–coverage, time."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from e2r.config import EvaluationConfig, TrainingConfig, config_to_json
from e2r.evaluation import metrics
from e2r.evaluation.calibration import SUCCESS_THRESHOLD_MM
from e2r.evaluation.metrics import ErrorSummary
from e2r.evaluation.predictions import CaseScores, Prediction
from e2r.types import Float


@dataclass(frozen=True)
class RiskCoverageCurve:
    """Risk by coverage: the cases in order of their expected TRE, the smallest first."""

    coverage: list[float]
    """share of the cases so far"""
    wrong: list[float]
    """share of those that is 5 mm off or more"""
    expected_tre_mm: list[float]
    """of the last of them"""


@dataclass(frozen=True)
class RiskCoverage:
    """How far the predictions' own confidence is right."""

    coverage: float
    """share of the cases with a truth that are accepted"""
    wrong: float | None
    """share of the accepted cases that is 5 mm off or more; None where none is accepted"""
    curve: RiskCoverageCurve | None
    """None without a calibration"""


@dataclass(frozen=True)
class Seconds:
    """Seconds a frame, without compiling programs."""

    median: float
    """of the cases after the first batch"""
    p95: float
    """of the cases after the first batch"""
    first: float
    """of the first batch as a whole"""


@dataclass(frozen=True)
class Summary:
    """All figures of a job: its ``summary.json``."""

    cases: int
    predicted: int
    failed: int
    accepted: int
    mask: str
    """the mask whose figures stand at the top level"""
    seconds_per_frame: Seconds
    trust: RiskCoverage | None
    """None where no case has a truth"""
    masks: dict[str, ErrorSummary | None]
    """mask name -> statistics; None where no case has a truth"""
    keep: dict[str, float | None]
    """mask name -> mean share of the points that it keeps; None where no case has a truth"""
    by_level: dict[str, ErrorSummary | None]
    by_specimen: dict[str, ErrorSummary | None]
    settings: dict[str, Any]
    seed: int
    versions: dict[str, str]
    device: str

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON values, in the form of ``summary.json``."""

        def plain(summaries: dict[str, ErrorSummary | None]) -> dict[str, dict[str, Any]]:
            return {name: metrics.summary_to_json(one) for name, one in summaries.items()}

        masks = plain(self.masks)
        top = {key: value for key, value in masks[self.mask].items() if key != "count"}
        return {
            "cases": self.cases,
            "predicted": self.predicted,
            "failed": self.failed,
            "accepted": self.accepted,
            "mask": self.mask,
            **top,
            "seconds_per_frame": dataclasses.asdict(self.seconds_per_frame),
            "trust": self.trust and dataclasses.asdict(self.trust),
            "masks": {name: {**one, "keep": self.keep[name]} for name, one in masks.items()},
            "by_level": plain(self.by_level),
            "by_specimen": plain(self.by_specimen),
            "settings": self.settings,
            "seed": self.seed,
            "versions": self.versions,
            "device": self.device,
        }


def summarise_job(
    predictions: Sequence[Prediction],
    scores: Sequence[CaseScores],
    *,
    job: EvaluationConfig,
    config: TrainingConfig,
    origin: dict[str, Any],
    code: dict[str, str],
    device: str = "",
) -> Summary:
    """Computes all figures of a job.

    Args:
      predictions: of every case.
      scores: of every registered case.
      job: the evaluation's settings.
      config: the trained networks' settings.
      origin: names of the cases and of the checkpoint, for the record.
      code: what computed the figures, by :func:`e2r.runtime.provenance.code_record`.
      device: kind of the devices that registered; this process's, if empty.
    """
    mask = job.primary_mask
    good = [prediction for prediction in predictions if prediction.error is None]
    scored = [one for one in scores if mask in one.errors]

    def summarise(errors: Sequence[metrics.TargetErrors], groups: list[str]) -> ErrorSummary | None:
        return metrics.summarise(errors, groups, seed=job.seed)

    by_level, by_specimen = {}, {}
    for level in sorted({name for one in scored for name in one.errors[mask].by_level}):
        some = [one for one in scored if level in one.errors[mask].by_level]
        by_level[level] = summarise(
            [one.errors[mask].by_level[level] for one in some], [one.specimen for one in some]
        )
    specimens = [one.specimen for one in scored]
    for specimen in sorted(set(specimens)):
        some = [one for one in scored if one.specimen == specimen]
        by_specimen[specimen] = summarise(
            [one.errors[mask] for one in some], [one.id for one in some]
        )
    by_id = {prediction.id: prediction for prediction in good}
    return Summary(
        cases=len(predictions),
        predicted=len(good),
        failed=len(predictions) - len(good),
        accepted=sum(prediction.accepted for prediction in good),
        mask=mask,
        seconds_per_frame=_seconds([prediction.seconds for prediction in good], job.batch),
        trust=risk_coverage(
            [by_id[one.id] for one in scored], np.array([one.errors[mask].tre_mm for one in scored])
        ),
        masks={
            name: summarise([one.errors[name] for one in scored], specimens)
            for name in job.program.masks
        },
        keep={
            name: float(np.mean([one.keep[name] for one in scored])) if scored else None
            for name in job.program.masks
        },
        by_level=by_level,
        by_specimen=by_specimen,
        settings={
            **origin,
            "job": json.loads(json.dumps(dataclasses.asdict(job))),
            "config": config_to_json(config),
        },
        seed=job.seed,
        versions=code,
        device=device or str(jax.devices()[0].device_kind),
    )


def _seconds(seconds: Sequence[float], batch: int) -> Seconds:
    """The times of all predictions, in order."""
    every = np.array(seconds or [0.0])
    warm = every[batch:] if len(every) > batch else every
    return Seconds(
        median=float(np.median(warm)),
        p95=float(np.quantile(warm, 0.95)),
        first=float(every[:batch].sum()),
    )


def risk_coverage(
    predictions: Sequence[Prediction], tre: Float[np.ndarray, "n"]
) -> RiskCoverage | None:
    """Compares the predictions' confidence with the truth; None without cases.

    Args:
      predictions: of each case.
      tre: error of each case, mm.
    """
    if not predictions:
        return None
    accepted = np.array([prediction.accepted for prediction in predictions])
    wrong = tre >= SUCCESS_THRESHOLD_MM
    known = [p.expected_tre_mm for p in predictions if p.expected_tre_mm is not None]
    curve = None
    if len(known) == len(predictions):
        expected = np.array(known)
        order = np.argsort(expected, kind="stable")
        count = np.arange(1, len(order) + 1)
        curve = RiskCoverageCurve(
            coverage=(count / len(order)).round(5).tolist(),
            wrong=(np.cumsum(wrong[order]) / count).round(5).tolist(),
            expected_tre_mm=expected[order].round(4).tolist(),
        )
    return RiskCoverage(
        coverage=float(accepted.mean()),
        wrong=float(wrong[accepted].mean()) if accepted.any() else None,
        curve=curve,
    )


def summary_table(summary: Summary) -> str:
    """The statistics of each mask as a table of text."""
    lines = [
        f"{'mask':8s} {'cases':>5s} {'keep':>6s}   {'median TRE [95 % interval]':>28s} "
        f"{'mean':>8s} {'p95':>8s}   {'<2 mm':>6s} {'<3 mm':>6s} {'<5 mm':>6s}"
    ]
    for name, errors in summary.masks.items():
        if errors is None:
            lines.append(f"{name:8s}     0   no case has a truth to compare with")
            continue
        low, high = errors.tre_interval95["median"]
        median = f"{errors.tre_mm['median']:.2f} mm [{low:.2f}, {high:.2f}]"
        lines.append(
            f"{name:8s} {errors.count:5d} {summary.keep[name]:6.1%}   {median:>28s} "
            f"{errors.tre_mm['mean']:8.2f} {errors.tre_mm['p95']:8.2f}   "
            + " ".join(f"{errors.success[key]:6.1%}" for key in ("2mm", "3mm", "5mm"))
        )
    trust = summary.trust
    if trust is not None and trust.wrong is not None:
        lines.append(
            f"accepted: {summary.accepted} of {summary.cases} cases "
            f"({summary.accepted / summary.cases:.1%}); {trust.wrong:.1%} of those with a truth "
            "are 5 mm off or more"
        )
    return "\n".join(lines)
