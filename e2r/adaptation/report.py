"""What an adaptation reached: ``report.json``, and the same as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from e2r.evaluation.text_table import text_table
from e2r.formats import file_checks
from e2r.runtime.atomic_files import atomic_write

REPORT_FILE = "report.json"
NONE = "-"
BELIEVED = {
    "both": "Each frame will be shown to both; the surer one is believed.",
    "base": "Both together are worse than the base here, so the base alone will be asked.",
}
"""Who is asked -> what a reader is told of it."""
ROW_FIELDS = (
    "model",
    "frames",
    "levels",
    "median_tre_mm",
    "interval_mm",
    "below_2mm",
    "below_5mm",
    "tre_mm",
)
"""What a report says of each model."""


class CurvePoint(NamedTuple):
    """The held-out figures at a step of the training."""

    step: int
    minutes: float  # of training
    tre_mm: float  # median
    below_2mm: float  # share of the frames


@dataclass(frozen=True)
class Report:
    """What an adaptation reached, on held-out simulated frames of the patient."""

    rows: Sequence[dict[str, Any]]
    """of base, adapted and both, without an initial pose"""
    curve: Sequence[CurvePoint]
    """along the training, from initial poses near the true ones"""
    steps: int
    seconds: float
    """of this command"""
    believed: str
    """who is asked in later registrations: ``both``, or ``base`` alone"""


def report_to_json(report: Report) -> dict[str, Any]:
    """A report as JSON values.

    Args:
      report: of the adaptation.
    """
    return {
        "models": list(report.rows),
        "curve": [point._asdict() for point in report.curve],
        "steps": report.steps,
        "seconds": round(report.seconds, 1),
        "believed": report.believed,
    }


def write_report(report: Report, path: Path) -> None:
    """Writes a report.

    Args:
      report: of the adaptation.
      path: the JSON file.
    """
    with atomic_write(path) as part:
        part.write_text(json.dumps(report_to_json(report), indent=1) + "\n")


def read_report(path: Path) -> Report:
    """Reads a report.

    Args:
      path: the JSON file.

    Raises:
      ValueError: it is broken, or of an older build.
    """
    try:
        value = file_checks.parse_json(path.read_text())
        rows = [{name: row[name] for name in ROW_FIELDS} for row in value["models"]]
        curve = [CurvePoint(**point) for point in value["curve"]]
        steps, seconds, believed = int(value["steps"]), float(value["seconds"]), value["believed"]
        if believed not in BELIEVED:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path}: is no report of this e2r; delete it, and give the same command again: the "
            "training is kept"
        ) from None
    return Report(rows, curve, steps, seconds, believed)


def report_text(report: Report) -> str:
    """The tables of a report as text.

    Args:
      report: of the adaptation.
    """
    models = [
        [
            row["model"],
            row["frames"],
            _rounded(row["median_tre_mm"]),
            interval_text(row["interval_mm"]),
            _percent(row["below_2mm"]),
            _percent(row["below_5mm"]),
        ]
        for row in report.rows
    ]
    curve = [[one.step, _rounded(one.minutes), _rounded(one.tre_mm)] for one in report.curve]
    return "\n".join(
        [
            "held-out simulated frames of this patient, without an initial pose:",
            text_table(
                ["model", "frames", "median TRE (mm)", "95 % interval", "< 2 mm", "< 5 mm"], models
            ),
            BELIEVED[report.believed],
            "",
            "from near the true pose, along the training:",
            text_table(["steps", "minutes", "median TRE (mm)"], curve),
        ]
    )


def interval_text(interval: Sequence[float] | None) -> str:
    """An interval as text, mm.

    Args:
      interval: its ends; None where nothing was measured.
    """
    return NONE if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"


def _rounded(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{value:.0%}"
