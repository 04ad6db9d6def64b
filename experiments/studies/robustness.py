"""How robust the registration is: the same held-out cases, changed more and more.

Command:  python -m experiments.studies.robustness --change noise --output runs/robustness
Time:     about ten minutes on two cores for 96 cases and 6 amounts
Expect:   of base until 2026-11 (today's was not measured): noise: median TRE 0.3 mm up to 1 mm of
          noise, 0.7 mm at 2 mm, 1.4 mm at 3 mm; occlusion: 0.5 mm with half of the bone hidden;
          roll: 0.2 to 0.3 mm at every angle

The changes:

- noise: Gaussian noise along each point's ray, added to that of the simulated sensor;
- occlusion: a cloth hides a share of the visible bone; nothing marks its points as a cloth;
- roll: the camera turns about its optical axis, by an angle from upright.

Writes CHANGE.json (all figures) and CHANGE.html (their curves).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from tqdm import tqdm

from e2r.cli.errors import parse_options, run_command
from e2r.config import EvaluationConfig, TrainingConfig, config_to_json
from e2r.datasets import case_folder
from e2r.datasets.case import Case, true_pose
from e2r.evaluation import metrics, runner
from e2r.evaluation.level_scores import find_scored_cases
from e2r.evaluation.models import read_model
from e2r.evaluation.predictions import make_prediction, score_case
from e2r.evaluation.preparation import stable_seed
from e2r.evaluation.results import Failed
from e2r.evaluation.summary import summarise_job
from e2r.evaluation.text_table import text_table
from e2r.geometry import anatomical_frame, poses
from e2r.pipeline import ProgramConfig
from e2r.runtime import outputs
from e2r.runtime.provenance import code_record, versions
from e2r.simulation import simulator
from e2r.simulation.cloth import hide_bone
from e2r.simulation.depth_noise import add_noise
from e2r.training.trained_model import PACKAGED
from e2r.types import Pose
from e2r.visualisation.colors import MASK_COLORS
from e2r.visualisation.pages import figures_page
from e2r.visualisation.plots import heat_maps


def roll_camera(case: Case, degrees: float, rng: np.random.Generator) -> Case:
    """Turns the camera about its optical axis, and the true poses with it.

    Args:
      case: a case with a truth, which tells where upright is.
      degrees: from upright, where the spine's head is up in the image.
      rng: unused.

    Raises:
      ValueError: the case has no truth.
    """
    del rng
    if not case.truth:
        raise ValueError(f"{case.id}: has no truth.json, which tells where upright is")
    cranial = true_pose(case).rotation @ anatomical_frame.estimate_frame(case.model).rotation[2]
    upright = np.arctan2(-cranial[0], -cranial[1])  # up in the camera frame is -y
    angle = upright + np.deg2rad(degrees)
    rotation = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    motion = Pose(rotation.astype(np.float32), np.zeros(3, np.float32))
    truth = {
        name: Pose(*map(np.asarray, poses.compose(motion, pose)))
        for name, pose in case.truth.items()
    }
    points = case.points @ rotation.T
    normals = None if case.normals is None else case.normals @ rotation.T
    return replace(case, points=points, normals=normals, truth=truth, image=None)


class SceneChange(NamedTuple):
    """One way to change a case."""

    apply: Callable[[Case, float, np.random.Generator], Case]
    unit: str
    amounts: tuple[float, ...]  # where none are given
    limits: tuple[float, float] = (-np.inf, np.inf)  # amounts from the first to below the second


CHANGES = {
    "noise": SceneChange(
        add_noise, "mm of noise", (0.0, 0.5, 1.0, 2.0, 3.0, 4.0), limits=(0.0, 100.0)
    ),
    "occlusion": SceneChange(
        hide_bone, "share hidden", (0.0, 0.15, 0.3, 0.5, 0.6, 0.7), limits=(0.0, 1.0)
    ),
    "roll": SceneChange(roll_camera, "degrees", (0.0, 45.0, 90.0, 135.0, 180.0, 270.0)),
}


@dataclass(frozen=True)
class Robustness:
    """How robust the registration is: the same held-out cases, changed more and more."""

    output: Path
    """folder for CHANGE.json and CHANGE.html"""
    change: str = "noise"
    """what is changed: noise, occlusion or roll"""
    amounts: tuple[float, ...] = ()
    """how much, in the unit of the change; six amounts of its own by default"""
    checkpoint: Path = PACKAGED
    """output folder of experiments.train; by default the packaged model"""
    specimens: int = 48
    """simulated specimens"""
    frames: int = 2
    """scenes of each"""
    cases: Path | None = None
    """a folder of simulated cases (with bone.png) instead"""
    masks: tuple[str, ...] = ("learnt", "oracle")
    """masks to compare: all, learnt, oracle"""
    seed: int = 0
    """of the specimens and the changes"""

    def __post_init__(self) -> None:
        if self.change not in CHANGES:
            raise ValueError(f"--change {self.change}: use one of {', '.join(CHANGES)}")
        if self.specimens < 1 or self.frames < 1:
            raise ValueError("--specimens and --frames must be 1 or more")
        _, unit, _, (low, high) = CHANGES[self.change]
        if not all(low <= amount < high for amount in self.amounts):
            raise ValueError(
                f"--amounts {self.amounts}: use {unit}, from {low:g} to below {high:g}"
            )


def study_change(options: Robustness) -> int:
    """Registers the cases at each amount of the change, without an initial pose.

    Raises:
      ValueError: a case cannot be changed or registered.
    """
    outputs.require_folder(options.output)
    change = CHANGES[options.change]
    model = read_model(options.checkpoint)
    job = EvaluationConfig(ProgramConfig(masks=options.masks), seed=options.seed)
    cases = read_cases(options, model.config)
    rows = []
    for amount in options.amounts or change.amounts:
        changed = [
            change.apply(case, amount, np.random.default_rng([options.seed, stable_seed(case.id)]))
            for case in cases
        ]
        predictions, scores = [], []
        for item in tqdm(
            runner.run(changed, model, job=job),
            total=len(changed),
            desc=f"{amount:g} {change.unit}",
            unit="case",
        ):
            if isinstance(item, Failed):
                raise ValueError(item.message)
            predictions.append(make_prediction(item, job.primary_mask, model.calibration))
            scores.append(score_case(item))
        summary = summarise_job(
            predictions, scores, job=job, config=model.config, origin={}, code=code_record()
        ).to_json()
        rows.append({"amount": amount, "masks": summary["masks"], "trust": summary["trust"]})
    settings = {
        "checkpoint": str(options.checkpoint),
        "cases": len(cases),
        "seed": options.seed,
        "config": config_to_json(model.config),
        "versions": versions(),
    }
    write_results(options, rows, settings)
    return 0


def read_cases(options: Robustness, config: TrainingConfig) -> Sequence[Case]:
    """The cases of the folder, or held-out specimens in scenes like those of the training."""
    if options.cases is not None:
        return [case_folder.read_case(path) for path in find_scored_cases(options.cases)]
    return list(
        simulator.held_out_cases(
            config.scenes.simulation,
            specimens=options.specimens,
            frames=options.frames,
            seed=options.seed,
        )
    )


def write_results(
    options: Robustness, rows: Sequence[dict[str, Any]], settings: dict[str, Any]
) -> None:
    """Writes the JSON file and the page, and prints the table.

    Args:
      options: of the command line.
      rows: for each amount ``{"amount", "masks": {mask: statistics}, "trust"}``.
      settings: for the record.
    """
    unit = CHANGES[options.change].unit
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"{options.change}.json"
    path.write_text(json.dumps({"unit": unit, "rows": rows, "settings": settings}, indent=1))
    figures = {"curves": error_curves(rows, unit), "maps": success_maps(rows, unit)}
    page = path.with_suffix(".html")
    page.write_text(figures_page(options.change, figures), encoding="utf-8")
    print(results_table(rows, unit))
    print(f"{path}, {page.name}")


def results_table(rows: Sequence[dict[str, Any]], unit: str) -> str:
    """The results as text, a line for each amount and mask."""
    cells = []
    for row in rows:
        for mask, value in row["masks"].items():
            tre, success = value["tre_mm"], value["success"]
            accepted = wrong = ""
            if mask == "learnt" and row["trust"] is not None:
                accepted = f"{row['trust']['coverage']:.1%}"
                share = row["trust"]["wrong"]
                wrong = "-" if share is None else f"{share:.1%}"
            errors = (f"{tre['median']:.2f} mm", f"{tre['p95']:.2f} mm")
            rates = (f"{success['2mm']:.1%}", f"{success['5mm']:.1%}")
            cells.append([f"{row['amount']:g}", mask, *errors, *rates, accepted, wrong])
    columns = [unit, "mask", "median TRE", "p95", "<2 mm", "<5 mm", "accepted", "wrong of these"]
    return text_table(columns, cells)


def error_curves(rows: Sequence[dict[str, Any]], unit: str) -> go.Figure:
    """Median TRE and success rate by amount, a curve for each mask."""
    figure = make_subplots(1, 2, subplot_titles=("median TRE, mm", "share below 2 mm"))
    amounts = [row["amount"] for row in rows]
    for mask, color in MASK_COLORS.items():
        if mask not in rows[0]["masks"]:
            continue
        values = [row["masks"][mask] for row in rows]
        medians = [value["tre_mm"]["median"] for value in values]
        rates = [value["success"]["2mm"] for value in values]
        style = {"name": mask, "line_color": color, "legendgroup": mask}
        figure.add_scatter(x=amounts, y=medians, row=1, col=1, **style)
        figure.add_scatter(x=amounts, y=rates, row=1, col=2, showlegend=False, **style)
    figure.update_xaxes(title=unit)
    figure.update_yaxes(type="log", row=1, col=1)
    figure.update_yaxes(range=[0, 1], row=1, col=2)
    figure.update_layout(template="plotly_white", height=420)
    return figure


def success_maps(rows: Sequence[dict[str, Any]], unit: str) -> go.Figure:
    """Share of cases below each error limit (row) at each amount (column), a map for each mask."""
    limits = [f"{mm}mm" for mm in metrics.SUCCESS_MM]
    maps = {
        mask: [[100 * row["masks"][mask]["success"][limit] for row in rows] for limit in limits]
        for mask in rows[0]["masks"]
    }
    amounts = [row["amount"] for row in rows]
    return heat_maps(maps, amounts, limits, x_title=unit, y_title="TRE below")


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the study."""
    prog = "python -m experiments.studies.robustness"
    return run_command(
        lambda: study_change(parse_options(Robustness, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(main())
