"""Which share of the machine's peak does each program reach?

Command:  python -m experiments.benchmarks.roofline
Time:     five to seven minutes on two slow cores, most of it compiling
Expect:   a training step of 9.9 GFLOP and 4.1 GB, a registration with gradient of 0.016 GFLOP and
          0.12 GB, by XLA's count

The peaks are measured in the same run: a product of two matrices, and a triad of three long
vectors. A program's operations and bytes are XLA's count, with loops as often as they run. Its
bytes may come from a cache, so more than the peak of the memory is possible. The limit of a program
is the longer of its two times at these peaks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from e2r.analysis.program_cost import program_cost
from e2r.cli.errors import parse_options, run_command
from e2r.config import NAMED_CONFIGS
from e2r.evaluation.benchmark import median_times
from e2r.evaluation.result_table import write_result
from e2r.evaluation.text_table import text_table
from e2r.evaluation.timed_registration import TIMED_SCHEDULE, loss_and_gradient, make_problem
from e2r.networks.build import apply_mask_network
from e2r.runtime import outputs
from e2r.runtime.freed_memory import keep_freed_memory
from e2r.simulation import rendering, simulator, specimens
from e2r.training import sources
from e2r.training.step import init_state, train_step

MATRIX, VECTOR = 2048, 2**24
"""Rows of the matrices, and numbers of each vector, whose programs measure the peaks."""
RENDERED = 4
"""Frames that are rendered at a time."""
PROGRAMS = ("training", "mask", "registration", "frames")


@dataclass(frozen=True)
class Roofline:
    """Which share of the machine's peak does each program reach?"""

    output: Path = Path("runs/roofline.json")
    """JSON file to write"""
    repeats: int = 7
    """runs of which each time is the median"""
    programs: tuple[str, ...] = PROGRAMS
    """what to measure: training (a step), mask (the network with gradient), registration (with
    gradient), frames (simulated)"""

    def __post_init__(self) -> None:
        for name in self.programs:
            if name not in PROGRAMS:
                raise ValueError(f"--programs {name}: use some of {', '.join(PROGRAMS)}")
        if self.repeats < 1:
            raise ValueError(f"--repeats is {self.repeats}; use 1 or more")


class Program(NamedTuple):
    """A function of arrays, and its arguments."""

    what: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Peaks(NamedTuple):
    """What this machine reaches at its best."""

    flops: float  # a second
    bytes: float  # a second, from and to memory


def measure_peaks(repeats: int) -> Peaks:
    """Times a product of matrices, and a triad of vectors.

    Args:
      repeats: runs of which each time is the median.
    """
    matrix, vector = jnp.ones((MATRIX, MATRIX)), jnp.ones(VECTOR)
    product = jax.jit(jnp.matmul)
    triad = jax.jit(lambda a, b: a + 3.0 * b)
    times = median_times(
        {"product": lambda _: product(matrix, matrix), "triad": lambda _: triad(vector, vector)},
        repeats,
    )
    return Peaks(2e3 * MATRIX**3 / times["product"], 12e3 * VECTOR / times["triad"])


