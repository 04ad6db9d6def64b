"""What a prediction's own word is worth: accepted or not, its expected errors and its bounds.

Command:  python -m experiments.studies.trust --cases CASES OTHERS --output runs/trust
Time:     three minutes an arm on two cores for 100 frames, and a minute to compile
Expect:   at most 1 % of all accepted frames has a wrong level; the bounds hold in 97 % or more

Each folder of cases is registered under three arms:

- as they are;
- half covered: a cloth hides half of the visible bone;
- another's model: the model of the next specimen of the folder, to which no pose is right.

Scored are the levels of which the camera sees bone, one by one. A level is wrong if it is 5 mm off
or more. No rule could accept more frames than have every level below 5 mm, and be right.

Writes rows.jsonl (one registration a line), table.json and reliability.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from e2r.api.models import load_model
from e2r.cli.errors import parse_options, run_command
from e2r.cli.named_cases import shortest_names
from e2r.config import EvaluationConfig
from e2r.datasets import case_folder
from e2r.datasets.case import Case
from e2r.evaluation import runner
from e2r.evaluation.calibration import SUCCESS_THRESHOLD_MM
from e2r.evaluation.level_scores import find_scored_cases, judge, percent
from e2r.evaluation.models import Model
from e2r.evaluation.predictions import make_prediction
from e2r.evaluation.preparation import stable_seed
from e2r.evaluation.text_table import text_table
from e2r.runtime import outputs
from e2r.simulation.cloth import hide_bone

ARMS = ("as they are", "half covered", "another's model")
PROBABILITY_BINS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 1.01)
"""Edges of the bins of the reliability table."""


@dataclass(frozen=True)
class Trust:
    """What a prediction's own word is worth."""

    cases: tuple[Path, ...]
    """folders of cases with a truth"""
    output: Path
    """folder for rows.jsonl, table.json and reliability.json"""
    arms: tuple[str, ...] = ARMS
    """some of: as they are, half covered, another's model"""
    checkpoint: Path | None = None
    """trained model; the packaged one without it"""
    seed: int = 0
    """of the cloths"""

    def __post_init__(self) -> None:
        if unknown := [arm for arm in self.arms if arm not in ARMS]:
            raise ValueError(f"--arms {unknown[0]!r}: use some of {', '.join(ARMS)}")


def study_trust(options: Trust) -> int:
    """Registers the cases under each arm."""
    outputs.require_folder(options.output)
    model = load_model(options.checkpoint)
    names = shortest_names(options.cases)
    folders = [
        (name, find_scored_cases(folder)) for name, folder in zip(names, options.cases, strict=True)
    ]
    if "another's model" in options.arms:
        for folder in options.cases:
            require_two_specimens(folder)
    options.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with (options.output / "rows.jsonl").open("w") as file:
        for name, cases in folders:
            for arm in options.arms:
                found = registered(model, cases, arm, seed=options.seed)
                for row in tqdm(found, total=len(cases), desc=f"{name}, {arm}"):
                    rows.append({"set": name} | row)
                    file.write(json.dumps(rows[-1]) + "\n")
                    file.flush()
    for file_name, (columns, table) in (
        ("table.json", tabulate(rows)),
        ("reliability.json", reliability(rows)),
    ):
        text = json.dumps({"columns": columns, "rows": table}, indent=1)
        (options.output / file_name).write_text(text)
        print(text_table(columns, table))
    return 0


def registered(
    model: Model, folders: Sequence[Path], arm: str, *, seed: int
) -> Iterator[dict[str, Any]]:
    """The figures of each case of an arm.

    Args:
      model: the trained model.
      folders: of the cases.
      arm: one of :data:`ARMS`.
      seed: of the cloths.

    Raises:
      ValueError: a case cannot be read, changed or registered.
    """
    cases = changed(folders, arm, seed=seed)
    for result in runner.raise_failures(runner.run(cases, model, job=EvaluationConfig())):
        prediction = make_prediction(result, "learnt", model.calibration)
        first = prediction.hypotheses[0].probability
        if result.case.truth:
            row = judge(arm, result, prediction)
        else:
            row = {"arm": arm, "id": result.case.id, "accepted": prediction.accepted, "levels": {}}
        yield row | {"probability": first}


