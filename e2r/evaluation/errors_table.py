"""The errors of a job as a flat table, ``errors.csv``: one row a case and mask."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from e2r.evaluation.predictions import CaseScores, Prediction
from e2r.runtime.atomic_files import atomic_write

FILE = "errors.csv"
"""The table's name in the job's folder."""
ERRORS = ("tre_mm", "tre_surface_mm", "tre_deep_mm", "rmse_mm", "rotation_deg", "translation_mm")
"""Columns of the errors; each name ends with its unit."""
COLUMNS = (
    "id",
    "specimen",
    "mask",
    "keep_share",
    "accepted",
    "expected_tre_mm",
    "bound95_mm",
    *ERRORS,
    "seconds",
    "failure",
)
"""Columns of the table. A share is 0 to 1; a figure that is not known is an empty cell."""


def table_rows(
    predictions: Mapping[str, Sequence[Prediction]], scores: Sequence[CaseScores]
) -> list[dict[str, Any]]:
    """The rows of the table: the cases in order, and of each case the masks.

    Args:
      predictions: mask name -> predictions of every case. A mask that a job registered before its
        predictions were kept has fewer, and its rows have no ``accepted``.
      scores: of every registered case.
    """
    by_id = {mask: {one.id: one for one in found} for mask, found in predictions.items()}
    scored = {one.id: one for one in scores}
    ids = dict.fromkeys(one.id for found in predictions.values() for one in found)
    return [
        _row(name, mask, by_id[mask].get(name), scored.get(name)) for name in ids for mask in by_id
    ]


def _row(
    name: str, mask: str, prediction: Prediction | None, score: CaseScores | None
) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"id": name, "mask": mask}
    if score is not None:
        row |= {"specimen": score.source, "keep_share": score.keep.get(mask)}
        errors = score.errors.get(mask)
        if errors is not None:
            row |= {column: getattr(errors, column) for column in ERRORS}
    if prediction is not None:
        row |= {
            "accepted": prediction.accepted,
            "expected_tre_mm": prediction.expected_tre_mm,
            "bound95_mm": prediction.bound95_mm,
            "seconds": None if prediction.error else prediction.seconds,
            "failure": prediction.error,
        }
    return row


def write_errors_table(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes the table, atomically, and returns its path.

    Args:
      folder: of the job.
      rows: of :func:`table_rows`.
    """
    path = folder / FILE
    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            words = {True: "true", False: "false"}
            accepted = row["accepted"]
            writer.writerow({**row, "accepted": words.get(accepted, accepted)})
    return path
