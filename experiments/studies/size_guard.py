"""What the checks of size and mirror image cost: right poses that each refuses, and wrong ones.

Command:  python -m experiments.studies.size_guard --cases CASES --output runs/size_guard
Time:     about five minutes on two cores for 47 frames
Expect:   on 47 frames by another renderer than e2r's: the counts of table.json, a row a limit.
          The input is right, so each right pose that is refused is a cost.

A pose is right if each scored level lies less than 5 mm off. Scored are the levels that truth.json
lists as visible, or else all that it has. The registrations are the same for every limit.

Writes rows.jsonl (one frame a line) and table.json (the counts).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from e2r.api.models import load_model
from e2r.api.registering import RegistrationResult, register
from e2r.cli.errors import parse_options, run_command
from e2r.datasets import case_folder
from e2r.datasets.case import Case
from e2r.evaluation.frame_scale import MAX_DEVIATION, FrameScale
from e2r.evaluation.level_scores import find_scored_cases, scored_levels
from e2r.evaluation.mirror_fit import MAX_GAIN
from e2r.evaluation.models import Model
from e2r.evaluation.predictions import make_prediction
from e2r.evaluation.results import Registered
from e2r.evaluation.text_table import text_table
from e2r.runtime import outputs

RIGHT_MM = 5.0
LIMITS = {
    "size": (0.03, 0.04, 0.05, MAX_DEVIATION, 0.08, 0.1),
    "mirror image": (-0.2, -0.1, 0.0, MAX_GAIN, 0.1),
}
"""Largest logarithms of the lateral scale, and largest gains of the mirror image."""
NO_SIZE = FrameScale(np.nan, np.nan, np.nan, np.nan)


@dataclass(frozen=True)
class SizeGuard:
    """What the checks of a frame's size and of the model's mirror image cost."""

    cases: Path
    """folder of cases with a truth"""
    output: Path
    """folder for rows.jsonl and table.json"""


def study_guard(options: SizeGuard) -> int:
    """Registers each case once, and judges its pose with and without the checks."""
    outputs.require_folder(options.output)
    folders = find_scored_cases(options.cases)
    options.output.mkdir(parents=True, exist_ok=True)
    model = load_model()
    rows = []
    with (options.output / "rows.jsonl").open("w") as file:
        for folder in tqdm(folders, unit="case"):
            case = case_folder.read_case(folder)
            rows.append(judge(case, register(case, model), model))
            file.write(json.dumps(rows[-1]) + "\n")
            file.flush()
    columns, table = count_limits(rows)
    (options.output / "table.json").write_text(
        json.dumps({"columns": columns, "rows": table}, indent=1)
    )
    print(text_table(columns, table))
    return 0


def judge(case: Case, result: RegistrationResult, model: Model) -> dict[str, Any]:
    """The figures of one frame.

    Args:
      case: with a truth, in a folder.
      result: its registration.
      model: the trained model.
    """
    errors = result.details.errors["learnt"].by_level
    seen = [name for name in scored_levels(case) if name in errors] or [*errors]
    scale = result.details.scales["learnt"]
    unchecked: Registered = result.details._replace(scales={"learnt": NO_SIZE}, mirror_gains={})
    return {
        "id": case.id,
        "accepted": result.accepted,
        "without_check": make_prediction(unchecked, "learnt", model.calibration).accepted,
        "lateral": scale.lateral,
        "lateral_sd": scale.lateral_sd,
        "depth": scale.depth,
        "depth_sd": scale.depth_sd,
        "fit_share": scale.share,
        "mirror_gain": result.details.mirror_gains["learnt"],
        "worst_level_mm": max(errors[name].tre_mm for name in seen),
    }


def count_limits(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """The accepted poses for each limit of each check by itself, right and wrong.

    Args:
      rows: of :func:`judge`.

    Returns:
      The headings and the rows.
    """
    columns = [
        "check",
        "limit",
        "frames",
        "accepted",
        "of these right",
        "right, refused by the check",
        "wrong, refused by the check",
    ]
    candidates = [row for row in rows if row["without_check"]]
    table: list[list[Any]] = []
    for check, limit in [("none", np.inf), *((k, limit) for k in LIMITS for limit in LIMITS[k])]:
        gone = [row for row in candidates if _value(row, check) > limit]
        refused, right = sum(map(_right, gone)), sum(map(_right, candidates))
        counts = [len(candidates) - len(gone), right - refused, refused, len(gone) - refused]
        table.append([check, "" if check == "none" else f"{limit:g}", len(rows), *counts])
    return columns, table


def _value(row: dict[str, Any], check: str) -> float:
    """What a check holds against its limit."""
    return float(row["mirror_gain"] if check == "mirror image" else abs(np.log(row["lateral"])))


def _right(row: dict[str, Any]) -> bool:
    return bool(row["worst_level_mm"] < RIGHT_MM)


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the study."""
    prog = "python -m experiments.studies.size_guard"
    return run_command(
        lambda: study_guard(parse_options(SizeGuard, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(main())
