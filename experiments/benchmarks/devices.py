"""Train on one device, on several and in several processes: is it the same run?

Command:  python -m experiments.benchmarks.devices --output runs/devices
Time:     eight minutes on two cores
Expect:   "largest relative difference of a loss" below 1e-4 on every line, exit code 0

The devices are simulated ones of the CPU, the processes real ones that find each other on this
machine. Each set-up trains the same run; then each goes on with the middle checkpoint of each
other. All losses, step by step, must be those of the run on one device.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tyro

from e2r.cli.errors import run_command
from e2r.datasets import case_folder
from e2r.simulation import simulator
from e2r.training import checkpoints
from e2r.training.metrics_log import read_log
from experiments.benchmarks.interruptions import SMALL

SETUPS = {"1 device": (1, 1), "2 devices": (1, 2), "8 devices": (1, 8), "2 processes": (2, 1)}
"""name -> processes, devices of each"""
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Devices:
    """Train on one device, on several and in several processes: is it the same run?"""

    output: Path
    """folder for scenes and runs"""
    steps: int = 50
    """of a run; even"""
    batch: int = 8
    """scenes a step, a multiple of 8"""
    setups: tuple[str, ...] = tuple(SETUPS)
    """of those above; the first is what the others are compared with"""
    seed: int = 0
    """of the scenes"""

    def __post_init__(self) -> None:
        if self.steps < 2 or self.steps % 2 or self.batch % 8 or self.batch < 8:
            raise ValueError("--steps is even, and --batch a multiple of 8")
        for name in self.setups:
            if name not in SETUPS:
                raise ValueError(f"--setups {name}: use some of {', '.join(SETUPS)}")


def free_port() -> int:
    """A port of this machine that nobody answers at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def run(setup: str, command: list[str]) -> None:
    """Gives a training command in a set-up.

    Raises:
      ValueError: it failed; with the end of what it said.
    """
    processes, devices = SETUPS[setup]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
    where = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", str(processes)]
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                *command,
                *([*where, "--process", str(number)] if processes > 1 else []),
            ],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    said = [process.communicate()[1] for process in started]
    for process, text in zip(started, said, strict=True):
        if process.returncode:
            raise ValueError(f"{setup}: the training failed: {text[-400:]}")


def apart(reference: Path, folder: Path, first: int) -> float:
    """Largest relative difference of two runs' losses from a step on; infinite if steps miss."""
    a, b = (
        {int(line["step"]): line["loss"] for line in read_log(path) if line["step"] >= first}
        for path in (reference, folder)
    )
    if set(a) != set(b):
        return float("inf")
    return max(abs(a[step] - b[step]) / abs(a[step]) for step in a)


def devices(options: Devices) -> int:
    """Runs all."""
    out, half = options.output, options.steps // 2
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: is there already; name another folder, or delete this one")
    (group,) = simulator.simulate_specimens(
        jax.random.key(options.seed),
        simulator.SimulationConfig(wound_fraction=(0.3, 0.8), min_bone_fraction=0.05),
        specimens=1,
        frames=4,
    )
    for case in group:
        case_folder.write_case(case, out / "cases" / case.id)
    train = [
        "experiments.train",
        "demo",
        "--cases",
        str(out / "cases"),
        *SMALL,
        "--optimisation.batch",
        str(options.batch),
        "--optimisation.steps",
        str(options.steps),
        "--optimisation.checkpoint-every",
        str(half),
        "--log-every",
        "1",
    ]
    worst = 0.0
    folders = {setup: out / setup.replace(" ", "_") for setup in options.setups}
    reference = folders[options.setups[0]]
    for setup, folder in folders.items():
        run(setup, [*train, "--output", str(folder)])
        gap = apart(reference, folder, 1)
        worst = max(worst, gap)
        print(f"{setup}: largest relative difference of a loss {gap:.1e}", flush=True)
    for setup in options.setups:
        for other in options.setups:
            if other == setup:
                continue
            folder = out / f"{folders[other].name}_then_{folders[setup].name}"
            shutil.copytree(folders[other], folder)
            for step in checkpoints.steps(folder / "checkpoint"):
                if step > half:
                    shutil.rmtree(folder / "checkpoint" / str(step))
            run(setup, [*train, "--output", str(folder)])
            gap = apart(reference, folder, half + 1)
            worst = max(worst, gap)
            print(
                f"{other}, then {setup} from step {half} on: largest relative difference of a loss "
                f"{gap:.1e}",
                flush=True,
            )
    return 0 if np.isfinite(worst) and worst < TOLERANCE else 1


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs."""
    options = tyro.cli(
        Devices,
        args=arguments,
        prog="python -m experiments.benchmarks.devices",
        description=__doc__,
    )
    return run_command(lambda: devices(options))


if __name__ == "__main__":
    sys.exit(main())
