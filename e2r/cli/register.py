"""``e2r register``: registers one case, or several one after the other."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from e2r.api import registering
from e2r.api.models import load_model
from e2r.api.registering import RegistrationResult
from e2r.cli import STARTED, named_cases
from e2r.config import EvaluationConfig
from e2r.datasets.case_folder import read_case
from e2r.evaluation.initial_poses import read_initial_poses
from e2r.evaluation.models import Model
from e2r.evaluation.predictions import LevelEstimate
from e2r.evaluation.stored_predictions import require_appendable
from e2r.runtime import outputs
from e2r.runtime.timing import collect_timings, timed, timing_table


@dataclass(frozen=True)
class Options:
    """Register cases: find the pose of every level in the camera frame.

    Prints the poses, and their error if the case has a truth.json. Of several cases, one line each.

    Example: e2r register cases/seed0_0000_000
    """

    case: Annotated[Path, tyro.conf.Positional]
    """the case folder; or a data set, or a pattern such as ``'cases/*'``"""
    checkpoint: Path | None = None
    """output folder of e2r train; by default, the model that comes with e2r"""
    output: Path = Path("predictions.jsonl")
    """file to which the prediction is appended, one JSON line a case"""
    timings: bool = False
    """also print a table of the seconds that each part took"""
    job: Annotated[EvaluationConfig, tyro.conf.arg(name="")] = EvaluationConfig(batch=1)
    more: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """more cases"""


def run(options: Options) -> int:
    """Runs ``e2r register``."""
    imports = time.perf_counter() - STARTED
    with collect_timings() as seconds:
        with timed("other"):
            code = _register(options)
        if options.timings:
            print(timing_table({"imports": imports, **seconds}))
    return code


def _register(options: Options) -> int:
    folders = named_cases.find_named_cases([options.case, *options.more])
    outputs.require_file(options.output)
    require_appendable(options.output)
    read_initial_poses(options.job.start)  # a bad pose file is refused before the work
    loaded: list[Model] = []
    registered: list[str] = []

    def model() -> Model:
        if not loaded:
            with timed("trained model"):
                loaded.append(load_model(options.checkpoint))
        return loaded[0]

    def register(folder: Path) -> None:
        with timed("case"):
            case = read_case(folder)
        result = registering.register(case, model(), job=options.job)
        if len(folders) == 1:
            _print_result(result)
            _print_cause(result, model())
        else:
            print(_line(folder, result), flush=True)
        _append(options.output, json.dumps(result.prediction.to_json()))
        registered.append(result.prediction.id)

    if len(folders) > 1:
        model()  # a bad checkpoint is no fault of the cases
    code = named_cases.for_each(folders, register)
    if registered:
        what = "prediction" if len(registered) == 1 else f"{len(registered)} predictions"
        print(f"{what} appended to {options.output}")
    return code


def _print_cause(result: RegistrationResult, model: Model) -> None:
    """Says why a registration was not accepted, where one can tell."""
    if result.accepted or result.job.start != "auto":
        return
    print("looking for the cause ...", flush=True)
    cause = registering.find_cause(result, model)
    said = "no cause was found; another frame may do"
    print(said if cause is None else f"likely cause: {cause.sentence}")


def _append(path: Path, line: str) -> None:
    """Appends a line, also to a file whose last line has no end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if path.is_file() and file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(line.encode() + b"\n")


def _line(folder: Path, result: RegistrationResult) -> str:
    """One of several results in one line."""
    expected = {"expected TRE": result.expected_tre_mm, "TRE against truth.json": result.tre_mm}
    errors = [f"{name} {value:.2f} mm" for name, value in expected.items() if value is not None]
    verdict = "accepted" if result.accepted else "not accepted"
    return f"{folder}: {', '.join([verdict, *errors])}"


def _level_words(level: LevelEstimate) -> str:
    """What is known of one level's pose, in a few words."""
    if level.expected_tre_mm is None:
        return f"{level.points:.0f} points hold it; it follows the others"
    return (
        f"{level.points:.0f} points hold it; expected TRE {level.expected_tre_mm:.1f} mm, "
        f"below {level.bound95_mm:.1f} mm with 95 %"
    )


def _print_result(result: RegistrationResult) -> None:
    for name, matrix in result.poses.items():
        print(f"{name}  T_camera_model =")
        print(np.array2string(matrix, precision=4, suppress_small=True))
    if np.ptp(list(result.poses.values()), axis=0).max() == 0 and len(result.poses) > 1:
        print("all levels have one pose: the spine is bent as in the scan")
    if result.details.num_degenerate:
        print(f"{result.details.num_degenerate} triangles of the model without area were left out")
    whole = result.details.registrations[result.mask]
    print(
        f"{float(whole.inlier_weight):.0f} points agree with the model; their robust RMS distance "
        f"is {float(whole.residual):.2f} mm; {'accepted' if result.accepted else 'not accepted'}"
    )
    if result.expected_tre_mm is not None:
        chances = ", ".join(f"{one.probability:.0%}" for one in result.hypotheses)
        bound = result.prediction.bound95_mm
        sure = "" if bound is None else f"; with 95 % probability it is below {bound:.1f} mm"
        print(f"expected TRE {result.expected_tre_mm:.1f} mm{sure}")
        levels = result.prediction.levels
        if any(level.expected_tre_mm is not None for level in levels.values()):
            for name, level in levels.items():
                print(f"{name}: {_level_words(level)}")
        print(f"probability of each hypothesis, the pose above first: {chances}")
    if result.tre_mm is not None:
        print(f"TRE against truth.json: {result.tre_mm:.2f} mm")
