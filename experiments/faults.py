"""Kill a training run and an evaluation job again and again, and see that nothing is lost.

Command:  python -m experiments.faults --output runs/faults
Time:     an hour and a half on two cores for 100 kills of each; --kills 3 takes five minutes
Expect:   "training: ... bit for bit", "evaluation: ... once each", exit code 0

Each run is killed (SIGKILL) at random moments, from its first breath on, and given again, until the
kills are used up; then it may end. Its parameters and optimiser must be those of a run that was
never killed, bit for bit; the job must hold every case once, with the poses of a job that was never
killed.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from e2r import checkpoints, console, ledger, training
from e2r.datasets import cases, simulated

SMALL = (
    "--network.points", "256", "--network.widths", "8", "16", "--network.neighbours", "4",
    "--network.tokens", "32", "--network.samples", "64", "--network.coarse-width", "16",
    "--network.coarse-layers", "1", "--schedule.steps", "3", "--optimisation.batch", "2",
    "--optimisation.checkpoint-every", "3", "--scenes.nodes", "32768",
)  # fmt: skip


@dataclass(frozen=True)
class Faults:
    """Kill a training run and an evaluation job again and again."""

    output: Path
    """folder for scenes, runs and jobs"""
    kills: int = 100
    """of each"""
    steps: int = 150
    """of the training run"""
    cases: int = 60
    """of the evaluation job"""
    seed: int = 0
    """of the moments"""

    def __post_init__(self) -> None:
        if min(self.kills, self.steps) < 1 or self.cases < 2:
            raise ValueError("--kills and --steps are 1 or more, --cases 2 or more")


def harassed(command: Sequence[str], kills: int, longest: float, rng: random.Random) -> int:
    """Gives a command until it ends, killing it so many times at most.

    Args:
      command: of Python.
      kills: how often.
      longest: seconds before a kill, at most.
      rng: of the moments.

    Returns:
      how often it was killed; fewer than asked for if it was done before.

    Raises:
      ValueError: it failed by itself.
    """
    killed = 0
    while True:
        with subprocess.Popen(
            [sys.executable, "-m", *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True,
        ) as process:  # fmt: skip
            try:
                wait = rng.uniform(0.0, longest) if killed < kills else None
                _, err = process.communicate(timeout=wait)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                killed += 1
                continue
        if process.returncode:
            raise ValueError(f"{' '.join(command[:2])} failed after {killed} kills: {err[-300:]}")
        return killed


def states_equal(a: Path, b: Path) -> bool:
    """Whether two runs ended with the same parameters and optimiser, bit for bit."""
    first, second = map(training.restore, (a, b))
    return first.step == second.step and checkpoints.digest(first.state) == checkpoints.digest(
        second.state
    )


def poses_by_id(folder: Path) -> list[tuple[str, Any]]:
    """What a job's predictions file holds, line by line."""
    lines = (folder / ledger.PREDICTIONS).read_text().splitlines()
    return [(line["id"], line["T_camera_model"]) for line in map(json.loads, lines)]


def faults(options: Faults) -> int:
    """Runs both."""
    rng = random.Random(options.seed)
    out = options.output
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: is there already; name another folder, or delete this one")
    simulation = simulated.Simulation(fill=(0.3, 0.8), least_bone=0.05)
    specimens = -(-options.cases // 4)
    for group in simulated.simulate(
        jax.random.key(options.seed), simulation, specimens=specimens, frames=4
    ):
        for case in group:
            cases.write(case, out / "cases" / case.id)
    for path in cases.find(out / "cases")[options.cases :]:
        shutil.rmtree(path)
    few = out / "few"
    for path in cases.find(out / "cases")[:4]:
        shutil.copytree(path, few / path.name)

    train = ["experiments.train", "demo", "--cases", str(few), *SMALL,
             "--optimisation.steps", str(options.steps), "--output"]  # fmt: skip
    began = time.monotonic()
    harassed([*train, str(out / "whole")], 0, 1.0, rng)
    took = time.monotonic() - began
    killed = harassed([*train, str(out / "killed")], options.kills, 1.2 * took, rng)
    same = states_equal(out / "whole", out / "killed")
    print(
        f"training: killed {killed} times; its state after {options.steps} steps is that of the "
        f"run that was never killed, bit for bit: {same}",
        flush=True,
    )

    job = ["experiments.evaluate", "--checkpoint", str(out / "whole"),
           "--cases", str(out / "cases"), "--batch", "2", "--views", "1", "--start", "truth",
           "--output"]  # fmt: skip
    began = time.monotonic()
    harassed([*job, str(out / "job")], 0, 1.0, rng)
    took = time.monotonic() - began
    killed = harassed([*job, str(out / "killed_job")], options.kills, 1.2 * took, rng)
    expected, found = poses_by_id(out / "job"), poses_by_id(out / "killed_job")
    once = sorted(name for name, _ in found) == sorted(name for name, _ in expected)
    a, b = dict(expected), dict(found)
    apart = max(
        float(np.abs(np.subtract(a[name][level], b[name][level])).max())
        for name in a for level in a[name]
    ) if once else float("inf")  # fmt: skip
    print(
        f"evaluation: killed {killed} times; {len(expected)} cases, once each: {once}; poses "
        f"differ by {apart:.1e} at most from the job's that was never killed"
    )
    return 0 if same and once and apart < 1e-3 else 1


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs."""
    options = tyro.cli(
        Faults, args=arguments, prog="python -m experiments.faults", description=__doc__
    )
    return console.run(lambda: faults(options))


if __name__ == "__main__":
    sys.exit(main())
