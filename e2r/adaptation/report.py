"""What an adaptation reached: ``report.json``, and the same as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from e2r.evaluation.text_table import text_table
from e2r.runtime.atomic_files import atomic_write

REPORT_FILE = "report.json"
NONE = "-"
BELIEVED = {
    "both": "Each frame will be shown to both; the surer one is believed.",
    "base": "Both together are worse than the base here, so the base alone will be asked.",
}
"""What a reader is told of who is asked."""


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


def write_report(report: Report, path: Path) -> None:
    """Writes a report.

    Args:
      report: of the adaptation.
      path: the JSON file.
    """
    value = {
        "models": list(report.rows),
        "curve": [point._asdict() for point in report.curve],
        "steps": report.steps,
        "seconds": round(report.seconds, 1),
        "believed": report.believed,
    }
    with atomic_write(path) as part:
        part.write_text(json.dumps(value, indent=1) + "\n")


def report_text(path: Path) -> str:
    """The tables of a report as text.

    Args:
      path: the JSON file.

    Raises:
      ValueError: it is broken.
    """
    try:
        value = json.loads(path.read_text())
        models = [
            [
                row["model"],
                row["frames"],
                _rounded(row["median_tre_mm"]),
                interval_text(row.get("interval_mm")),
                _percent(row["below_2mm"]),
                _percent(row["below_5mm"]),
            ]
            for row in value["models"]
        ]
        curve = [
            [row["step"], _rounded(row["minutes"]), _rounded(row["tre_mm"])]
            for row in value["curve"]
        ]
        believed = BELIEVED[value.get("believed", "both")]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: is no report; delete it, and adapt again") from None
    return "\n".join(
        [
            "held-out simulated frames of this patient, without an initial pose:",
            text_table(
                ["model", "frames", "median TRE (mm)", "95 % interval", "< 2 mm", "< 5 mm"], models
            ),
            believed,
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
