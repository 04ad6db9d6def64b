"""From a start near the truth: e2r and Open3D's ICP on the same frames, such as real range views.

Command:  python -m experiments.benchmarks.given_starts --cases FOLDER
Time:     five minutes for 36 registrations on two busy cores, most of it compiling
Expect:   on twelve views of a known object, by a depth sensor: 1.70 mm and at most 2.14 mm for e2r;
          1.73 mm for Open3D, with one of 36 views lost

Needs the extra `peers` (python -m pip install -e '.[peers]'). Each case needs a truth.json. Every
point of the scene near the model counts: no mask. Open3D refines by point-to-plane ICP in three
rounds, on samples of the whole surface. Both begin at the same poses.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import trimesh

from e2r.cli.errors import parse_options, run_command
from e2r.config import EvaluationConfig
from e2r.datasets import case_folder
from e2r.datasets.case import Case, scored_targets
from e2r.evaluation import metrics, runner
from e2r.evaluation.models import Model
from e2r.evaluation.open3d_icp import PeerModel, open3d_icp
from e2r.evaluation.preparation import initial_pose
from e2r.evaluation.result_table import write_result
from e2r.evaluation.text_table import text_table
from e2r.geometry import poses
from e2r.pipeline import ProgramConfig
from e2r.runtime import outputs
from e2r.training.trained_model import PACKAGED, load_trained

ICP_DISTANCES_MM = (20.0, 8.0, 3.0)
"""Farthest correspondence of each round of Open3D's refinement."""
MODEL_SAMPLES = 32_768
SAMPLES = 4
"""Disjoint samples of 2,048 points that e2r registers; Open3D takes every point."""
COLUMNS = ("method", "registrations", "median TRE (mm)", "p95 (mm)", "worst (mm)", "> 2.3 mm")
LIMIT_MM = 2.3
"""Error above which a view counts as lost: beyond the doubt in the views' own poses."""


@dataclass(frozen=True)
class GivenStarts:
    """From a start near the truth: e2r and Open3D's ICP on the same frames."""

    cases: Path
    """a folder of cases with truth.json"""
    output: Path = Path("runs/given_starts.json")
    """JSON file to write"""
    starts: int = 3
    """initial poses of each case"""
    degrees: float = 8.0
    """standard deviation of a start's rotation, per axis, degrees"""
    mm: float = 8.0
    """standard deviation of a start's translation, per axis, mm"""

    def __post_init__(self) -> None:
        if self.starts < 1:
            raise ValueError(f"--starts is {self.starts}; use 1 or more")


def starts_of(options: GivenStarts) -> list[EvaluationConfig]:
    """One job a start; its seed draws the perturbation."""
    first = EvaluationConfig(
        ProgramConfig(masks=("all",), num_samples=SAMPLES, max_points=SAMPLES * 2048),
        start="truth",
        start_noise_deg=options.degrees,
        start_noise_mm=options.mm,
    )
    return [replace(first, seed=seed) for seed in range(options.starts)]


def register_all(cases: Sequence[Case], jobs: Sequence[EvaluationConfig]) -> list[float]:
    """TRE of e2r from each start of each case, mm.

    Args:
      cases: with their truth.
      jobs: one a start.

    Raises:
      ValueError: a case cannot be registered.
    """
    config, params = load_trained(PACKAGED)
    errors: list[float] = []
    for job in jobs:
        results = runner.raise_failures(runner.run(cases, Model(config, params), job=job))
        errors.extend(result.errors["all"].tre_mm for result in results)
    return errors


def refine_all(cases: Sequence[Case], jobs: Sequence[EvaluationConfig]) -> list[float]:
    """TRE of Open3D from the same starts, mm.

    Args:
      cases: with their truth.
      jobs: one a start.
    """
    errors = []
    for case in cases:
        surface = trimesh.util.concatenate(list(case.model.values()))
        points, faces = trimesh.sample.sample_surface(surface, MODEL_SAMPLES, seed=4)
        refine = open3d_icp(PeerModel(points, surface.face_normals[faces]), ICP_DISTANCES_MM)
        for job in jobs:
            start = initial_pose(case, job, None)
            assert start is not None
            model_from_camera = np.linalg.inv(np.asarray(poses.to_matrix(start), np.float64))
            matrix = refine(np.asarray(case.points, float), model_from_camera)
            found = poses.from_matrix(matrix, f"Open3D's pose of {case.id}")
            predicted, truth = dict.fromkeys(case.model, found), case.truth or {}
            scored = metrics.case_errors(predicted, truth, scored_targets(case), model=case.model)
            errors.append(scored.tre_mm)
    return errors


def compare(options: GivenStarts) -> int:
    """Registers all cases from all starts by both methods, and writes the figures.

    Raises:
      ValueError: Open3D is not installed.
    """
    if importlib.util.find_spec("open3d") is None:
        raise ValueError("open3d is not installed; run: python -m pip install -e '.[peers]'")
    outputs.require_file(options.output)
    cases = [case_folder.read_case(path) for path in case_folder.find_cases(options.cases)]
    jobs = starts_of(options)
    rows = [
        [
            name,
            len(errors),
            round(float(np.median(errors)), 2),
            round(float(np.percentile(errors, 95)), 2),
            round(float(np.max(errors)), 2),
            int(np.sum(np.asarray(errors) > LIMIT_MM)),
        ]
        for name, errors in (
            ("e2r", register_all(cases, jobs)),
            ("Open3D point-to-plane ICP", refine_all(cases, jobs)),
        )
    ]
    write_result(
        options.output,
        title="From starts near the truth, on real range views",
        command=f"python -m experiments.benchmarks.given_starts --cases FOLDER "
        f"--starts {options.starts}",
        note=f"{len(cases)} views. Starts: {options.degrees:g} degrees and {options.mm:g} mm per "
        "axis (standard deviation). All points near the model; no mask.",
        columns=COLUMNS,
        rows=rows,
    )
    print(f"{text_table(COLUMNS, [[str(cell) for cell in row] for row in rows])}\n{options.output}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and compares."""
    words = {"prog": "python -m experiments.benchmarks.given_starts", "description": __doc__}
    return run_command(lambda: compare(parse_options(GivenStarts, arguments, **words)))


if __name__ == "__main__":
    sys.exit(main())
