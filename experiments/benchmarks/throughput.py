"""A job of thousands of cases, some of them broken: is it whole, flat in memory, and quick?

Command:  python -m experiments.benchmarks.throughput --output runs/throughput
Time:     twenty minutes on two cores
Expect:   1960 predictions, 40 error lines, exit code 3; below 6 programs compiled; 2,000 cases at
          the rate of 200 within 10 %, and within 20 % of what the device does alone

A few simulated scenes are copied under new names, broken in twenty ways, and given to
experiments.evaluate as a user would. The rate is that between the first prediction and the last;
a job before these has compiled all programs, so start and compilation do not count. All jobs have
as many cases a model, and try each case once. What the device does alone is the rate of the two
programs on one batch in memory, again and again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro

from e2r.cli.errors import run_command
from e2r.config import EvaluationConfig
from e2r.datasets import case_folder
from e2r.evaluation import runner
from e2r.evaluation.job_folder import PREDICTIONS
from e2r.evaluation.programs import compile_programs
from e2r.runtime import sharding
from e2r.simulation import simulator
from e2r.training.trained_model import PACKAGED, load_trained


@dataclass(frozen=True)
class Throughput:
    """A job of thousands of cases, some of them broken: is it whole, flat in memory, and quick?"""

    output: Path
    """folder for cases and jobs"""
    checkpoint: Path = PACKAGED
    """output folder of experiments.train; the model that comes with e2r without it"""
    many: int = 2000
    """cases of the large job"""
    few: int = 200
    """cases of the small jobs, none of them broken"""
    scenes: int = 40
    """different scenes among them, of a quarter as many specimens"""
    each: int = 2
    """cases broken in each way"""
    seed: int = 0
    """of the scenes"""

    def __post_init__(self) -> None:
        if min(self.few, self.many, self.scenes) < 4 or self.each < 0:
            raise ValueError("--few, --many and --scenes are 4 or more, --each 0 or more")
        if self.many < self.each * len(WAYS):
            raise ValueError(f"--many is {self.many}; {len(WAYS)} ways need more cases")


def _edited(file: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    def spoil(case: Path) -> None:
        value = json.loads((case / file).read_text())
        change(value)
        _written(case / file, json.dumps(value).encode())

    return spoil


def _named(name: str, about: dict[str, Any]) -> None:
    about["id"] = name


def _written(path: Path, content: bytes) -> None:
    path.unlink()  # it may be the same file as another case's
    path.write_bytes(content)


def _cut(file: str) -> Callable[[Path], None]:
    def spoil(case: Path) -> None:
        content = (case / file).read_bytes()
        _written(case / file, content[: len(content) // 2])

    return spoil


def _gone(file: str) -> Callable[[Path], None]:
    return lambda case: (case / file).unlink()


def _first_surface(case: Path) -> Path:
    return sorted((case / "model").glob("*.stl"))[0]


WAYS: dict[str, Callable[[Path], None]] = {
    "case.json cut": _cut("case.json"),
    "unit": _edited("case.json", lambda v: v.update(unit="inch")),
    "levels twice": _edited("case.json", lambda v: v.update(levels=["L1", "L1"])),
    "no levels": _edited("case.json", lambda v: v.update(levels=[])),
    "a level of another folder": _edited("case.json", lambda v: v.update(levels=["../L1"])),
    "no such level": _edited("case.json", lambda v: v.update(levels=["C9"])),
    "no camera": _gone("camera.json"),
    "camera cut": _cut("camera.json"),
    "focal length": _edited("camera.json", lambda v: v.update(fx=-1.0)),
    "not a number": _edited("camera.json", lambda v: v.update(cx=float("nan"))),
    "size": _edited("camera.json", lambda v: v.update(width=v["width"] + 1)),
    "depth scale": _edited("camera.json", lambda v: v.update(depth_scale=0)),
    "metres": _edited("camera.json", lambda v: v.update(depth_scale=v["depth_scale"] * 1000)),
    "no depth": _gone("depth.png"),
    "depth cut": _cut("depth.png"),
    "colour is text": lambda case: _written(case / "color.png", b"red"),
    "no model": lambda case: shutil.rmtree(case / "model"),
    "surface cut": lambda case: _written(
        _first_surface(case), _first_surface(case).read_bytes()[:90]
    ),
    "truth scaled": _edited(
        "truth.json",
        lambda v: v.update(
            T_camera_model={
                name: (2.0 * np.array(m)).tolist() for name, m in v["T_camera_model"].items()
            }
        ),
    ),
    "truth is a list": lambda case: _written(case / "truth.json", b"[]"),
}
"""Ways to break a case."""


def make(options: Throughput) -> Path:
    """Writes the scenes, and copies of them under new names; some of them broken."""
    scenes, many = options.output / "scenes", options.output / "cases"
    for group in simulator.simulate_specimens(
        jax.random.key(options.seed),
        simulator.SimulationConfig(wound_fraction=(0.2, 0.8), min_bone_fraction=0.03),
        specimens=-(-options.scenes // 4),
        frames=4,
    ):
        for case in group:
            case_folder.write_case(case, scenes / case.id)
    whole = case_folder.find_cases(scenes)[: options.scenes]
    for number in range(options.many):
        # Cases of one model follow each other, as the frames of one operation do.
        source = whole[number * len(whole) // options.many]
        place = many / f"case{number:05d}"
        shutil.copytree(source, place, copy_function=os.link)
        _edited("case.json", partial(_named, place.name))(place)
    spoilt = [spoil for spoil in WAYS.values() for _ in range(options.each)]
    at = np.random.default_rng(options.seed).choice(options.many, len(spoilt), replace=False)
    for number, spoil in zip(at, spoilt, strict=True):
        spoil(many / f"case{number:05d}")
    return many


class Watched(NamedTuple):
    """What a job was seen to do."""

    code: int
    seconds: float  # from the first breath to the last
    rate: float  # cases a second, between first and last prediction
    memory: list[float]  # MiB, the most in each third of the cases
    programs: int  # compiled by XLA that took a tenth of a second or more
    predictions: int
    errors: int


def watch(command: list[str], folder: Path, total: int, processes: int = 1) -> Watched:
    """Gives a job, to one process or to several, and watches its memory and its predictions."""
    environment = {**os.environ, "JAX_LOG_COMPILES": "1"}
    began = time.monotonic()
    logs = [folder.with_name(f"{folder.name}_{number}.log") for number in range(processes)]
    started = []
    for log in logs:
        with log.open("w") as file:
            started.append(
                subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "experiments.evaluate",
                        *command,
                        "--timings",
                        "--output",
                        str(folder),
                    ],
                    env=environment,
                    stdout=file,
                    stderr=file,
                )
            )
    seen: list[tuple[float, int, float]] = []
    while any(process.poll() is None for process in started):
        time.sleep(0.25)
        path = folder / PREDICTIONS
        lines = path.read_bytes().count(b"\n") if path.exists() else 0
        seen.append((time.monotonic(), lines, sum(_memory(p.pid) for p in started)))
    seconds = time.monotonic() - began
    moving = [(at, lines) for at, lines, _ in seen if lines > 0]
    (first, few), (_, most) = moving[0], moving[-1]
    last = next(at for at, lines in moving if lines == most)
    thirds = [
        max((m for _, lines, m in seen if low <= 3 * lines / total <= low + 1), default=0.0)
        for low in range(3)
    ]
    written = (folder / PREDICTIONS).read_text().splitlines()
    failed = sum(json.loads(line)["error"] is not None for line in written)
    compiled = sum(
        float(line.rsplit(" in ", 1)[1].split()[0]) >= 0.1
        for log in logs
        for line in log.read_text(errors="replace").splitlines()
        if "Finished XLA compilation" in line
    )
    return Watched(
        max(process.returncode for process in started),
        seconds,
        (most - few) / (last - first),
        thirds,
        compiled,
        len(written) - failed,
        failed,
    )


def _memory(pid: int) -> float:
    """MiB that a process has of the machine's memory; 0 where that cannot be read."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024
    except (OSError, IndexError, ValueError):
        return 0.0


