"""Which mask estimator learns best? The same training with each of them.

Command:  python -m experiments.studies.estimators --output runs/estimators
Time:     about an hour and a half on two cores; interrupted, the same command goes on
Expect:   see the README for what was measured

Scenes, starts and steps are the same for all; evaluation always takes the deterministic mask. The
table has the share of the points that the mask keeps, too, and how undecided it is.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from e2r.cli.errors import run_command
from e2r.config import NAMED_CONFIGS
from e2r.evaluation import metrics
from e2r.networks import mask_estimators
from e2r.runtime.provenance import versions
from e2r.simulation import simulator
from e2r.training import batches, examples, loop
from e2r.training.metrics_log import read_log
from experiments.studies.ablation import score


@dataclass(frozen=True)
class Estimators:
    """Which mask estimator learns best?"""

    output: Path
    """folder of all runs and of estimators.json"""
    names: tuple[str, ...] = tuple(mask_estimators.ESTIMATORS)
    """estimators to compare"""
    steps: int = 1000
    """training steps of each"""
    seeds: int = 2
    """repetitions"""
    specimens: int = 64
    """specimens of training, ten scenes each"""
    held_out: int = 48
    """specimens of the test, two scenes each"""

    def __post_init__(self) -> None:
        for name in ("steps", "seeds", "specimens", "held_out"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; use 1 or more")
        if not self.names or set(self.names) - set(mask_estimators.ESTIMATORS):
            raise ValueError(f"--names: use some of {', '.join(mask_estimators.ESTIMATORS)}")


def compare(options: Estimators) -> int:
    """Runs the comparison."""
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "estimators.json"
    runs: dict[str, Any] = json.loads(path.read_text())["runs"] if path.exists() else {}
    demo = NAMED_CONFIGS["demo"][1]
    test = list(
        simulator.held_out_cases(
            demo.scenes.simulation, specimens=options.held_out, frames=2, seed=0
        )
    )
    for seed in range(options.seeds):
        left = [name for name in options.names if f"{name} {seed}" not in runs]
        if not left:
            continue
        scenes = replace(demo.scenes, specimens=options.specimens)
        bank = examples.simulated_bank(replace(demo, seed=seed, scenes=scenes))
        for name in left:
            how = replace(demo.optimisation, estimator=name, steps=options.steps)
            config = replace(demo, seed=seed, scenes=scenes, optimisation=how)
            folder = options.output / f"{name}{seed}"
            state = loop.train(config, batches.from_bank(config, bank), folder)
            errors = score(test, config, state.params, ("learnt",))["learnt"]
            ended = read_log(folder)[-1]
            runs[f"{name} {seed}"] = {
                **errors,
                "keep": ended["keep"],
                "entropy": ended["entropy"],
                "name": name,
            }
            path.write_text(json.dumps({"runs": runs}))
    about = {"runs": runs, "figures": summarise(runs), "versions": versions()}
    path.write_text(json.dumps(about, indent=1))
    print(table(about["figures"]))
    print(path)
    return 0


def summarise(runs: dict[str, Any]) -> dict[str, Any]:
    """Figures of each estimator over its runs."""
    figures = {}
    for name in dict.fromkeys(run["name"] for run in runs.values()):
        own = [run for run in runs.values() if run["name"] == name]
        tre = np.concatenate([run["tre_mm"] for run in own])
        groups = [source for run in own for source in run["source"]]
        figures[name] = {
            "median": float(np.median(tre)),
            "interval95": metrics.bootstrap(tre, groups, lambda v: float(np.median(v)), seed=0),
            "below_2mm": float(np.mean(tre < 2.0)),
            "below_5mm": float(np.mean(tre < 5.0)),
            "keep": float(np.mean([run["keep"] for run in own])),
            "entropy": float(np.mean([run["entropy"] for run in own])),
        }
    return figures


def table(figures: dict[str, Any]) -> str:
    """The estimators as text, the best first."""
    lines = [f"{'estimator':26s} median TRE [95 % interval]   <2 mm   <5 mm    keep  entropy"]
    for name, value in sorted(figures.items(), key=lambda item: -item[1]["below_2mm"]):
        low, high = value["interval95"]
        lines.append(
            f"{name:26s} {value['median']:5.2f} mm [{low:.2f}, {high:.2f}]    "
            f"{value['below_2mm']:6.1%}  {value['below_5mm']:6.1%}  {value['keep']:6.1%}  "
            f"{value['entropy']:.2f}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and compares."""
    options = tyro.cli(
        Estimators,
        args=arguments,
        prog="python -m experiments.studies.estimators",
        description=__doc__,
    )
    return run_command(lambda: compare(options))


if __name__ == "__main__":
    sys.exit(main())
