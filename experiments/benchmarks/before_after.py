"""How much faster is this build than an earlier one, where people wait?

Command:  python -m experiments.benchmarks.before_after ../before
Time:     27 minutes with --rounds 2 on two slow cores, without the part import
Expect:   beside commit 7bb6d3f a training step 1.35 times as fast, frames 1.55 times, a job of
          evaluate 1.14 times; register no faster, and 8 % slower where nothing is compiled

The base is a checkout of an earlier commit with its own virtual environment. Both builds run in
alternating processes on the same machine. So a ratio counts, and an absolute time does not. A
figure is the median over all runs of all processes, with the range of the processes' medians.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from e2r.cli.errors import parse_options, run_command
from e2r.evaluation.result_table import write_result
from e2r.evaluation.text_table import text_table
from e2r.runtime import outputs
from e2r.runtime.measured_process import run_measured

ROOT = Path(__file__).resolve().parents[2]
BUILDS = ("before", "after")
MARK = "before_after "
"""A snippet's line with its figures begins with this."""
RUNS = """
import json, time
for number in range(3):
    found = jax.block_until_ready(run(number))
seconds = []
for number in range(RUNS):
    began = time.perf_counter()
    jax.block_until_ready(run(number))
    seconds.append(time.perf_counter() - began)
print("before_after " + json.dumps({"seconds": seconds, "accuracy": accuracy(run(0))}))
"""
"""The end of a snippet: it times ``run(number)``, and says how good ``run(0)`` is."""
STEP_BEFORE = """
from functools import partial
import jax, jax.numpy as jnp, numpy as np
from e2r import banks, configs, training
from e2r.datasets import simulated
config, key = configs.CONFIGS["demo"][1], jax.random.key(0)
specimen = simulated.procedural(key, "benchmark")
group = simulated.photograph(key, specimen, config.scenes.simulation, count=8)
bank = banks.make_bank([group], config)
batch = jax.tree.map(jnp.asarray, banks.draw(bank, np.arange(config.optimisation.batch)))
state = jax.jit(partial(training.init_state, config))()
step = jax.jit(lambda s, b, k: training.train_step(s, b, k, config=config))
run = lambda _: step(state, batch, key)
accuracy = lambda found: float(found[1].loss)
"""
STEP_AFTER = """
from e2r.runtime.freed_memory import keep_freed_memory
keep_freed_memory()  # as the command that trains does
from functools import partial
import jax, jax.numpy as jnp
from e2r.config import NAMED_CONFIGS
from e2r.simulation import simulator, specimens
from e2r.training import sources
from e2r.training.step import init_state, train_step
config, key = NAMED_CONFIGS["demo"][1], jax.random.key(0)
specimen = specimens.procedural_specimen(key, "benchmark")
cases = simulator.simulate_frames(key, specimen, config.scenes.simulation, count=8)
source = sources.from_cases(cases, config)
rows = range(config.optimisation.batch)
batch = jax.tree.map(jnp.asarray, sources.read_batch(source, rows))
state = jax.jit(partial(init_state, config))()
step = jax.jit(partial(train_step, config=config))
run = lambda _: step(state, batch, key)
accuracy = lambda found: float(found[1].batch.loss)
"""
SCENES_BEFORE = """
import jax, numpy as np
from e2r import configs
from e2r.datasets import simulated
config, key = configs.CONFIGS["base"][1], jax.random.key(0)
specimen = simulated.procedural(key, "benchmark")
run = lambda i: simulated.photograph(
    jax.random.fold_in(key, i), specimen, config.scenes.simulation, count=4)
accuracy = lambda cases: float(np.mean([case.points[:, 2].mean() for case in cases]))
"""
SCENES_AFTER = """
import dataclasses, jax, numpy as np
from e2r.config import NAMED_CONFIGS
from e2r.simulation import simulator, specimens
key = jax.random.key(0)
frames = dataclasses.replace(NAMED_CONFIGS["base"][1].scenes.simulation, variety=(),
    wound_fraction=(0.05, 0.9), min_bone_fraction=0.01)  # those of the build before
specimen = specimens.procedural_specimen(key, "benchmark")
run = lambda i: simulator.simulate_frames(
    jax.random.fold_in(key, i), specimen, frames, count=4)
accuracy = lambda cases: float(np.mean([case.points[:, 2].mean() for case in cases]))
"""
REGISTRATION_BEFORE = """
from pathlib import Path
import jax
from experiments import benchmark
problem = benchmark.make_problem(Path("none"))
derive = jax.jit(benchmark.loss_of(problem, benchmark.fixed(mode="unrolled")))
starts = [jax.tree.map(lambda leaf: leaf[i], problem.starts) for i in range(RUNS)]
run = lambda i: derive(problem.scene.weights, starts[i])
accuracy = lambda found: float(found[0][0])
"""
REGISTRATION_AFTER = """
from dataclasses import replace
import jax
from e2r.evaluation import timed_registration
problem = timed_registration.make_problem(None)
schedule = replace(timed_registration.TIMED_SCHEDULE, tolerance_mm=0.0, mode="unrolled")
derive = timed_registration.loss_and_gradient(problem, schedule)
starts = [problem.start(i) for i in range(RUNS)]
run = lambda i: derive(problem.scene.weights, starts[i])
accuracy = lambda found: float(found[0][0])
"""
REGISTER = ("-m", "e2r", "register", "CASE")
EVALUATE = (
    "-m",
    "experiments.evaluate",
    "--cases",
    "CASES",
    "--output",
    "OUT",
    "--masks",
    "learnt",
)
Words = tuple[str, ...]


