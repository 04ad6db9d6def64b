"""Kills a training run and an evaluation job again and again: is anything lost?

Command:  python -m experiments.benchmarks.interruptions --output runs/interruptions
Time:     five minutes on two cores for 4 kills of each (--kills 4), hours for 100; interrupted, the
          same command goes on
Expect:   100 kills of each; "training: ... bit for bit: True", "each case once: True" of every job,
          exit code 0

Each command is killed (SIGKILL) at random moments and started again, until all kills are used up.
Then it may end. A run that was killed must end with the parameters and the optimiser of one that
was not, bit for bit. A job that was killed must hold every case once, with the same poses. So must
one on a cluster whose driver, or whose workers are killed.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from e2r.cli.errors import parse_options, run_command
from e2r.config import NAMED_CONFIGS
from e2r.datasets import case_folder
from e2r.evaluation.job_folder import count_predictions
from e2r.evaluation.job_poses import pose_difference, read_poses
from e2r.runtime.atomic_files import require_new_folder
from e2r.runtime.measured_process import process_family
from e2r.simulation import simulator
from e2r.training import checkpoints
from e2r.training.trained_model import restore_trained

FRAMES = 4
"""Scenes of each simulated specimen, and cases of the training run."""
LATEST_KILL = 0.8
"""Latest moment of a kill, as a share of the time that the command takes."""
BETWEEN_KILLS = 8
"""Cases that are done between two kills of workers, at least."""
POSE_TOLERANCE = 1e-3
"""Largest difference of an entry of a pose."""


@dataclass(frozen=True)
class Interruptions:
    """Kills a training run and an evaluation job again and again: is anything lost?"""

    output: Path
    """folder for cases, runs and jobs"""
    kills: int = 100
    """kills of each"""
    steps: int = 150
    """steps of the training run"""
    cases: int = 60
    """cases of the evaluation job"""
    parts: tuple[Literal["training", "job", "driver", "workers"], ...] = (
        "training",
        "job",
        "driver",
        "workers",
    )
    """what is killed; driver and workers are those of a local cluster, which needs Ray"""
    seed: int = 0
    """seed of the cases and of the moments"""

    def __post_init__(self) -> None:
        if min(self.kills, self.steps) < 1 or self.cases < 2:
            raise ValueError("--kills and --steps are 1 or more, --cases 2 or more")
        if "workers" in self.parts and self.cases <= BETWEEN_KILLS:
            raise ValueError(
                f"--cases is {self.cases}; kills of workers need more than {BETWEEN_KILLS}"
            )
        if not self.parts:
            raise ValueError("--parts is empty; name one at least")


def run_module(command: Sequence[str], output: Path, kill_after: float | None = None) -> bool:
    """Runs a module of Python, and kills it if it takes too long.

    Args:
      command: name of the module and its arguments; the output folder is added.
      output: its output folder.
      kill_after: seconds; never by default.

    Returns:
      Whether it ended by itself.

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
            _, message = process.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return False
    if process.returncode:
        raise ValueError(f"{command[0]} failed without being killed: {message[-300:]}")
    return True


def kill_workers(
    command: Sequence[str], output: Path, *, kills: int, every_s: float, seed: int
) -> int:
    """Runs a job on a local cluster, and kills random workers of it; returns how many.

    Some cases are done between two kills. Otherwise a case could lose two workers that held nothing
    else, and the job would give it up, as it should.

    Args:
      command: as for :func:`run_module`.
      output: its output folder.
      kills: most kills.
      every_s: longest time between two of them, s.
      seed: of the moments and the workers.

    Raises:
      ValueError: the job failed.
    """
    draw, killed, done = random.Random(f"{seed} workers"), 0, 0
    arguments = [sys.executable, "-m", *command, str(output)]
    with (
        output.with_name(f"{output.name}.log").open("w") as log,
        subprocess.Popen(arguments, stdout=log, stderr=log) as process,
    ):
        while process.poll() is None:
            time.sleep(draw.uniform(0.0, every_s))
            workers = [pid for pid in process_family(process.pid) if _is_worker(pid)]
            lines = count_predictions(output)
            if workers and killed < kills and lines >= done + BETWEEN_KILLS:
                os.kill(draw.choice(sorted(workers)), signal.SIGKILL)
                killed, done = killed + 1, lines
    if process.returncode:
        raise ValueError(f"{log.name}: the job failed, though only its workers were killed")
    return killed


