"""Which mask estimator learns best? The same training with each of them.

Command:  python -m experiments.studies.estimators --output runs/estimators
Time:     about an hour and a half on two cores; interrupted, the same command goes on
Expect:   a median TRE near 0.37 mm for gumbel_straight_through, which experiments.studies.ablation
          reached with 800 steps. The other five estimators are not measured yet

All estimators share scenes, initial poses and number of steps. The evaluation always takes the
soft mask. The table also holds the share of points that the mask keeps, and its entropy.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from e2r.cli.errors import parse_options, run_command
from e2r.config import TrainingConfig
from e2r.datasets.case import Case
from e2r.evaluation.comparison import errors_by_mask, pooled_figures
from e2r.evaluation.text_table import text_table
from e2r.evaluation.training_arms import ArmOptions, run_arms
from e2r.networks import mask_estimators
from e2r.training.metrics_log import read_log
from e2r.types import Params


@dataclass(frozen=True)
class Estimators(ArmOptions):
    """Which mask estimator learns best? The same training with each of them."""

    steps: int = 1000
    """training steps of each run"""
    names: tuple[str, ...] = tuple(mask_estimators.ESTIMATORS)
    """estimators to compare"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.names or set(self.names) - set(mask_estimators.ESTIMATORS):
            raise ValueError(f"--names: use some of {', '.join(mask_estimators.ESTIMATORS)}")


def with_estimator(config: TrainingConfig, *, name: str) -> TrainingConfig:
    """The settings with another mask estimator."""
    return replace(config, optimisation=replace(config.optimisation, estimator=name))


def measure_run(
    cases: list[Case], config: TrainingConfig, params: Params, folder: Path
) -> dict[str, Any]:
    """The errors of a run, and the mask of its last step.

    Args:
      cases: of the test.
      config: of the run.
      params: that it learnt.
      folder: of the run.
    """
    errors = errors_by_mask(cases, config, params, masks=("learnt",))["learnt"]
    last = read_log(folder)[-1]
    return {**errors, "keep": last["keep"], "entropy": last["entropy"]}


def compare(options: Estimators) -> int:
    """Trains and tests each named estimator that is left, and writes the figures of these."""
    arms = {name: partial(with_estimator, name=name) for name in mask_estimators.ESTIMATORS}
    runs, record = run_arms(options, arms, measure_run, name="estimators", only=options.names)
    record = {"runs": runs, "figures": summarise(runs), **record}
    path = options.output / "estimators.json"
    path.write_text(json.dumps(record, indent=1))
    print(results_table(record["figures"]))
    print(path)
    return 0


def summarise(runs: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of each estimator over its runs.

    Args:
      runs: name and seed -> errors, keep ratio, entropy and name of the estimator.
    """
    figures = {}
    for name in dict.fromkeys(run["name"] for run in runs.values()):
        own = [run for run in runs.values() if run["name"] == name]
        figures[name] = {
            **pooled_figures(own),
            "keep": float(np.mean([run["keep"] for run in own])),
            "entropy": float(np.mean([run["entropy"] for run in own])),
        }
    return figures


def results_table(figures: Mapping[str, Any]) -> str:
    """The estimators as text, the one with most successes first."""
    rows = []
    for name, value in sorted(figures.items(), key=lambda item: -item[1]["below_2mm"]):
        low, high = value["interval95"]
        interval = f"[{low:.2f}, {high:.2f}]"
        shares = [f"{value[share]:.1%}" for share in ("below_2mm", "below_5mm", "keep")]
        row = [name, f"{value['median']:.2f} mm", interval, *shares, f"{value['entropy']:.2f}"]
        rows.append(row)
    columns = ["estimator", "median TRE", "95 % interval", "<2 mm", "<5 mm", "keep", "entropy"]
    return text_table(columns, rows)


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the comparison."""
    prog = "python -m experiments.studies.estimators"
    return run_command(
        lambda: compare(parse_options(Estimators, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(import_module("experiments.studies.estimators").main())  # by its name, for workers
