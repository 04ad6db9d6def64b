"""An evaluation of thousands of cases, some of them broken: is it complete, and how fast?

Command:  python -m experiments.benchmarks.throughput --output runs/throughput
Time:     seven to twenty minutes on two cores
Expect:   1,960 predictions, 40 error lines, exit code 3; one process does 9.1 cases a second, 71 %
          of the device alone; two workers on the same two cores 8.7, with the same poses; 5.4 GB

A few simulated scenes are copied under new names and broken in twenty ways. The cases go to
experiments.evaluate, as a user would give them. One process evaluates a few whole ones. Two workers
must find the same poses, and then evaluate many cases, some of them broken. The rate is that
between the first prediction and the last. An earlier job compiles all programs, so start-up and
compilation do not count. All jobs have as many cases a model, and no second try. The rate of the
device alone is that of the two programs on one batch in memory.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from e2r.cli.errors import parse_options, run_command
from e2r.config import EvaluationConfig
from e2r.datasets import case_folder
from e2r.evaluation import runner
from e2r.evaluation.job_folder import PREDICTIONS, count_predictions
from e2r.evaluation.job_poses import pose_difference, read_poses
from e2r.evaluation.models import Model
from e2r.evaluation.programs import compile_programs
from e2r.evaluation.text_table import text_table
from e2r.runtime import sharding
from e2r.runtime.atomic_files import require_new_folder
from e2r.runtime.measured_process import process_family
from e2r.simulation import simulator
from e2r.training.trained_model import PACKAGED, load_trained

MAX_PROGRAMS = 6
"""Most programs that a job of one process may compile."""
MAX_DIFFERENCE = 1e-6
"""Largest difference of an entry of a pose, between one process and two workers."""


@dataclass(frozen=True)
class Throughput:
    """An evaluation of thousands of cases, some of them broken: is it complete, and how fast?"""

    output: Path
    """folder of the cases and the jobs"""
    checkpoint: Path = PACKAGED
    """output folder of experiments.train; by default the packaged model"""
    many: int = 2000
    """cases of the large job"""
    few: int = 200
    """cases of the small jobs, none of them broken"""
    scenes: int = 40
    """different scenes among them; each specimen has four"""
    each: int = 2
    """cases broken in each way"""
    seed: int = 0
    """seed of the scenes"""

    def __post_init__(self) -> None:
        if min(self.few, self.many, self.scenes) < 4 or self.each < 0:
            raise ValueError("--few, --many and --scenes are 4 or more, --each 0 or more")
        if self.many < self.each * len(DEFECTS):
            raise ValueError(f"--many is {self.many}; {len(DEFECTS)} defects need more cases")


# Broken cases -------------------------------------------------------------------------------------

Defect = Callable[[Path], None]
"""Breaks a case folder."""


def _replace(path: Path, content: bytes) -> None:
    path.unlink()  # it may be a link to the file of another case
    path.write_bytes(content)


def _edited(file: str, edit: Callable[[Any], None]) -> Defect:
    def break_case(case: Path) -> None:
        value = json.loads((case / file).read_text())
        edit(value)
        _replace(case / file, json.dumps(value).encode())

    return break_case


def _cut(file: str) -> Defect:
    def break_case(case: Path) -> None:
        content = (case / file).read_bytes()
        _replace(case / file, content[: len(content) // 2])

    return break_case


def _without(file: str) -> Defect:
    return lambda case: (case / file).unlink()


def _cut_surface(case: Path) -> None:
    surface = sorted((case / "model").glob("*.stl"))[0]
    _replace(surface, surface.read_bytes()[:90])


def _scale_truth(truth: dict[str, Any]) -> None:
    poses = truth["T_camera_model"].items()
    truth["T_camera_model"] = {name: (2.0 * np.array(pose)).tolist() for name, pose in poses}


DEFECTS: dict[str, Defect] = {
    "case.json cut": _cut("case.json"),
    "unit": _edited("case.json", lambda v: v.update(unit="inch")),
    "levels twice": _edited("case.json", lambda v: v.update(levels=["L1", "L1"])),
    "no levels": _edited("case.json", lambda v: v.update(levels=[])),
    "a level of another folder": _edited("case.json", lambda v: v.update(levels=["../L1"])),
    "no such level": _edited("case.json", lambda v: v.update(levels=["C9"])),
    "no camera": _without("camera.json"),
    "camera cut": _cut("camera.json"),
    "focal length": _edited("camera.json", lambda v: v.update(fx=-1.0)),
    "not a number": _edited("camera.json", lambda v: v.update(cx=float("nan"))),
    "size": _edited("camera.json", lambda v: v.update(width=v["width"] + 1)),
    "depth scale": _edited("camera.json", lambda v: v.update(depth_scale=0)),
    "metres": _edited("camera.json", lambda v: v.update(depth_scale=v["depth_scale"] * 1000)),
    "no depth": _without("depth.png"),
    "depth cut": _cut("depth.png"),
    "colour is text": lambda case: _replace(case / "color.png", b"red"),
    "no model": lambda case: shutil.rmtree(case / "model"),
    "surface cut": _cut_surface,
    "truth scaled": _edited("truth.json", _scale_truth),
    "truth is a list": lambda case: _replace(case / "truth.json", b"[]"),
}
"""Name -> how a case is broken."""


def write_scenes(options: Throughput) -> list[Path]:
    """Writes the different scenes, and returns their folders."""
    folder = options.output / "scenes"
    groups = simulator.simulate_specimens(
        jax.random.key(options.seed),
        simulator.SimulationConfig(wound_fraction=(0.2, 0.8), min_bone_fraction=0.03),
        specimens=-(-options.scenes // 4),
        frames=4,
    )
    case_folder.write_cases(itertools.chain.from_iterable(groups), folder)
    return case_folder.find_cases(folder)[: options.scenes]


def copy_cases(scenes: Sequence[Path], folder: Path, count: int) -> list[Path]:
    """Copies scenes under new names, as links. Cases of one model follow each other.

    Args:
      scenes: folders of cases.
      folder: of the copies.
      count: number of copies.

    Returns:
      The folders of the copies.
    """
    copies = [folder / f"{folder.name}{number:05d}" for number in range(count)]
    for number, copy in enumerate(copies):
        shutil.copytree(scenes[number * len(scenes) // count], copy, copy_function=os.link)
        _edited("case.json", partial(_set_id, copy.name))(copy)
    return copies


def _set_id(name: str, about: dict[str, Any]) -> None:
    about["id"] = name


def break_cases(options: Throughput, cases: Sequence[Path]) -> None:
    """Breaks random cases, a number of them in each way.

    Args:
      options: of the command line.
      cases: folders.
    """
    defects = [defect for defect in DEFECTS.values() for _ in range(options.each)]
    rng = np.random.default_rng(options.seed)
    chosen = rng.choice(len(cases), len(defects), replace=False)
    for number, defect in zip(chosen, defects, strict=True):
        defect(cases[number])


# Jobs ---------------------------------------------------------------------------------------------


class JobRun(NamedTuple):
    """Observations of a job."""

    code: int
    seconds: float  # from start to end
    rate: float  # cases a second, between the first and the last prediction
    memory: list[float]  # largest resident memory in each third of the cases, MiB
    programs: int  # programs that XLA compiled in a tenth of a second or more
    predictions: int
    errors: int


def run_job(command: list[str], folder: Path, *, total: int, workers: int = 0) -> JobRun:
    """Runs a job, and observes its memory and its predictions.

    Args:
      command: options of experiments.evaluate.
      folder: of the job.
      total: number of its cases.
      workers: of a local cluster; 0: one process does it all.
    """
    arguments = ["-m", "experiments.evaluate", *command, "--timings", "--output", str(folder)]
    environment = {**os.environ, "JAX_LOG_COMPILES": "1"}
    if workers:
        arguments += ["--cluster", "local", "--workers", str(workers)]
    began = time.monotonic()
    log = folder.with_name(f"{folder.name}.log")
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *arguments], env=environment, stdout=file, stderr=file
        )
    samples: list[tuple[float, int, float]] = []  # time, predictions, MiB
    while process.poll() is None:
        time.sleep(0.25)
        lines = count_predictions(folder)
        memory = sum(map(resident_memory, process_family(process.pid)))
        samples.append((time.monotonic(), lines, memory))
    seconds = time.monotonic() - began
    working = [(at, lines) for at, lines, _ in samples if lines > 0]
    if not working:
        raise ValueError(f"{log}: the job wrote no prediction (exit code {process.returncode})")
    (first, few), (_, most) = working[0], working[-1]
    last = next(at for at, lines in working if lines == most)
    thirds = [
        max((m for _, lines, m in samples if low <= 3 * lines / total <= low + 1), default=0.0)
        for low in range(3)
    ]
    written = (folder / PREDICTIONS).read_text().splitlines()
    failed = sum(json.loads(line)["error"] is not None for line in written)
    return JobRun(
        process.returncode,
        seconds,
        (most - few) / (last - first) if last > first else float("nan"),
        thirds,
        count_compilations(log),
        len(written) - failed,
        failed,
    )


def count_compilations(log: Path) -> int:
    """Number of compilations in a log of JAX that took a tenth of a second or more.

    Args:
      log: file.
    """
    lines = log.read_text(errors="replace").splitlines()
    seconds = [
        float(line.rsplit(" in ", 1)[1].split()[0])
        for line in lines
        if "Finished XLA compilation" in line
    ]
    return sum(value >= 0.1 for value in seconds)


def resident_memory(pid: int) -> float:
    """Resident memory of a process in MiB; 0 where it cannot be read.

    Args:
      pid: its number.
    """
    try:
        text = Path(f"/proc/{pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024
    except (OSError, IndexError, ValueError):
        return 0.0


def device_rate(options: Throughput, scenes: Sequence[Path], batch: int = 8) -> float:
    """Cases a second of the device alone: both programs on one batch in memory, ten times.

    Args:
      options: of the command line.
      scenes: folders of cases.
      batch: number of cases.
    """
    config, params = load_trained(options.checkpoint)
    job = EvaluationConfig(batch=batch, retry_below=0.0)
    cases = [case_folder.read_case(path) for path in scenes[:batch]]
    inputs: dict[str, Any] = {}
    programs = compile_programs(config.network, job.program, batch=job.batch)

    def recorded(name: str, program: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            inputs[name] = arguments
            return program(*arguments)

        return call

    recording = programs._replace(
        first_look=recorded("first_look", programs.first_look),
        register=recorded("register", programs.register),
    )
    list(runner.run(cases, Model(config, params), job=job, programs=recording))
    times = []
    for _ in range(10):
        began = time.perf_counter()
        jax.block_until_ready(programs.first_look(*inputs["first_look"]))
        jax.block_until_ready(programs.register(*inputs["register"]))
        times.append(time.perf_counter() - began)
    return batch / float(np.median(times))


def benchmark(options: Throughput) -> int:
    """Runs the jobs; 0 if every case has its line, programs were shared and poses are the same.

    Raises:
      ValueError: the output folder is not empty.
    """
    output, few, many = options.output, options.few, options.many
    require_new_folder(output)
    scenes = write_scenes(options)
    break_cases(options, copy_cases(scenes, output / "cases", many))
    copy_cases(scenes[: max(1, len(scenes) * few // many)], output / "few", few)
    device = device_rate(options, scenes)
    devices = len(sharding.make_mesh(8).devices)
    print(f"the device alone: {device:.2f} cases a second, {devices} devices")
    settings = ["--checkpoint", str(options.checkpoint), "--retry-below", "0"]

    def run(name: str, cases: str, total: int, workers: int = 0) -> JobRun:
        command = [*settings, "--cases", str(output / cases)]
        return run_job(command, output / name, total=total, workers=workers)

    run("compiled", "scenes", len(scenes))
    broken = options.each * len(DEFECTS)
    alone, shared = run("one", "few", few), run("two", "few", few, 2)
    large = run("many", "cases", many, 2)
    jobs = {
        f"{few}, one process": alone,
        f"{few}, two workers": shared,
        f"{many}, {broken} broken, two workers": large,
    }
    rows = [
        [
            name,
            job.code,
            job.predictions,
            job.errors,
            f"{job.rate:.2f}",
            f"{job.rate / device:.0%}",
            f"{job.seconds:.0f}",
            job.programs,
            f"{max(job.memory):.0f}",
        ]
        for name, job in jobs.items()
    ]
    columns = ["cases", "exit code", "predictions", "errors", "cases/s", "of the device", "s"]
    print(text_table([*columns, "programs compiled", "memory, MiB"], rows))
    difference = pose_difference(*(read_poses(output / name) for name in ("one", "two")))
    print(f"two workers at {shared.rate / alone.rate:.0%} of the rate of one process")
    print(f"their poses differ by {difference:.1e} at most")
    thirds = ", ".join(f"{mib:.0f}" for mib in large.memory)
    print(f"memory in each third of the {many} cases: {thirds} MiB")
    record = {
        "device": device,
        "pose_difference": difference,
        **{name: job._asdict() for name, job in jobs.items()},
    }
    (output / "throughput.json").write_text(json.dumps(record, indent=1))
    good = (
        (large.predictions, large.errors) == (many - broken, broken)
        and large.code == (3 if broken else 0)
        and alone.code == shared.code == 0
        and alone.programs <= MAX_PROGRAMS
        and large.programs <= 2 * MAX_PROGRAMS  # of two workers
        and difference <= MAX_DIFFERENCE
    )
    return 0 if good else 1


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs."""
    prog = "python -m experiments.benchmarks.throughput"
    return run_command(
        lambda: benchmark(parse_options(Throughput, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(main())