class Part(NamedTuple):
    """What is timed: a snippet that times itself, or a command, whose process is timed."""

    what: str
    before: str | Words
    after: str | Words
    runs: int = 20  # of a snippet in each process
    cache: bool = True  # keep compiled programs between a build's processes
    accuracy: str = ""  # what a snippet's accuracy is


PARTS: dict[str, Part] = {
    "training_step": Part(
        "a training step of demo, 8 scenes", STEP_BEFORE, STEP_AFTER, accuracy="loss"
    ),
    "scenes": Part(
        "four frames of base, 256 x 192",
        SCENES_BEFORE,
        SCENES_AFTER,
        runs=6,
        accuracy="mean depth, mm",
    ),
    "registration": Part(
        "a registration with gradient, unrolled",
        REGISTRATION_BEFORE,
        REGISTRATION_AFTER,
        accuracy="squared error of the first, mm^2",
    ),
    "import": Part("import e2r", ("-c", "import e2r"), ("-c", "import e2r")),
    "register_warm": Part("register, compiled before", REGISTER, REGISTER),
    "register_cold": Part("register, nothing compiled", REGISTER, REGISTER, cache=False),
    "evaluate": Part("evaluate, compiled before", EVALUATE, EVALUATE),
    "evaluate_cold": Part("evaluate, nothing compiled", EVALUATE, EVALUATE, cache=False),
}
"""Name -> part. In the words of a command, CASES is the folder of the cases, CASE is one of them,
and OUT is a new folder."""
COMMANDS = ("register_warm", "register_cold", "evaluate", "evaluate_cold")
"""The parts that need cases."""
SIMULATE = Part("simulate", (), ("-m", "e2r", "simulate", "--output", "CASES", "--count", "8"))


@dataclass(frozen=True)
class BeforeAfter:
    """How much faster is this build than an earlier one, where people wait?"""

    base: Annotated[Path, tyro.conf.Positional]
    """checkout of the earlier commit"""
    base_python: Path | None = None
    """its interpreter; BASE/.venv/bin/python by default"""
    output: Path = Path("runs/before_after.json")
    """JSON file to write"""
    rounds: int = 3
    """processes of each build"""
    parts: tuple[str, ...] = tuple(PARTS)
    """what to measure"""
    cases: Path | None = None
    """folder of cases; 8 simulated ones by default"""

    def __post_init__(self) -> None:
        for name in self.parts:
            if name not in PARTS:
                raise ValueError(f"--parts {name}: use some of {', '.join(PARTS)}")
        if self.rounds < 1:
            raise ValueError(f"--rounds is {self.rounds}; use 1 or more")
        for path in (self.base / "e2r", self.python("before")):
            if not path.exists():
                raise ValueError(f"{path}: is not there; give a checkout with its own .venv")

    def python(self, build: str) -> Path:
        """The interpreter of a build."""
        if build == "after":
            return Path(sys.executable)
        return (self.base_python or self.base / ".venv" / "bin" / "python").absolute()

    def root(self, build: str) -> Path:
        """The checkout of a build."""
        return ROOT if build == "after" else self.base.absolute()


class Measured(NamedTuple):
    """The figures of one process."""

    seconds: list[float]
    accuracy: float | None
    memory_mb: float = 0.0  # largest resident memory


def run_once(options: BeforeAfter, part: Part, build: str, *, cases: Path, cache: Path) -> Measured:
    """Runs one process of a build.

    Args:
      options: of the benchmark.
      part: what it runs.
      build: before or after.
      cases: folder of case folders.
      cache: of compiled programs; it may be empty.

    Raises:
      ValueError: the process failed.
    """
    code = part.before if build == "before" else part.after
    words: Words = code if isinstance(code, tuple) else ("-c", f"RUNS = {part.runs}\n{code}{RUNS}")
    case = next(iter(sorted(path.parent for path in cases.rglob("case.json"))), cases)
    with tempfile.TemporaryDirectory() as output:
        places = {"CASE": str(case), "CASES": str(cases), "OUT": str(Path(output) / "out")}
        command = [str(options.python(build)), *(places.get(word, word) for word in words)]
        ended = run_measured(
            command, cwd=cache, environment=_environment(options.root(build), cache)
        )
    if ended.code:
        end = " ".join(ended.stderr.split())[-400:]
        raise ValueError(f"{part.what}, {build}: the process ended with {ended.code}: {end}")
    if isinstance(code, tuple):
        return Measured([ended.seconds], None, ended.memory_mb)
    (line,) = [text for text in ended.stdout.splitlines() if text.startswith(MARK)]
    figures = json.loads(line.removeprefix(MARK))
    return Measured(figures["seconds"], figures["accuracy"], ended.memory_mb)