def make_programs(names: tuple[str, ...]) -> list[Program]:
    """The programs with their arguments.

    Args:
      names: some of :data:`PROGRAMS`.
    """
    config = NAMED_CONFIGS["demo"][1]
    key = jax.random.key(0)
    specimen = specimens.procedural_specimen(key, "benchmark")
    found: list[Program] = []
    if {"training", "mask"} & set(names):
        cases = simulator.simulate_frames(key, specimen, config.scenes.simulation, count=8)
        source = sources.from_cases(cases, config)
        batch = jax.tree.map(
            jnp.asarray, sources.read_batch(source, range(config.optimisation.batch))
        )
        state = jax.jit(partial(init_state, config))()
        scenes = config.optimisation.batch
        if "training" in names:
            step = partial(train_step, config=config)
            found.append(Program(f"training step, {scenes} scenes", step, (state, batch, key)))
        if "mask" in names:

            def loss(params: Any, cloud: Any, pyramid: Any) -> jax.Array:
                apply = partial(apply_mask_network, config.network, params)
                logits = jax.vmap(lambda *one: apply(*one).logits)(cloud, pyramid)
                return jnp.sum(jnp.square(logits))

            one = jax.tree.map(lambda leaf: leaf[:, None], (batch.cloud, batch.pyramid))
            found.append(
                Program(
                    f"mask network with gradient, {scenes} scenes",
                    jax.value_and_grad(loss),
                    (state.params, *one),
                )
            )
    if "registration" in names:
        problem = make_problem(None)
        schedule = replace(TIMED_SCHEDULE, tolerance_mm=0.0, mode="unrolled")
        found.append(
            Program(
                "registration with gradient, 20 steps",
                loss_and_gradient(problem, schedule),
                (problem.scene.weights, problem.start(0)),
            )
        )
    if "frames" in names:
        simulation = NAMED_CONFIGS["base"][1].scenes.simulation
        photograph = partial(
            rendering.photograph,
            width=simulation.width,
            height=simulation.height,
            wound_fraction=simulation.wound_fraction,
        )
        found.append(
            Program(
                f"{RENDERED} simulated frames, {simulation.width} x {simulation.height}",
                jax.vmap(photograph, (0, None)),
                (jax.random.split(key, RENDERED), specimen.bones),
            )
        )
    return found


def measure(program: Program, peaks: Peaks, repeats: int) -> list[Any]:
    """The row of a program: time, cost, and share of the limits.

    Args:
      program: to run.
      peaks: of the machine.
      repeats: runs of which the time is the median.
    """
    compiled = jax.jit(program.function)
    seconds = 1e-3 * median_times({"": lambda _: compiled(*program.arguments)}, repeats)[""]
    cost = program_cost(program.function, *program.arguments)
    limit = max(cost.flops / peaks.flops, cost.bytes / peaks.bytes)
    return [
        program.what,
        round(1e3 * seconds, 1),
        round(1e-9 * cost.flops, 3),
        round(1e-9 * cost.bytes, 3),
        round(1e-6 * cost.temporary_bytes, 1),
        round(cost.flops / cost.bytes, 2),
        round(100 * cost.flops / seconds / peaks.flops, 1),
        round(100 * cost.bytes / seconds / peaks.bytes, 1),
        round(1e3 * limit, 1),
    ]


COLUMNS = [
    "program",
    "time (ms)",
    "GFLOP",
    "GB moved",
    "temporary (MB)",
    "FLOP a byte",
    "of the peak of FLOPs (%)",
    "of the peak of memory (%)",
    "limit (ms)",
]


def benchmark(options: Roofline) -> int:
    """Measures the peaks and the programs, and writes the table."""
    outputs.require_file(options.output)
    peaks = measure_peaks(options.repeats)
    print(f"peaks: {1e-9 * peaks.flops:.1f} GFLOP/s, {1e-9 * peaks.bytes:.1f} GB/s", flush=True)
    rows = []
    for program in make_programs(options.programs):
        rows.append(measure(program, peaks, options.repeats))
        print(text_table(COLUMNS, [rows[-1]]), flush=True)
    print(text_table(COLUMNS, rows))
    write_result(
        options.output,
        title="What limits each program",
        command="python -m experiments.benchmarks.roofline",
        note=f"Peaks of the same run: {1e-9 * peaks.flops:.1f} GFLOP/s by a product of matrices, "
        f"{1e-9 * peaks.bytes:.1f} GB/s by a triad of vectors. Operations and bytes are XLA's "
        "count; bytes may come from a cache. The limit is the time at the peaks.",
        columns=COLUMNS,
        rows=rows,
    )
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the benchmark."""
    if arguments is None:  # the process is ours; training keeps freed memory, too
        keep_freed_memory()
    prog = "python -m experiments.benchmarks.roofline"
    return run_command(
        lambda: benchmark(parse_options(Roofline, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(main())
