"""``e2r register``: registers one case."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from e2r import api
from e2r.cli import STARTED
from e2r.config import EvaluationConfig
from e2r.datasets.case_folder import read_case
from e2r.runtime.timing import collect_timings, timed, timing_table


@dataclass(frozen=True)
class Options:
    """Register one case: find the pose of every level in the camera frame.

    Prints the poses, and their error if the case has a truth.json.

    Example: e2r register cases/seed0_0000_000
    """

    case: Annotated[Path, tyro.conf.Positional]
    """the case folder"""
    checkpoint: Path | None = None
    """output folder of experiments.train; by default, the model that comes with e2r"""
    output: Path = Path("predictions.jsonl")
    """file to which the prediction is appended, one JSON line"""
    timings: bool = False
    """also print a table of the seconds that each part took"""
    job: Annotated[EvaluationConfig, tyro.conf.arg(name="")] = EvaluationConfig(batch=1)


def run(options: Options) -> int:
    """Runs ``e2r register``."""
    imports = time.perf_counter() - STARTED
    with collect_timings() as seconds:
        with timed("other"):
            _register(options)
        if options.timings:
            print(timing_table({"imports": imports, **seconds}))
    return 0


def _register(options: Options) -> None:
    with timed("case"):
        case = read_case(options.case)
    with timed("trained model"):
        model = api.load_model(options.checkpoint)
    result = api.register(case, model, job=options.job)
    _print_result(result)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with options.output.open("a") as file:
        file.write(json.dumps(result.prediction.to_json()) + "\n")
    print(f"prediction appended to {options.output}")


def _print_result(result: api.RegistrationResult) -> None:
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
        print(f"expected TRE {result.expected_tre_mm:.1f} mm")
        print(f"probability of each hypothesis, the pose above first: {chances}")
    if result.tre_mm is not None:
        print(f"TRE against truth.json: {result.tre_mm:.2f} mm")
