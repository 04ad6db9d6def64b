"""Trains on one device, on several, and in several processes: is it the same run?

Command:  python -m experiments.benchmarks.devices --output runs/devices
Time:     eight minutes on two cores
Expect:   losses that differ by less than 1e-6 over 50 steps, and exit code 0 (below 1e-4)

The devices are simulated ones of the CPU. The processes are real and find each other on this
machine. Each set-up trains the same run. Then each resumes from the middle checkpoint of each
other one. The losses of all steps must be those of the run on one device.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from e2r.cli.errors import parse_options, run_command
from e2r.config import NAMED_CONFIGS
from e2r.datasets import case_folder
from e2r.runtime.atomic_files import require_new_folder
from e2r.simulation import simulator
from e2r.training import checkpoints
from e2r.training.metrics_log import read_log

SETUPS = {"1 device": (1, 1), "2 devices": (1, 2), "8 devices": (1, 8), "2 processes": (2, 1)}
"""Name -> number of processes, devices of each."""
TOLERANCE = 1e-4
COMPARED = ("loss", "held_out_tre_mm")
"""Figures of the log that must agree."""


@dataclass(frozen=True)
class Devices:
    """Trains on one device, on several, and in several processes: is it the same run?"""

    output: Path
    """folder for cases and runs"""
    steps: int = 50
    """steps of a run; even"""
    batch: int = 8
    """scenes a step; a multiple of 8"""
    setups: tuple[str, ...] = tuple(SETUPS)
    """set-ups to compare, the reference first: 1 device, 2 devices, 8 devices, 2 processes"""
    seed: int = 0
    """seed of the scenes"""
    held_out_every: int = 0
    """steps between registrations of a held-out set, which are compared too; 0: never"""

    def __post_init__(self) -> None:
        if self.steps < 2 or self.steps % 2 or self.batch % 8 or self.batch < 8:
            raise ValueError("--steps is even, and --batch a multiple of 8")
        if not self.setups:
            raise ValueError(f"--setups: name one or more of {', '.join(SETUPS)}")
        for name in self.setups:
            if name not in SETUPS:
                raise ValueError(f"--setups {name}: use some of {', '.join(SETUPS)}")

    def training_command(self) -> list[str]:
        """Module and arguments of the training, but for the output folder."""
        command = ["experiments.train", "tiny", "--cases", str(self.output / "cases")]
        command += ["--optimisation.batch", str(self.batch)]
        command += ["--optimisation.steps", str(self.steps)]
        command += ["--optimisation.checkpoint-every", str(self.steps // 2)]
        command += ["--held-out-every", str(self.held_out_every)]
        return [*command, "--log-every", "1", "--output"]


def free_port() -> int:
    """A port of this machine that is not in use."""
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        return int(connection.getsockname()[1])


def train(options: Devices, setup: str, output: Path) -> None:
    """Trains in a set-up.

    Args:
      options: of the command line.
      setup: one of :data:`SETUPS`.
      output: folder of the run.

    Raises:
      ValueError: the training failed; the sentence holds the end of its messages.
    """
    count, devices = SETUPS[setup]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", *options.training_command(), str(output)]
    if count > 1:
        command += ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", str(count)]
    processes = [
        subprocess.Popen(
            [*command, "--process", str(number)] if count > 1 else command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    messages = [process.communicate()[1] for process in processes]
    for process, message in zip(processes, messages, strict=True):
        if process.returncode:
            raise ValueError(f"{setup}: the training failed: {message[-400:]}")


def loss_difference(reference: Path, folder: Path, *, first: int) -> float:
    """Largest relative difference of two runs' losses, and of their errors on a held-out set.

    Args:
      reference: folder of the run to compare with.
      folder: of the other run.
      first: step from which on they are compared.

    Returns:
      Infinity where one run lacks a figure of the other.
    """
    a, b = (
        {
            (int(line["step"]), name): line[name]
            for line in read_log(path)
            for name in COMPARED
            if line["step"] >= first and name in line
        }
        for path in (reference, folder)
    )
    if set(a) != set(b):
        return float("inf")
    return max(abs(a[key] - b[key]) / abs(a[key]) for key in a)


def copy_first_half(run: Path, copy: Path, half: int) -> None:
    """Copies a run without the checkpoints of its second half.

    Args:
      run: folder of the run.
      copy: new folder.
      half: last step that is kept.
    """
    shutil.copytree(run, copy)
    for step in checkpoints.saved_steps(copy / "checkpoint"):
        if step > half:
            shutil.rmtree(copy / "checkpoint" / str(step))


def compare(options: Devices) -> int:
    """Trains in all set-ups, and in all pairs of them; 0 if all losses agree.

    Raises:
      ValueError: the output folder is not empty, or a training failed.
    """
    output, half = options.output, options.steps // 2
    require_new_folder(output)
    (cases,) = simulator.simulate_specimens(
        jax.random.key(options.seed),
        NAMED_CONFIGS["tiny"][1].scenes.simulation,
        specimens=1,
        frames=4,
    )
    case_folder.write_cases(cases, output / "cases")
    folders = {setup: output / setup.replace(" ", "_") for setup in options.setups}
    reference = folders[options.setups[0]]
    differences = []

    def compare_run(name: str, folder: Path, first: int) -> None:
        differences.append(loss_difference(reference, folder, first=first))
        print(f"{name}: largest relative difference of a loss {differences[-1]:.1e}", flush=True)

    for setup, folder in folders.items():
        train(options, setup, folder)
        compare_run(setup, folder, 1)
    for setup, other in itertools.permutations(options.setups, 2):
        folder = output / f"{folders[other].name}_then_{folders[setup].name}"
        copy_first_half(folders[other], folder, half)
        train(options, setup, folder)
        compare_run(f"{other}, then {setup} after step {half}", folder, half + 1)
    worst = max(differences)
    return 0 if np.isfinite(worst) and worst < TOLERANCE else 1


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the benchmark."""
    prog = "python -m experiments.benchmarks.devices"
    return run_command(
        lambda: compare(parse_options(Devices, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(main())
