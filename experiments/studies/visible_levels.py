"""Accuracy on frames of any renderer, level by level, and what each part of e2r adds to it.

Command:  python -m experiments.studies.visible_levels --cases CASES --output runs/visible_levels
Time:     two minutes an arm on two cores for 47 frames, and a minute to compile each
Expect:   the tables of table.json: one row an arm and posture, with 95 % intervals

Scored are the levels of which the camera sees bone, one by one. They are those that truth.json
lists as visible, or else those whose bone fills a thousandth of the frame. Frames whose levels
moved since the scan are counted apart. The arms leave out one part each:

- as it is: the packaged model, or that of --checkpoint;
- one look: the region of interest is that of the first look, however unsure;
- one try: no further try of a frame for which little speaks;
- hard mask: a point is kept or dropped, not weighed by its probability;
- one pose: all levels have the pose of the whole model;
- one start: the coarse pose is neither shifted along the spine nor perturbed;
- each --other checkpoint: another trained model.

Writes rows.jsonl (one registration a line) and table.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from e2r.api.models import load_model
from e2r.cli.errors import parse_options, run_command
from e2r.cli.named_cases import shortest_names
from e2r.config import EvaluationConfig
from e2r.datasets import case_folder
from e2r.evaluation import metrics, runner
from e2r.evaluation.calibration import SUCCESS_THRESHOLD_MM
from e2r.evaluation.level_scores import find_scored_cases, judge, percent
from e2r.evaluation.models import Model
from e2r.evaluation.predictions import Prediction, make_prediction
from e2r.evaluation.results import Registered
from e2r.evaluation.text_table import text_table
from e2r.runtime import outputs

ARMS: dict[str, Callable[[EvaluationConfig], EvaluationConfig]] = {
    "as it is": lambda job: job,
    "one look": lambda job: replace(job, looks=1),
    "one try": lambda job: replace(job, tries=1),
    "hard mask": lambda job: replace(
        job, program=replace(job.program, estimator="deterministic", mask_threshold=0.0)
    ),
    "one pose": lambda job: replace(job, program=replace(job.program, per_level=False)),
    "one start": lambda job: replace(
        job,
        program=replace(job.program, search=replace(job.program.search, shifts=(0.0,), parents=0)),
    ),
}
"""Arm -> what it changes in the settings of an evaluation."""


@dataclass(frozen=True)
class VisibleLevels:
    """Accuracy on the levels that the camera sees, one by one."""

    cases: Path
    """folder of cases with a truth"""
    output: Path
    """folder for rows.jsonl and table.json"""
    arms: tuple[str, ...] = ("as it is",)
    """some of: as it is, one look, one try, hard mask, one pose, one start; or all"""
    checkpoint: Path | None = None
    """trained model; the packaged one without it"""
    other: tuple[Path, ...] = ()
    """trained models that are measured too, each as an arm by its folder's name, or by
    as much of its path as tells it apart"""

    def __post_init__(self) -> None:
        if unknown := {*self.arms} - {*ARMS, "all"}:
            raise ValueError(
                f"--arms {sorted(unknown)[0]!r}: use some of {', '.join(ARMS)}, or all"
            )


def study_levels(options: VisibleLevels) -> int:
    """Registers the cases under each arm."""
    outputs.require_folder(options.output)
    model = load_model(options.checkpoint)
    names = [*ARMS] if "all" in options.arms else [*options.arms]
    arms = {name: partial(_registered, model, ARMS[name](EvaluationConfig())) for name in names}
    for name, folder in zip(shortest_names(options.other), options.other, strict=True):
        arms[name] = partial(_registered, load_model(folder), EvaluationConfig())
    folders = find_scored_cases(options.cases)
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    with (options.output / "rows.jsonl").open("w") as file:
        for arm, register in arms.items():
            for result, prediction in tqdm(register(folders), total=len(folders), desc=arm):
                rows.append(judge(arm, result, prediction))
                file.write(json.dumps(rows[-1]) + "\n")
                file.flush()
    columns, table = tabulate(rows)
    (options.output / "table.json").write_text(
        json.dumps({"columns": columns, "rows": table}, indent=1)
    )
    print(text_table(columns, table))
    return 0


def _registered(
    model: Model, job: EvaluationConfig, folders: Sequence[Path]
) -> Iterator[tuple[Registered, Prediction]]:
    """The registered cases of folders, each with its prediction."""
    cases = map(case_folder.read_case, folders)
    for result in runner.raise_failures(runner.run(cases, model, job=job)):
        yield result, make_prediction(result, "learnt", model.calibration)


def tabulate(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """The figures of each arm and posture.

    Args:
      rows: of :func:`judge`.

    Returns:
      The headings and the rows.
    """
    columns = [
        "arm",
        "posture",
        "frames",
        "levels",
        "median TRE (mm)",
        "95 % interval",
        "< 2 mm (%)",
        "< 5 mm (%)",
        "95 % interval (%)",
        "accepted (%)",
        "a level 5 mm off, of these (%)",
        "bound holds (%)",
        "expected within a factor of 2 (%)",
    ]
    table: list[list[Any]] = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        for moved, posture in ((False, "of the scan"), (True, "moved")):
            here = [row for row in rows if row["arm"] == arm and row["moved"] == moved]
            if here:
                table.append([arm, posture, *_figures(here)])
    return columns, table


def _figures(rows: Sequence[dict[str, Any]]) -> list[Any]:
    """The figures of some frames."""
    levels = [(row, level) for row in rows for level in row["levels"].values()]
    tre = np.array([level["tre_mm"] for _, level in levels])
    frames = [row["id"] for row, _ in levels]
    median = metrics.bootstrap(tre, frames, metrics.STATISTICS["median"], seed=0)
    below = metrics.bootstrap(
        (tre < SUCCESS_THRESHOLD_MM) * 100.0, frames, metrics.STATISTICS["mean"], seed=0
    )
    accepted = [row for row in rows if row["accepted"]]
    wrong = [
        max(one["tre_mm"] for one in row["levels"].values()) >= SUCCESS_THRESHOLD_MM
        for row in accepted
    ]
    known = [one for row, one in levels if row["accepted"] and one["bound95_mm"] is not None]
    bounded = [one["tre_mm"] <= one["bound95_mm"] for one in known]
    near = [0.5 <= one["tre_mm"] / one["expected_tre_mm"] <= 2.0 for one in known]
    return [
        len(rows),
        len(levels),
        round(float(np.median(tre)), 2),
        "–".join(f"{end:.2f}" for end in median),
        percent(tre < 2.0),
        percent(tre < SUCCESS_THRESHOLD_MM),
        "–".join(f"{end:.0f}" for end in below),
        percent([row["accepted"] for row in rows]),
        percent(wrong),
        percent(bounded),
        percent(near),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the study."""
    prog = "python -m experiments.studies.visible_levels"
    return run_command(
        lambda: study_levels(
            parse_options(VisibleLevels, arguments, prog=prog, description=__doc__)
        )
    )


if __name__ == "__main__":
    sys.exit(main())