def alone(options: Throughput, batch: int = 8) -> float:
    """Cases a second that the device does by itself: both programs on one batch, ten times."""
    config, params = load_trained(options.checkpoint)
    job = EvaluationConfig(batch=batch, retry_below=0.0)
    group = [
        case_folder.read_case(path)
        for path in case_folder.find_cases(options.output / "scenes")[:batch]
    ]
    given: dict[str, Any] = {}
    programs = compile_programs(config.network, job)

    def kept(name: str, program: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            given[name] = arguments
            return program(*arguments)

        return call

    keeping = programs._replace(
        glance=kept("glance", programs.glance), predict=kept("predict", programs.predict)
    )
    list(runner.run(group, config, params, job, keeping))
    times = []
    for _ in range(10):
        began = time.perf_counter()
        jax.block_until_ready(programs.glance(*given["glance"]))
        jax.block_until_ready(programs.predict(*given["predict"]))
        times.append(time.perf_counter() - began)
    return batch / float(np.median(times))


def throughput(options: Throughput) -> int:
    """Runs all."""
    out = options.output
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: is there already; name another folder, or delete this one")
    many = make(options)
    settings = ["--checkpoint", str(options.checkpoint), "--retry-below", "0"]  # as alone()
    few = out / "few"
    whole = case_folder.find_cases(out / "scenes")[
        : max(1, options.scenes * options.few // options.many)
    ]
    for number in range(options.few):
        place = few / f"few{number:05d}"
        shutil.copytree(whole[number * len(whole) // options.few], place, copy_function=os.link)
        _edited("case.json", partial(_named, place.name))(place)
    device = alone(options)
    print(
        f"the device alone: {device:.2f} cases a second, {len(sharding.make_mesh(8).devices)} devices"
    )
    jobs_ = {
        f"{options.few} cases": (few, options.few, 1),
        f"{options.many} cases": (many, options.many, 1),
        f"{options.few} cases, two processes": (few, options.few, 2),
    }
    watch([*settings, "--cases", str(out / "scenes")], out / "compiled", options.scenes)
    found = {}
    for number, (name, (folder, total, processes)) in enumerate(jobs_.items()):
        one = watch([*settings, "--cases", str(folder)], out / f"job{number}", total, processes)
        found[name] = one
        print(
            f"{name}: exit code {one.code}, {one.predictions} predictions, {one.errors} error "
            f"lines; {one.rate:.2f} cases a second ({one.rate / device:.0%} of the device alone), "
            f"{one.seconds:.0f} s in all; {one.programs} programs compiled; "
            f"at most {', '.join(f'{m:.0f}' for m in one.memory)} MiB in each third",
            flush=True,
        )
    small, large, two = found.values()
    print(
        f"{options.many} cases at {large.rate / small.rate:.0%} of the rate of {options.few}; two "
        f"processes at {two.rate / small.rate:.0%} of the rate of one"
    )
    broken = options.each * len(WAYS)
    (out / "throughput.json").write_text(
        json.dumps({"device": device, **{k: v._asdict() for k, v in found.items()}}, indent=1)
    )
    good = (
        (large.predictions, large.errors) == (options.many - broken, broken)
        and large.code == (3 if broken else 0)
        and small.code == two.code == 0
        and large.programs <= 6
    )
    return 0 if good else 1


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs."""
    options = tyro.cli(
        Throughput,
        args=arguments,
        prog="python -m experiments.benchmarks.throughput",
        description=__doc__,
    )
    return run_command(lambda: throughput(options))


if __name__ == "__main__":
    sys.exit(main())