def _is_worker(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().startswith("ray::_Server")
    except OSError:
        return False


def run_undisturbed(command: Sequence[str], output: Path) -> float:
    """Runs a module once, and returns how many seconds it took. The time is kept in a file.

    Args:
      command: as for :func:`run_module`.
      output: its output folder.
    """
    record = output.with_name(f"{output.name}.seconds")
    if not record.exists():
        shutil.rmtree(output, ignore_errors=True)  # what an interrupted call left took less time
        began = time.monotonic()
        run_module(command, output)
        record.write_text(str(time.monotonic() - began))
    return float(record.read_text())


def run_killed(
    command: Sequence[str], output: Path, *, kills: int, latest: float, seed: int
) -> list[Path]:
    """Runs a module again and again, and kills it a number of times.

    The end of each call is kept in a file, so a later call of this function goes on counting.

    Args:
      command: as for :func:`run_module`.
      output: path of the output folders, to which their numbers are added; a run that ends while
        kills are left is followed by another.
      kills: number of kills.
      latest: latest moment of a kill, s.
      seed: of the moments.

    Returns:
      The folders of all runs; each has ended.
    """
    record = output.with_name(f"{output.name}.ends")
    ends = record.read_text().split() if record.exists() else []
    while ends.count("killed") < kills or ends[-1] != "ended":
        kills_left = ends.count("killed") < kills
        moment = random.Random(f"{seed} {len(ends)}").uniform(0.0, latest)
        folder = output.with_name(f"{output.name}{ends.count('ended')}")
        ended = run_module(command, folder, moment if kills_left else None)
        ends.append("ended" if ended else "killed")
        with record.open("a") as file:
            file.write(f"{ends[-1]}\n")
    return [output.with_name(f"{output.name}{number}") for number in range(ends.count("ended"))]


def write_cases(options: Interruptions) -> None:
    """Writes the cases of the evaluation, those of the training, and the settings."""
    output = options.output
    groups = simulator.simulate_specimens(
        jax.random.key(options.seed),
        NAMED_CONFIGS["tiny"][1].scenes.simulation,
        specimens=-(-options.cases // FRAMES),
        frames=FRAMES,
    )
    cases = itertools.islice(itertools.chain.from_iterable(groups), options.cases)
    case_folder.write_cases(cases, output / "cases")
    for path in case_folder.find_cases(output / "cases")[:FRAMES]:
        shutil.copytree(path, output / "incomplete" / path.name)
    (output / "settings.json").write_text(_settings(options))
    (output / "incomplete").rename(output / "few")  # last: its presence says that all is written


def _settings(options: Interruptions) -> str:
    values = dataclasses.asdict(options)
    del values["parts"]  # each has files of its own
    return json.dumps(values, default=str)


def have_equal_states(first: Path, second: Path) -> bool:
    """Whether two runs ended with the same parameters and optimiser, bit for bit.

    Args:
      first: folder of a run.
      second: folder of another.
    """
    a, b = map(restore_trained, (first, second))
    return a.step == b.step and checkpoints.digest(a.state) == checkpoints.digest(b.state)


def check_training(options: Interruptions) -> bool:
    """Whether killed training runs end like one that was not killed."""
    output, steps = options.output, str(options.steps)
    command = ["experiments.train", "tiny", "--cases", str(output / "few")]
    command += ["--optimisation.steps", steps, "--output"]
    seconds = run_undisturbed(command, output / "whole")
    if "training" not in options.parts:
        return True
    runs = run_killed(
        command,
        output / "killed",
        kills=options.kills,
        latest=LATEST_KILL * seconds,
        seed=options.seed,
    )
    same = all(have_equal_states(output / "whole", run) for run in runs)
    print(
        f"training: {options.kills} kills in {len(runs)} runs; the state after {steps} steps is "
        f"that of a run without kills, bit for bit: {same}",
        flush=True,
    )
    return same


def check_evaluation(options: Interruptions) -> bool:
    """Whether killed evaluation jobs, and a cluster's, end like one that was not killed."""
    if not {"job", "driver", "workers"} & set(options.parts):
        return True
    output = options.output
    command = ["experiments.evaluate", "--checkpoint", str(output / "whole")]
    command += ["--cases", str(output / "cases"), "--batch", "2", "--num-samples", "1"]
    command += ["--start", "truth"]
    seconds = run_undisturbed([*command, "--output"], output / "job")
    expected = read_poses(output / "job")
    latest, on_cluster = LATEST_KILL * seconds, ["--cluster", "local", "--workers", "2"]
    found = []
    for part, words in {"job": [], "driver": on_cluster}.items():
        if part not in options.parts:
            continue
        jobs = run_killed(
            [*command, *words, "--output"],
            output / f"killed_{part}",
            kills=options.kills,
            latest=latest,
            seed=options.seed,
        )
        difference = max(pose_difference(expected, read_poses(job)) for job in jobs)
        found.append(difference)
        _print_difference(f"killed_{part}: {options.kills} kills in {len(jobs)} jobs", difference)
    killed, number = 0, 0
    while "workers" in options.parts and killed < options.kills:
        job = output / f"killed_workers{number}"
        killed += kill_workers(
            [*command, *on_cluster, "--output"],
            job,
            kills=options.kills - killed,
            every_s=latest / 2,
            seed=options.seed + number,
        )
        found.append(pose_difference(expected, read_poses(job)))
        _print_difference(f"{job.name}: {killed} kills of workers so far", found[-1])
        number += 1
    return max(found) < POSE_TOLERANCE


def _print_difference(what: str, difference: float) -> None:
    print(
        f"{what}; each case once: {np.isfinite(difference)}; poses differ from those of a job "
        f"without kills by {difference:.1e} at most",
        flush=True,
    )


def interrupt(options: Interruptions) -> int:
    """Runs both tests; 0 if nothing was lost.

    Raises:
      ValueError: the folder holds something else, or kills with other settings.
    """
    output = options.output
    if not (output / "few").exists():
        require_new_folder(output)
        write_cases(options)
    if (output / "settings.json").read_text() != _settings(options):
        raise ValueError(f"{output}: holds kills with other settings; name another folder")
    trained, evaluated = check_training(options), check_evaluation(options)
    return 0 if trained and evaluated else 1


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the benchmark."""
    prog = "python -m experiments.benchmarks.interruptions"
    return run_command(
        lambda: interrupt(parse_options(Interruptions, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(main())
