"""Is training with the whole gradient better? The same training with robust weights cut and kept.

Command:  python -m experiments.studies.full_gradient --output runs/full_gradient
Time:     an hour on two cores; interrupted, the same command goes on
Expect:   2 rows, each with the median of 3 seeds and their range

Both arms share scenes, initial poses and number of steps. Only the schedule's
``detach_robust_weights`` differs, and only in training. The evaluation registers the deterministic
mask.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from e2r.cli.errors import parse_options, run_command
from e2r.config import NAMED_CONFIGS
from e2r.evaluation.comparison import errors_by_mask, pooled_figures
from e2r.evaluation.text_table import text_table, with_range
from e2r.runtime.provenance import versions
from e2r.simulation import simulator
from e2r.training import batches, loop, sources

ARMS = {"cut": True, "whole": False}
"""Name of an arm -> its ``detach_robust_weights`` in training."""


@dataclass(frozen=True)
class FullGradient:
    """Is training with the whole gradient better? Robust weights cut, and kept."""

    output: Path
    """folder of all runs, and of full_gradient.json"""
    steps: int = 200
    """training steps of each run"""
    seeds: int = 3
    """repetitions"""
    specimens: int = 16
    """specimens of the training, ten scenes each"""
    held_out: int = 24
    """specimens of the test, two scenes each"""

    def __post_init__(self) -> None:
        for name in ("steps", "seeds", "specimens", "held_out"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; use 1 or more")


def compare(options: FullGradient) -> int:
    """Trains and tests what is left of both arms, and writes the figures of all."""
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "full_gradient.json"
    runs: dict[str, Any] = json.loads(path.read_text())["runs"] if path.exists() else {}
    demo = NAMED_CONFIGS["demo"][1]
    scenes = replace(demo.scenes, specimens=options.specimens)
    test_cases = list(
        simulator.held_out_cases(
            demo.scenes.simulation, specimens=options.held_out, frames=2, seed=0
        )
    )
    optimisation = replace(demo.optimisation, steps=options.steps)
    for seed in range(options.seeds):
        left = [name for name in ARMS if f"{name} {seed}" not in runs]
        if not left:
            continue
        base = replace(demo, seed=seed, scenes=scenes, optimisation=optimisation)
        source = sources.simulated(base)
        for name in left:
            schedule = replace(demo.schedule, detach_robust_weights=ARMS[name])
            config = replace(base, schedule=schedule)
            inputs = loop.RunInputs(config, batches.uniform_batches(config, source))
            state = loop.train(inputs, options.output / f"{name}{seed}")
            errors = errors_by_mask(test_cases, base, state.params, masks=("learnt",))["learnt"]
            runs[f"{name} {seed}"] = {**errors, "name": name}
            path.write_text(json.dumps({"runs": runs}))
            print(f"{name}, seed {seed}: median {pooled_figures([errors])['median']:.2f} mm")
    record = {"runs": runs, "figures": summarise(runs), "versions": versions()}
    path.write_text(json.dumps(record, indent=1))
    print(results_table(record["figures"]))
    print(path)
    return 0


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
    sys.exit(main())
