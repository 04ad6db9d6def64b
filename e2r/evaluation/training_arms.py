"""Studies that train one network in several ways, from several seeds, and compare the errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from e2r.config import NAMED_CONFIGS, TrainingConfig
from e2r.datasets.case import Case
from e2r.evaluation.study_folder import open_study, plain, run_parts
from e2r.runtime.atomic_files import atomic_write
from e2r.runtime.cluster import ClusterConfig, leave_devices
from e2r.simulation import simulator
from e2r.training import batches, loop, sources
from e2r.types import Params

Arm = Callable[[TrainingConfig], TrainingConfig]
"""The demo's settings -> those of the arm."""
Test = Callable[[list[Case], TrainingConfig, Params, Path], dict[str, Any]]
"""(test cases, demo's settings, parameters, folder of the run) -> ``tre_mm``, ``source`` and more,
as JSON values."""


RUNS, RESULT = "runs", "result.json"
"""Folder of the runs, and the file in the folder of each that says what it reached."""


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
    where: Annotated[ClusterConfig, tyro.conf.arg(name="")] = ClusterConfig()
    """where the runs are made"""
    again: bool = False
    """where the output's figures were computed by other code: compute all of them anew"""

    def __post_init__(self) -> None:
        for name in ("steps", "seeds", "specimens", "held_out"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; use 1 or more"
                )


def run_arms(
    options: ArmOptions,
    arms: Mapping[str, Arm],
    test: Test,
    *,
    name: str,
    only: Collection[str] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains and tests what is left of all arms. Arms of one seed share scenes and initial poses.

    Args:
      options: of the command line.
      arms: name -> its settings.
      test: gives the errors of a run.
      name: of the study, and of its file.
      only: the arms to train now; all without it. Others of the same folder stay.

    Returns:
      The runs (arm and seed -> errors and name of the arm), and the study's settings and code.

    Raises:
      ValueError: the folder holds figures by other settings or other code.
    """
    leave_devices(options.where)
    settings = plain(asdict(options), without=("output", "seeds", "again", "names", "where"))
    results = options.output / RUNS
    with open_study(
        options.output / "settings.json",
        {"study": name, **settings},
        study=(run_arms, _run_arm, arms, test),
        again=options.again,
        results=[results, options.output / f"{name}.json"],
        first=results.glob(f"*/{RESULT}"),
    ) as code:
        parts = [
            (arm, seed) for seed in range(options.seeds) for arm in dict.fromkeys(only or arms)
        ]
        placed = replace(options, output=options.output.resolve())
        found = run_parts(
            partial(_run_arm, placed, arms, test), parts, config=options.where, name=_key
        )
    runs = {_key(part): run for part, run in zip(parts, found, strict=True)}
    return runs, {"settings": settings, "code": code}


def _key(part: tuple[str, int]) -> str:
    arm, seed = part
    return f"{arm} {seed}"


def _run_arm(
    options: ArmOptions, arms: Mapping[str, Arm], test: Test, part: tuple[str, int]
) -> dict[str, Any]:
    """One run: trains and tests an arm from a seed, or reads what it reached."""
    arm, seed = part
    folder = options.output / RUNS / f"{arm}{seed}"
    path = folder / RESULT
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    demo = NAMED_CONFIGS["demo"][1]
    base = replace(
        demo,
        network=replace(demo.network, points=options.points),
        scenes=replace(demo.scenes, specimens=options.specimens),
        optimisation=replace(demo.optimisation, steps=options.steps),
        seed=seed,
    )
    config = arms[arm](base)
    inputs = loop.RunInputs(config, batches.uniform_batches(config, _scenes(base)))
    state = loop.train(inputs, folder)
    cases = _test_cases(base.scenes.simulation, options.held_out)
    result = {**test(cases, base, state.params, folder), "name": arm}
    with atomic_write(path) as part_path:
        part_path.write_text(json.dumps(result))
    return result


@lru_cache(maxsize=1)
def _scenes(base: TrainingConfig) -> Any:
    """The scenes of a seed, which its arms share."""
    return sources.simulated(base)


@lru_cache(maxsize=1)
def _test_cases(simulation: simulator.SimulationConfig, held_out: int) -> list[Case]:
    """The test cases of all runs."""
    return list(simulator.held_out_cases(simulation, specimens=held_out, frames=2, seed=0))
