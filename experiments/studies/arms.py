"""Studies that train one network in several ways, from several seeds, and compare the errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from e2r.config import NAMED_CONFIGS, TrainingConfig
from e2r.datasets.case import Case
from e2r.runtime.atomic_files import atomic_write
from e2r.simulation import simulator
from e2r.training import batches, loop, sources
from e2r.types import Params
from experiments.continued_study import open_study, plain

Arm = Callable[[TrainingConfig], TrainingConfig]
"""The demo's settings -> those of the arm."""
Test = Callable[[list[Case], TrainingConfig, Params, Path], dict[str, Any]]
"""(test cases, demo's settings, parameters, folder of the run) -> ``tre_mm``, ``source`` and more,
as JSON values."""


@dataclass(frozen=True)
class ArmOptions:
    """What such studies are asked for."""

    output: Path
    """folder of all runs, and of the figures"""
    steps: int = 800
    """training steps of each run"""
    seeds: int = 2
    """repetitions"""
    specimens: int = 64
    """specimens of the training, ten scenes each"""
    held_out: int = 48
    """specimens of the test, two scenes each"""
    points: int = 2048
    """points of a cloud"""
    again: bool = False
    """where the output's figures were computed by other code: compute all of them anew"""

    def __post_init__(self) -> None:
        for name in ("steps", "seeds", "specimens", "held_out"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; use 1 or more"
                )


def run_arms(
    options: ArmOptions, arms: Mapping[str, Arm], test: Test, *, name: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains and tests what is left of all arms. Arms of one seed share scenes and initial poses.

    Args:
      options: of the command line.
      arms: name -> its settings.
      test: gives the errors of a run.
      name: of the study, and of its file.

    Returns:
      The runs (arm and seed -> errors and name of the arm), and the study's settings and code.

    Raises:
      ValueError: the folder holds figures by other settings or other code.
    """
    path = options.output / "runs.json"
    settings = plain(asdict(options), without=("output", "seeds", "again", "names"))
    code = open_study(
        options.output / "settings.json",
        {"study": name, **settings},
        study=(run_arms, arms, test),
        again=options.again,
        results=[path, options.output / f"{name}.json", options.output / "runs"],
        first=[path],
    )
    runs: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    demo = NAMED_CONFIGS["demo"][1]
    demo = replace(
        demo,
        network=replace(demo.network, points=options.points),
        scenes=replace(demo.scenes, specimens=options.specimens),
        optimisation=replace(demo.optimisation, steps=options.steps),
    )
    test_cases: list[Case] = []
    for seed in range(options.seeds):
        left = [arm for arm in arms if f"{arm} {seed}" not in runs]
        if not left:
            continue
        test_cases = test_cases or list(
            simulator.held_out_cases(
                demo.scenes.simulation, specimens=options.held_out, frames=2, seed=0
            )
        )
        base = replace(demo, seed=seed)
        source = sources.simulated(base)
        for arm in left:
            config, folder = arms[arm](base), options.output / "runs" / f"{arm}{seed}"
            inputs = loop.RunInputs(config, batches.uniform_batches(config, source))
            state = loop.train(inputs, folder)
            runs[f"{arm} {seed}"] = {**test(test_cases, base, state.params, folder), "name": arm}
            with atomic_write(path) as part:
                part.write_text(json.dumps(runs))
    return runs, {"settings": settings, "code": code}