def changed(folders: Sequence[Path], arm: str, *, seed: int) -> Iterator[Case]:
    """The cases of an arm, in order.

    Args:
      folders: of the cases.
      arm: one of :data:`ARMS`.
      seed: of the cloths.
    """
    if arm == "another's model":
        yield from _with_others_models(folders)
        return
    for folder in folders:
        case = case_folder.read_case(folder)
        if arm == "half covered":
            case = hide_bone(case, 0.5, np.random.default_rng([seed, stable_seed(case.id)]))
            case = replace(case, folder=None)  # its truth.json lists levels that are covered now
        yield case


def _with_others_models(folders: Sequence[Path]) -> Iterator[Case]:
    """Each case with the model of the next one of another specimen, and without a truth."""
    for number, folder in enumerate(folders):
        case = case_folder.read_case(folder)
        for other in [*folders[number + 1 :], *folders[:number]]:
            stranger = case_folder.read_case(other)
            if specimen(stranger) != specimen(case):
                yield replace(
                    case, model=stranger.model, exposed=None, targets=None, truth=None, folder=None
                )
                break


def require_two_specimens(folder: Path) -> None:
    """Checks that a folder's cases are of several specimens.

    Args:
      folder: of cases.

    Raises:
      ValueError: they are of one.
    """
    found = {specimen(case_folder.read_case(case)) for case in case_folder.find_cases(folder)}
    if len(found) < 2:
        raise ValueError(f'{folder}: has one specimen only; leave out --arms "another\'s model"')


def specimen(case: Case) -> str:
    """The specimen of a case: its source, or where it has none, its model's first vertices."""
    if case.source:
        return case.source
    return str([mesh.vertices[:3].round(2).tolist() for mesh in case.model.values()])


def tabulate(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """The figures of each set and arm, and of all with their own model together.

    Args:
      rows: of :func:`registered`, with their ``set``.

    Returns:
      The headings and the rows.
    """
    columns = [
        "frames of",
        "arm",
        "frames",
        "every level below 5 mm (%)",
        "accepted (%)",
        "a level 5 mm off, of these (%)",
        "levels of these",
        "bound holds (%)",
        "expected within a factor of 2 (%)",
    ]
    table = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        of_arm = [row for row in rows if row["arm"] == arm]
        for name in dict.fromkeys(row["set"] for row in of_arm):
            table.append([name, arm, *_figures([row for row in of_arm if row["set"] == name])])
    own = [row for row in rows if row["arm"] != "another's model"]
    others = [row for row in rows if row["arm"] == "another's model"]
    if own:
        table.append(["all", "its own model", *_figures(own)])
    if others:
        table.append(["all", "another's model", *_figures(others)])
    return columns, table


def _figures(rows: Sequence[dict[str, Any]]) -> list[Any]:
    accepted = [row for row in rows if row["accepted"]]
    levels = [level for row in accepted for level in row["levels"].values()]
    known = [level for level in levels if level["bound95_mm"] is not None]
    return [
        len(rows),
        percent([not is_wrong(row) for row in rows if row["levels"]]),
        percent([row["accepted"] for row in rows]),
        percent([is_wrong(row) for row in accepted if row["levels"]]),
        len(levels),
        percent([level["tre_mm"] <= level["bound95_mm"] for level in known]),
        percent([0.5 <= level["tre_mm"] / level["expected_tre_mm"] <= 2.0 for level in known]),
    ]


def is_wrong(row: dict[str, Any]) -> bool:
    """Whether a level of a registration is wrong."""
    return max(level["tre_mm"] for level in row["levels"].values()) >= SUCCESS_THRESHOLD_MM


def reliability(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """The share of right poses beside the mean probability, by bin of probability.

    A pose is right if its middle level is; another's model never is.

    Args:
      rows: of :func:`registered`; those without a probability are left out.

    Returns:
      The headings and the rows.
    """
    columns = ["probability", "poses", "mean probability (%)", "right (%)"]
    known = [row for row in rows if row["probability"] is not None]
    chance = np.array([row["probability"] for row in known])
    right = np.array(
        [
            bool(row["levels"])
            and np.median([level["tre_mm"] for level in row["levels"].values()])
            < SUCCESS_THRESHOLD_MM
            for row in known
        ]
    )
    table: list[list[Any]] = []
    for low, high in pairwise(PROBABILITY_BINS):
        inside = (chance >= low) & (chance < high)
        if inside.any():
            table.append(
                [
                    f"{low:g} to {min(high, 1.0):g}",
                    int(inside.sum()),
                    percent(chance[inside]),
                    percent(right[inside]),
                ]
            )
    return columns, table


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the study."""
    prog = "python -m experiments.studies.trust"
    return run_command(
        lambda: study_trust(parse_options(Trust, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(main())
