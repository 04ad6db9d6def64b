"""What the sweeps share: the same held-out cases, changed a little more each time."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from tqdm import tqdm

from e2r.config import EvaluationConfig, TrainingConfig, config_to_json
from e2r.datasets import case_folder
from e2r.datasets.case import Case
from e2r.evaluation import metrics, runner
from e2r.evaluation.calibration import load_calibration
from e2r.evaluation.predictions import Registered, error_line, prediction_line
from e2r.evaluation.preparation import stable_seed
from e2r.evaluation.summary import summarise_job
from e2r.runtime.provenance import versions
from e2r.simulation import simulator
from e2r.training.trained_model import PACKAGED, load_trained
from e2r.visualisation import figures
from e2r.visualisation.figures import html_fragment, html_page

Change = Callable[[Case, float, np.random.Generator], Case]
"""(case, how much, random numbers) -> the case, changed."""


@dataclass(frozen=True)
class Sweep:
    """The same held-out cases, changed a little more each time."""

    output: Path
    """folder for a JSON file of all figures and a page with their curves"""
    amounts: tuple[float, ...]
    """how much each time"""
    checkpoint: Path = PACKAGED
    """output folder of experiments.train; the model that comes with e2r without it"""
    specimens: int = 48
    """simulated specimens"""
    frames: int = 2
    """scenes of each"""
    cases: Path | None = None
    """a folder of simulated cases (with bone.png) instead"""
    masks: tuple[str, ...] = ("learnt", "oracle")
    """masks to compare: all, learnt, oracle"""
    seed: int = 0
    """of specimens and changes"""

    def __post_init__(self) -> None:
        if self.specimens < 1 or self.frames < 1 or not self.amounts:
            raise ValueError("--specimens and --frames must be 1 or more, --amounts one or more")


def sweep(options: Sweep, change: Change, *, name: str, unit: str) -> list[dict[str, Any]]:
    """Registers the cases at each amount of change, fully automatically, and writes what it found.

    Args:
      options: of the command line.
      change: what is done to each case.
      name: of the files.
      unit: of the amounts, for table and axis.

    Returns:
      of each amount ``{"amount", "masks": {mask: metrics.summarise}, "trust"}``.
    """
    config, params = load_trained(options.checkpoint)
    calibration = load_calibration(options.checkpoint)
    job = EvaluationConfig(masks=options.masks, seed=options.seed)
    source = list(_source(options, config))
    found = []
    for amount in options.amounts:
        changed = [
            change(case, amount, np.random.default_rng([options.seed, stable_seed(case.id)]))
            for case in source
        ]
        lines, rows = [], []
        for item in tqdm(
            runner.run(changed, config, params, job),
            total=len(changed),
            desc=f"{amount:g} {unit}",
            unit="case",
        ):
            if not isinstance(item, Registered):
                raise ValueError(item[1])
            lines.append(prediction_line(item, job.head, calibration))
            rows.append(error_line(item))
        figures = summarise_job(lines, rows, job, config, {})
        found.append({"amount": amount, "masks": figures["masks"], "trust": figures["trust"]})
    options.output.mkdir(parents=True, exist_ok=True)
    settings = {
        "checkpoint": str(options.checkpoint),
        "cases": len(source),
        "seed": options.seed,
        "config": config_to_json(config),
        "versions": versions(),
    }
    path = options.output / f"{name}.json"
    path.write_text(json.dumps({"unit": unit, "rows": found, "settings": settings}, indent=1))
    body = html_fragment(_figure(found, unit), "curves")
    body += html_fragment(_maps(found, unit), "maps")
    (options.output / f"{name}.html").write_text(html_page(name, body), encoding="utf-8")
    print(table(found, unit))
    print(f"{path}, {name}.html")
    return found


def _source(options: Sweep, config: TrainingConfig) -> Sequence[Case]:
    if options.cases is not None:
        return [case_folder.read_case(path) for path in case_folder.find_cases(options.cases)]
    return list(
        simulator.held_out_cases(
            config.scenes.simulation,
            specimens=options.specimens,
            frames=options.frames,
            seed=options.seed,
        )
    )


def visible_bone(case: Case) -> np.ndarray:
    """Rows of the bone points of a simulated case.

    Raises:
      ValueError: the case does not know its bone.
    """
    if case.bone is None:
        raise ValueError(f"{case.id}: needs bone.png, which only simulated cases have")
    return np.flatnonzero(case.bone)


def table(found: Sequence[dict[str, Any]], unit: str) -> str:
    """The figures as text, a line an amount and mask."""
    lines = [
        f"{unit:>12s}  mask      median TRE       p95   <2 mm   <5 mm   accepted, of them wrong"
    ]
    for row in found:
        for mask, value in row["masks"].items():
            tre, hit = value["tre_mm"], value["success"]
            told = row["trust"]
            trust = ""
            if mask == "learnt":
                wrong = "-" if told["wrong"] is None else f"{told['wrong']:.1%}"
                trust = f"{told['coverage']:8.1%}, {wrong}"
            lines.append(
                f"{row['amount']:12g}  {mask:8s} {tre['median']:8.2f} mm {tre['p95']:9.2f}  "
                f"{hit['2mm']:6.1%}  {hit['5mm']:6.1%}   {trust}"
            )
    return "\n".join(lines)


def _figure(found: Sequence[dict[str, Any]], unit: str) -> go.Figure:
    figure = make_subplots(1, 2, subplot_titles=("median TRE, mm", "share below 2 mm"))
    amounts = [row["amount"] for row in found]
    for mask, color in figures.MASK_COLORS.items():
        if mask not in found[0]["masks"]:
            continue
        values = [row["masks"][mask] for row in found]
        shown = {"name": mask, "line_color": color, "legendgroup": mask}
        figure.add_scatter(
            x=amounts, y=[v["tre_mm"]["median"] for v in values], row=1, col=1, **shown
        )
        figure.add_scatter(
            x=amounts,
            y=[v["success"]["2mm"] for v in values],
            row=1,
            col=2,
            showlegend=False,
            **shown,
        )
    figure.update_xaxes(title=unit)
    figure.update_yaxes(type="log", row=1, col=1)
    figure.update_yaxes(range=[0, 1], row=1, col=2)
    figure.update_layout(template="plotly_white", height=420)
    return figure


def _maps(found: Sequence[dict[str, Any]], unit: str) -> go.Figure:
    """Share of cases below each limit (row) at each amount (column), a map for each mask."""
    limits = [f"{mm}mm" for mm in metrics.SUCCESS_MM]
    maps = {
        mask: [[100 * row["masks"][mask]["success"][limit] for row in found] for limit in limits]
        for mask in found[0]["masks"]
    }
    amounts = [row["amount"] for row in found]
    return figures.heat_maps(maps, amounts, limits, x_title=unit, y_title="TRE below")
