"""Is training with the whole gradient better? The same training with robust weights cut and kept.

Command:  python -m experiments.studies.full_gradient --output runs/full_gradient
Time:     an hour on two cores; interrupted, the same command goes on. With --points 512 --steps 150
          --specimens 6 --held-out 12: 4 minutes a run, of which there are six
Expect:   2 rows, each with the median of 3 seeds and their range, and one sentence on the errors of
          both in the same frames: in the short study kept over cut is 1.00 [0.98, 1.04]

Both arms share scenes, initial poses and number of steps. Only the schedule's
``detach_robust_weights`` differs, and only in training. The evaluation registers the soft
mask from perturbed true poses, so it compares masks and not searches.
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
from e2r.evaluation import metrics
from e2r.evaluation.comparison import errors_by_mask, pooled_figures
from e2r.evaluation.text_table import text_table, with_range
from e2r.evaluation.training_arms import ArmOptions, run_arms
from e2r.types import Params

ARMS = {"cut": True, "kept": False}
"""Name of an arm -> its ``detach_robust_weights`` in training."""


@dataclass(frozen=True)
class FullGradient(ArmOptions):
    """Is training with the whole gradient better? Robust weights cut, and kept."""

    steps: int = 300
    """training steps of each run"""
    seeds: int = 3
    """repetitions"""
    specimens: int = 16
    """specimens of the training, ten scenes each"""
    held_out: int = 24
    """specimens of the test, two scenes each"""
    points: int = 1024
    """points of a cloud"""


def with_weights(config: TrainingConfig, *, cut: bool) -> TrainingConfig:
    """The settings with the derivative of the robust weights cut or kept."""
    return replace(config, schedule=replace(config.schedule, detach_robust_weights=cut))


def measure_run(
    cases: list[Case], config: TrainingConfig, params: Params, _: Path
) -> dict[str, Any]:
    """The errors of a run, from the true poses, perturbed alike for every run.

    Args:
      cases: of the test.
      config: of the run.
      params: that it learnt.
    """
    found = errors_by_mask(cases, config, params, masks=("learnt",), start="truth")["learnt"]
    print(f"median {pooled_figures([found])['median']:.2f} mm", flush=True)
    return found


def compare(options: FullGradient) -> int:
    """Trains and tests what is left of both arms, and writes the figures of all."""
    arms = {name: partial(with_weights, cut=cut) for name, cut in ARMS.items()}
    runs, record = run_arms(options, arms, measure_run, name="full_gradient")
    record = {"runs": runs, "figures": summarise(runs), "pairs": compare_pairs(runs), **record}
    path = options.output / "full_gradient.json"
    path.write_text(json.dumps(record, indent=1))
    print(results_table(record["figures"]))
    print(pairs_sentence(record["pairs"]))
    print(path)
    return 0


def compare_pairs(runs: Mapping[str, Any]) -> dict[str, Any]:
    """The errors of both arms in the same frames, after training from the same seeds.

    Args:
      runs: arm and seed -> errors, and name of the arm.

    Returns:
      ``ratio``: the median over frames and seeds of the kept arm's error over the cut one's, its
      ``interval95`` over specimens, and ``by_seed``.
    """
    logs, groups = [], []
    for seed in sorted({key.split()[1] for key in runs}):
        kept, cut = runs[f"kept {seed}"], runs[f"cut {seed}"]
        before = dict(zip(cut["id"], cut["tre_mm"], strict=True))
        rows = [row for row, name in enumerate(kept["id"]) if name in before]
        logs.append(
            np.array([np.log(kept["tre_mm"][row] / before[kept["id"][row]]) for row in rows])
        )
        groups += [kept["source"][row] for row in rows]
    low, high = metrics.bootstrap(
        np.concatenate(logs), groups, metrics.STATISTICS["median"], seed=0
    )
    return {
        "ratio": float(np.exp(np.median(np.concatenate(logs)))),
        "interval95": [float(np.exp(low)), float(np.exp(high))],
        "by_seed": [float(np.exp(np.median(one))) for one in logs],
    }


def pairs_sentence(pairs: Mapping[str, Any]) -> str:
    """What the pairs say, in one sentence."""
    low, high = pairs["interval95"]
    by_seed = " ".join(f"{ratio:.2f}" for ratio in pairs["by_seed"])
    return (
        "error with weights kept, of that with weights cut, in the same frame: "
        f"{pairs['ratio']:.2f} [{low:.2f}, {high:.2f}], by seed {by_seed}"
    )


def summarise(runs: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of each arm: of all its runs together, and of each run.

    Args:
      runs: name and seed -> errors, and name of the arm.
    """
    figures = {}
    for name in dict.fromkeys(run["name"] for run in runs.values()):
        own = [run for run in runs.values() if run["name"] == name]
        each = [pooled_figures([run]) for run in own]
        figures[name] = {
            **pooled_figures(own),
            "medians": [one["median"] for one in each],
            "successes": [one["below_2mm"] for one in each],
        }
    return figures


def results_table(figures: Mapping[str, Any]) -> str:
    """Both arms as text, with the range of their seeds."""
    rows = []
    for name, value in figures.items():
        low, high = min(value["successes"]), max(value["successes"])
        success = f"{value['below_2mm']:.1%} ({low:.1%} to {high:.1%})"
        rows.append([name, with_range(value["median"], value["medians"]), success])
    return text_table(["robust weights", "median TRE", "<2 mm"], rows)


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the comparison."""
    prog = "python -m experiments.studies.full_gradient"
    return run_command(
        lambda: compare(parse_options(FullGradient, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(import_module("experiments.studies.full_gradient").main())  # by its name, for workers
