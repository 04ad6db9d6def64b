"""Which mask estimator learns best? The same training with each of them.

Command:  python -m experiments.studies.estimators --output runs/estimators
Time:     about an hour and a half on two cores; interrupted, the same command goes on
Expect:   a median TRE near 0.37 mm for gumbel_straight_through, which experiments.studies.ablation
          reached with 800 steps. The other five estimators are not measured yet

All estimators share scenes, initial poses and number of steps. The evaluation always takes the
deterministic mask. The table also holds the share of points that the mask keeps, and its entropy.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from e2r.cli.errors import parse_options, run_command
from e2r.config import NAMED_CONFIGS
from e2r.evaluation.comparison import errors_by_mask, pooled_figures
from e2r.evaluation.text_table import text_table
from e2r.networks import mask_estimators
from e2r.runtime.provenance import versions
from e2r.simulation import simulator
from e2r.training import batches, loop, sources
from e2r.training.metrics_log import read_log


@dataclass(frozen=True)
class Estimators:
    """Which mask estimator learns best? The same training with each of them."""

    output: Path
    """folder of all runs, and of estimators.json"""
    names: tuple[str, ...] = tuple(mask_estimators.ESTIMATORS)
    """estimators to compare"""
    steps: int = 1000
    """training steps of each"""
    seeds: int = 2
    """repetitions"""
    specimens: int = 64
    """specimens of the training, ten scenes each"""
    held_out: int = 48
    """specimens of the test, two scenes each"""

    def __post_init__(self) -> None:
        for name in ("steps", "seeds", "specimens", "held_out"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; use 1 or more")
        if not self.names or set(self.names) - set(mask_estimators.ESTIMATORS):
            raise ValueError(f"--names: use some of {', '.join(mask_estimators.ESTIMATORS)}")


def compare(options: Estimators) -> int:
    """Trains and tests each estimator that is left, and writes the figures of all."""
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "estimators.json"
    runs: dict[str, Any] = json.loads(path.read_text())["runs"] if path.exists() else {}
    demo = NAMED_CONFIGS["demo"][1]
    scenes = replace(demo.scenes, specimens=options.specimens)
    test_cases = list(
        simulator.held_out_cases(
            demo.scenes.simulation, specimens=options.held_out, frames=2, seed=0
        )
    )
    for seed in range(options.seeds):
        left = [name for name in options.names if f"{name} {seed}" not in runs]
        if not left:
            continue
        source = sources.simulated(replace(demo, seed=seed, scenes=scenes))
        for name in left:
            optimisation = replace(demo.optimisation, estimator=name, steps=options.steps)
            config = replace(demo, seed=seed, scenes=scenes, optimisation=optimisation)
            folder = options.output / f"{name}{seed}"
            inputs = loop.RunInputs(config, batches.uniform_batches(config, source))
            state = loop.train(inputs, folder)
            errors = errors_by_mask(test_cases, config, state.params, masks=("learnt",))["learnt"]
            last = read_log(folder)[-1]
            mask = {"keep": last["keep"], "entropy": last["entropy"], "name": name}
            runs[f"{name} {seed}"] = {**errors, **mask}
            path.write_text(json.dumps({"runs": runs}))
    record = {"runs": runs, "figures": summarise(runs), "versions": versions()}
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
    sys.exit(main())
