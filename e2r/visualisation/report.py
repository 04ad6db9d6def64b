"""The report of an evaluation: collects what ``report.html.jinja`` shows on one offline page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup

from e2r.evaluation.calibration import SUCCESS_THRESHOLD_MM
from e2r.evaluation.metrics import SUCCESS_MM, ErrorSummary
from e2r.evaluation.predictions import CaseScores, Prediction
from e2r.evaluation.published import all_published
from e2r.evaluation.summary import RiskCoverageCurve, Summary
from e2r.runtime.atomic_files import atomic_write
from e2r.visualisation.figures import scene_figure
from e2r.visualisation.pages import data_url, figure_html, render
from e2r.visualisation.plots import risk_coverage_curve, success_curves, training_curves
from e2r.visualisation.snapshots import Snapshot, true_targets

MAX_FAILED_CASES = 100
"""Failed cases that are listed; the others are only counted."""
SUMMARY_COLUMNS = (
    "cases",
    "median TRE, mm",
    "95% interval, mm",
    "mean TRE, mm",
    "95th percentile TRE, mm",
    "mean RMSE, mm",
    "median rotation error, °",
    "median translation error, mm",
    *(f"success rate, {mm}\N{NO-BREAK SPACE}mm" for mm in SUCCESS_MM),
)
"""Columns of a table of summaries."""
CASE_COLUMNS = (
    "case",
    "specimen",
    "TRE, mm",
    "RMSE, mm",
    "rotation error, °",
    "translation error, mm",
    "expected TRE, mm",
    "accepted",
)
"""Columns of the table of all cases."""


class Card(NamedTuple):
    """A figure in large print."""

    value: str
    caption: str


class Table(NamedTuple):
    """A table; cells are plain text."""

    element_id: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    sortable: bool = False  # by a click on a column's heading


class WorstCase(NamedTuple):
    """A case that is drawn."""

    id: str
    tre: str | None  # with its unit; None without a truth
    verdict: str  # whether the pose may be used, and its expected error
    accepted: bool
    kept_points: int
    num_points: int
    overlay_url: str | None  # data URL of the mask overlay; None for a case without an image
    figure: Markup


class Report(NamedTuple):
    """Everything that the template shows; None or empty where the job has no such result."""

    num_cases: int
    num_registered: int
    num_failed: int
    cases_origin: str
    trained_model: str
    device: str
    primary_mask: str
    wrong_mm: float  # a case with a larger TRE is wrong
    cards: Sequence[Card]
    masks: Table
    success: Markup | None
    risk_coverage: Markup | None
    by_level: Table | None
    by_specimen: Table | None
    published: Table | None
    training: Markup | None
    worst: Sequence[WorstCase]
    cases: Table
    failures: Sequence[str]
    num_unlisted_failures: int
    versions: Table
    settings: str


def write_report(
    path: Path,
    summary: Summary,
    *,
    predictions: Sequence[Prediction],
    scores: Sequence[CaseScores],
    snapshots: Sequence[Snapshot] = (),
    training_log: Sequence[Mapping[str, float | int]] = (),
) -> None:
    """Writes the report.

    Args:
      path: the HTML file.
      summary: of the evaluation.
      predictions: of every case.
      scores: of every registered case.
      snapshots: the cases to draw, the worst first.
      training_log: lines of the training run's ``metrics.jsonl``.
    """
    scored = any(summary.masks.values())
    curve = summary.trust.curve if summary.trust else None
    failures = [f"{one.id}: {one.error}" for one in predictions if one.error]
    by_id = {prediction.id: prediction for prediction in predictions}
    report = Report(
        num_cases=summary.cases,
        num_registered=summary.predicted,
        num_failed=summary.failed,
        cases_origin=Path(summary.settings["cases"]).resolve().name,
        trained_model=Path(summary.settings["checkpoint"]).name,
        device=summary.device,
        primary_mask=summary.mask,
        wrong_mm=SUCCESS_THRESHOLD_MM,
        cards=_cards(summary),
        masks=_mask_table(summary),
        success=_success_figure(summary, scores) if scored else None,
        risk_coverage=_risk_figure(curve) if curve else None,
        by_level=_group_table("level", summary.by_level) if scored else None,
        by_specimen=_group_table("specimen", summary.by_specimen) if scored else None,
        published=_published_table(summary) if scored else None,
        training=figure_html(training_curves(training_log), "training") if training_log else None,
        worst=[
            _worst_case(snapshot, by_id.get(snapshot.id), f"case{i}")
            for i, snapshot in enumerate(snapshots)
        ],
        cases=_case_table(predictions, scores, summary.mask),
        failures=failures[:MAX_FAILED_CASES],
        num_unlisted_failures=max(len(failures) - MAX_FAILED_CASES, 0),
        versions=_version_table(summary),
        settings=_settings_text(summary),
    )
    page = render("report.html.jinja", title="e2r evaluation", report=report)
    with atomic_write(path) as part:
        part.write_text(page, encoding="utf-8")


def _cards(summary: Summary) -> list[Card]:
    cards = []
    errors = summary.masks[summary.mask]
    if errors is not None:
        interval = _interval(errors.tre_interval95["median"])
        cards = [
            Card(
                f"{errors.tre_mm['median']:.2f} mm",
                f"median TRE, {summary.mask} mask (95% interval {interval} mm)",
            ),
            Card(f"{errors.success['2mm']:.1%}", "success rate (TRE below 2\N{NO-BREAK SPACE}mm)"),
        ]
    trust, seconds = summary.trust, summary.seconds_per_frame
    if trust is None or trust.wrong is None:
        cards.append(Card(f"{summary.accepted} of {summary.cases}", "cases accepted"))
    else:
        wrong = (
            f"{trust.wrong:.1%} of those with a truth are {SUCCESS_THRESHOLD_MM:g} mm off or more"
        )
        share = f"{summary.accepted} of {summary.cases} cases accepted; {wrong}"
        cards.append(Card(f"{summary.accepted / summary.cases:.1%}", share))
    time = (
        f"median time per case, all masks, without compiling; 95th percentile {seconds.p95:.2f} s"
    )
    cards.append(Card(f"{seconds.median:.2f} s", time))
    return cards


def _mask_table(summary: Summary) -> Table:
    rows = []
    for mask, errors in summary.masks.items():
        keep = summary.keep[mask]
        rows.append([mask, "" if keep is None else f"{keep:.1%}", *_summary_cells(errors)])
    return Table("masks", ["mask", "points kept", *SUMMARY_COLUMNS], rows)


def _group_table(group: str, summaries: Mapping[str, ErrorSummary | None]) -> Table:
    rows = [[name, *_summary_cells(errors)] for name, errors in summaries.items()]
    return Table(f"by_{group}", [group, *SUMMARY_COLUMNS], rows)


def _summary_cells(errors: ErrorSummary | None) -> list[str]:
    """The cells of :data:`SUMMARY_COLUMNS`."""
    if errors is None:
        return ["0", "no case has a truth", *[""] * (len(SUMMARY_COLUMNS) - 2)]
    return [
        f"{errors.count}",
        f"{errors.tre_mm['median']:.2f}",
        _interval(errors.tre_interval95["median"]),
        f"{errors.tre_mm['mean']:.2f}",
        f"{errors.tre_mm['p95']:.2f}",
        f"{errors.rmse_mm:.2f}",
        f"{errors.rotation_deg:.2f}",
        f"{errors.translation_mm:.2f}",
        *(f"{errors.success[f'{mm}mm']:.1%}" for mm in SUCCESS_MM),
    ]


def _published_table(summary: Summary) -> Table:
    columns = ["measure", "published", "method", "data", "this evaluation", "95% interval, mm"]
    figures = summary.to_json()
    rows = []
    for published in all_published():
        value: Any = figures
        for key in published.summary_keys:
            value = value[key]
        median = published.summary_keys == ("tre_mm", "median")
        rows.append(
            [
                f"{published.measure}, mm",
                f"{published.mm:.2f}",
                published.method,
                published.data,
                f"{value:.2f}",
                _interval(figures["tre_mm"]["interval95"]["median"]) if median else "",
            ]
        )
    return Table("published", columns, rows)


def _case_table(
    predictions: Sequence[Prediction], scores: Sequence[CaseScores], mask: str
) -> Table:
    """All cases, the worst first; those that failed come last."""

    def badness(case: CaseScores) -> float:
        return case.errors[mask].tre_mm if mask in case.errors else 0.0

    by_id = {prediction.id: prediction for prediction in predictions}
    rows = []
    for case in sorted(scores, key=badness, reverse=True):
        cells = [""] * 4
        if mask in case.errors:
            errors = case.errors[mask]
            measures = (errors.tre_mm, errors.rmse_mm, errors.rotation_deg, errors.translation_mm)
            cells = [f"{measure:.2f}" for measure in measures]
        expected = by_id[case.id].expected_tre_mm
        cells.append("" if expected is None else f"{expected:.2f}")
        cells.append("yes" if by_id[case.id].accepted else "no")
        rows.append([case.id, case.source, *cells])
    failed = [one.id for one in predictions if one.error]
    rows += [[name, *[""] * (len(CASE_COLUMNS) - 2), "failed"] for name in failed]
    return Table("cases", CASE_COLUMNS, rows, sortable=True)


def _version_table(summary: Summary) -> Table:
    values = {"seed": summary.seed, "device": summary.device, **summary.versions}
    return Table("versions", ["name", "value"], [[k, str(v)] for k, v in values.items()])


def _settings_text(summary: Summary) -> str:
    figures = summary.to_json()
    shown = {key: figures[key] for key in ("settings", "seed", "versions", "seconds_per_frame")}
    return json.dumps(shown, indent=1)


def _success_figure(summary: Summary, scores: Sequence[CaseScores]) -> Markup:
    tre = {
        mask: np.array([case.errors[mask].tre_mm for case in scores if mask in case.errors])
        for mask in summary.masks
    }
    return _figure(success_curves(tre), "success", 340)


def _risk_figure(curve: RiskCoverageCurve) -> Markup:
    return _figure(risk_coverage_curve(curve), "risk", 340)


def _worst_case(snapshot: Snapshot, prediction: Prediction | None, element_id: str) -> WorstCase:
    figure = scene_figure(
        snapshot.points,
        snapshot.colors,
        snapshot.weights,
        surfaces=snapshot.surfaces,
        poses=snapshot.poses,
        targets=true_targets(snapshot) if snapshot.truth else None,
    )
    figure.update_layout(legend={"itemsizing": "constant", "x": 0, "y": 1, "font": {"size": 11}})
    return WorstCase(
        id=snapshot.id,
        tre=None if snapshot.tre_mm is None else f"{snapshot.tre_mm:.2f} mm",
        verdict=_verdict(prediction),
        accepted=prediction is not None and prediction.accepted,
        kept_points=len(snapshot.masked_points),
        num_points=len(snapshot.points),
        overlay_url=None if snapshot.overlay is None else data_url(snapshot.overlay),
        figure=_figure(figure, element_id, 380),
    )


def _verdict(prediction: Prediction | None) -> str:
    """Whether a pose may be used, and its expected error, in a few words."""
    if prediction is None:
        return "no prediction"
    words = "accepted" if prediction.accepted else "not accepted"
    expected = prediction.expected_tre_mm
    return words if expected is None else f"{words}, expected TRE {expected:.2f} mm"


def _figure(figure: go.Figure, element_id: str, height: int) -> Markup:
    """A figure as HTML, of this height in pixels."""
    return figure_html(figure.update_layout(height=height), element_id)


def _interval(ends: Sequence[float]) -> str:
    return f"{ends[0]:.2f}–{ends[1]:.2f}"