def _environment(root: Path, cache: Path) -> dict[str, str]:
    """This process's environment, for another build and cache."""
    return {
        **os.environ,
        "PYTHONPATH": str(root),
        "E2R_CACHE": str(cache),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
    }


def measure(options: BeforeAfter, part: Part, folder: Path, *, cases: Path) -> dict[str, object]:
    """The row of one part: both builds in turn, as often as there are rounds.

    Args:
      options: of the benchmark.
      part: what is timed.
      folder: for the caches.
      cases: folder of case folders.
    """
    found: dict[str, list[Measured]] = {build: [] for build in BUILDS}
    for number in range(options.rounds + part.cache):
        for build in BUILDS:
            cache = folder / build if part.cache else folder / f"{build}{number}"
            cache.mkdir(exist_ok=True)
            one = run_once(options, part, build, cases=cases, cache=cache)
            if number or not part.cache:  # the first one fills the cache
                found[build].append(one)
    return {"what": part.what, "accuracy_is": part.accuracy, **summary(found)}


def summary(found: Mapping[str, list[Measured]]) -> dict[str, object]:
    """Medians, ranges of the processes' medians, and their ratio.

    Args:
      found: build -> its processes, in the order in which they ran.
    """
    row: dict[str, object] = {}
    ends: dict[str, np.ndarray] = {}
    for build, processes in found.items():
        ends[build] = np.array([np.median(one.seconds) for one in processes])
        row[build] = {
            "median_s": float(np.median(np.concatenate([one.seconds for one in processes]))),
            "range_s": [float(ends[build].min()), float(ends[build].max())],
            "accuracy": processes[-1].accuracy,
            "memory_mb": float(np.median([one.memory_mb for one in processes])),
        }
    ratios = ends["before"] / ends["after"]
    row["ratio"] = float(np.median(ratios))
    row["ratio_range"] = [float(ratios.min()), float(ratios.max())]
    return row


COLUMNS = [
    "part",
    "before (ms)",
    "after (ms)",
    "times as fast",
    "range",
    "before (MB)",
    "after (MB)",
    "figure",
    "before",
    "after",
]


def table_row(row: Mapping[str, Any]) -> list[Any]:
    """The cells of a part: times, memory, and a figure that tells whether both did the same.

    Args:
      row: of :func:`measure`.
    """
    sides = [row[build] for build in BUILDS]
    low, high = row["ratio_range"]
    return [
        row["what"],
        *(round(1e3 * side["median_s"], 1) for side in sides),
        round(row["ratio"], 2),
        f"{low:.2f} to {high:.2f}",
        *(round(side["memory_mb"]) for side in sides),
        row["accuracy_is"],
        *(None if side["accuracy"] is None else float(f"{side['accuracy']:.6g}") for side in sides),
    ]


def _text(rows: Sequence[Sequence[Any]]) -> str:
    return text_table(COLUMNS, [["" if cell is None else cell for cell in row] for row in rows])


def _commit_of(checkout: Path) -> str:
    words = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def benchmark(options: BeforeAfter) -> int:
    """Measures the chosen parts, writes and prints the table."""
    outputs.require_file(options.output)
    rows: list[list[Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cases = options.cases.absolute() if options.cases else folder / "cases"
        if options.cases is None and any(name in COMMANDS for name in options.parts):
            run_once(options, SIMULATE, "after", cases=cases, cache=folder)
        for name in options.parts:
            place = folder / name
            place.mkdir()
            rows.append(table_row(measure(options, PARTS[name], place, cases=cases)))
            print(_text(rows[-1:]), flush=True)
    print(_text(rows))
    write_result(
        options.output,
        title="This build beside an earlier one",
        command="python -m experiments.benchmarks.before_after BASE",
        note=f"The base is commit {_commit_of(options.base)}. Both builds run in alternating "
        f"processes, {options.rounds} each; times are medians. The figure tells that both do the "
        "same work.",
        columns=COLUMNS,
        rows=rows,
    )
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the benchmark."""
    prog = "python -m experiments.benchmarks.before_after"
    return run_command(
        lambda: benchmark(parse_options(BeforeAfter, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(main())
