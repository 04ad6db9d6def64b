"""Kill a training run and an evaluation job again and again, and see that nothing is lost.

Command:  python -m experiments.benchmarks.interruptions --output runs/faults
Time:     five minutes on two cores for 4 kills of each (--kills 4); hours for 100,
          and interrupted, the same command goes on
Expect:   "training: ... bit for bit", "evaluation: ... once each", exit code 0

Each run is killed (SIGKILL) at random moments, from its first breath on, and given again, until the
kills are used up; then it may end. Its parameters and optimiser must be those of a run that was
never killed, bit for bit; the job must hold every case once, with the poses of a job that was never
killed.
"""

from __future__ import annotations

import dataclasses
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

from e2r.cli.errors import run_command
from e2r.datasets import case_folder
from e2r.evaluation.job_folder import PREDICTIONS
from e2r.simulation import simulator
from e2r.training import checkpoints
from e2r.training.trained_model import restore_trained

SMALL = (
    "--network.points",
    "256",
    "--network.widths",
    "8",
    "16",
    "--network.neighbours",
    "4",
    "--network.tokens",
    "32",
    "--network.samples",
    "64",
    "--network.coarse-width",
    "16",
    "--network.coarse-layers",
    "1",
    "--schedule.steps",
    "3",
    "--optimisation.batch",
    "2",
    "--optimisation.checkpoint-every",
    "3",
    "--scenes.nodes",
    "32768",
)


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


def given(command: Sequence[str], output: Path, seconds: float | None = None) -> bool:
    """Gives a command of Python, and kills it after some seconds, if it has not ended before.

    Returns:
      whether it ended by itself.

    Raises:
      ValueError: it failed.
    """
    with subprocess.Popen(
        [sys.executable, "-m", *command, str(output)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            _, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return False
    if process.returncode:
        raise ValueError(f"{command[0]} failed by itself: {err[-300:]}")
    return True


def timed(command: Sequence[str], output: Path) -> float:
    """Gives a command, unless it has ended already, and returns how many seconds it took."""
    kept = output.with_name(f"{output.name}.seconds")
    if not kept.exists():
        began = time.monotonic()
        given(command, output)
        kept.write_text(str(time.monotonic() - began))
    return float(kept.read_text())


def harassed(
    command: Sequence[str], output: Path, kills: int, longest: float, seed: int
) -> list[Path]:
    """Gives a command again and again, and kills it so many times.

    What happened is kept in a file, so that the kills may be counted over several sittings.

    Args:
      command: of Python, but for its output folder.
      output: of the first round; where a round ends with kills left over, another begins.
      kills: how often.
      longest: s, after which at most it is killed.
      seed: of the moments.

    Returns:
      the folders of all rounds, each ended by itself at last.
    """
    kept = output.with_name(f"{output.name}.ends")
    ends = kept.read_text().split() if kept.exists() else []
    while ends.count("killed") < kills or ends[-1] != "ended":
        left = ends.count("killed") < kills
        moment = random.Random(f"{seed} {len(ends)}").uniform(0.0, longest)
        folder = output.with_name(f"{output.name}{ends.count('ended')}")
        ends.append("ended" if given(command, folder, moment if left else None) else "killed")
        with kept.open("a") as file:
            file.write(f"{ends[-1]}\n")
    return [output.with_name(f"{output.name}{number}") for number in range(ends.count("ended"))]


def states_equal(a: Path, b: Path) -> bool:
    """Whether two runs ended with the same parameters and optimiser, bit for bit."""
    first, second = map(restore_trained, (a, b))
    return first.step == second.step and checkpoints.digest(first.state) == checkpoints.digest(
        second.state
    )


def poses_by_id(folder: Path) -> list[tuple[str, Any]]:
    """What a job's predictions file holds, line by line."""
    lines = (folder / PREDICTIONS).read_text().splitlines()
    return [(line["id"], line["T_camera_model"]) for line in map(json.loads, lines)]


def scenes(options: Faults, about: str) -> None:
    """Writes the cases of both, and what they are for."""
    out = options.output
    simulation = simulator.SimulationConfig(wound_fraction=(0.3, 0.8), min_bone_fraction=0.05)
    for group in simulator.simulate_specimens(
        jax.random.key(options.seed), simulation, specimens=-(-options.cases // 4), frames=4
    ):
        for case in group:
            case_folder.write_case(case, out / "cases" / case.id)
    for path in case_folder.find_cases(out / "cases")[options.cases :]:
        shutil.rmtree(path)
    for path in case_folder.find_cases(out / "cases")[:4]:
        shutil.copytree(path, out / "part" / path.name)
    (out / "settings.json").write_text(about)
    (out / "part").rename(out / "few")


def faults(options: Faults) -> int:
    """Runs both."""
    out = options.output
    about = json.dumps(dataclasses.asdict(options), default=str)
    if not (out / "few").exists():
        if out.exists() and any(out.iterdir()):
            raise ValueError(f"{out}: is there already; name another folder, or delete this one")
        scenes(options, about)
    if (out / "settings.json").read_text() != about:
        raise ValueError(f"{out}: holds kills with other settings; name another folder")

    train = [
        "experiments.train",
        "demo",
        "--cases",
        str(out / "few"),
        *SMALL,
        "--optimisation.steps",
        str(options.steps),
        "--output",
    ]
    took = timed(train, out / "whole")
    rounds = harassed(train, out / "killed", options.kills, 0.8 * took, options.seed)
    same = all(states_equal(out / "whole", folder) for folder in rounds)
    print(
        f"training: killed {options.kills} times in {len(rounds)} runs; the state after "
        f"{options.steps} steps is that of the run that was never killed, bit for bit: {same}",
        flush=True,
    )

    job = [
        "experiments.evaluate",
        "--checkpoint",
        str(out / "whole"),
        "--cases",
        str(out / "cases"),
        "--batch",
        "2",
        "--num-samples",
        "1",
        "--start",
        "truth",
        "--output",
    ]
    took = timed(job, out / "job")
    rounds = harassed(job, out / "killed_job", options.kills, 0.8 * took, options.seed)
    expected = poses_by_id(out / "job")
    gaps = [apart(expected, poses_by_id(folder)) for folder in rounds]
    print(
        f"evaluation: killed {options.kills} times in {len(rounds)} jobs; {len(expected)} cases, "
        f"once each: {max(gaps) < np.inf}; poses differ by {max(gaps):.1e} at most from the job's "
        "that was never killed"
    )
    return 0 if same and max(gaps) < 1e-3 else 1


def apart(expected: list[tuple[str, Any]], found: list[tuple[str, Any]]) -> float:
    """Largest difference of two jobs' poses; infinite unless they hold the same cases, once."""
    if sorted(name for name, _ in found) != sorted(name for name, _ in expected):
        return float("inf")
    a, b = dict(expected), dict(found)
    return max(
        float(np.abs(np.subtract(a[name][level], b[name][level])).max())
        for name in a
        for level in a[name]
    )


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs."""
    options = tyro.cli(
        Faults,
        args=arguments,
        prog="python -m experiments.benchmarks.interruptions",
        description=__doc__,
    )
    return run_command(lambda: faults(options))


if __name__ == "__main__":
    sys.exit(main())
