"""How do time and memory grow with points, scenes, levels and starts?

Command:  python -m experiments.benchmarks.scaling
Time:     four to six minutes on two slow cores, most of it compiling
Expect:   time grows by the power 0.9 of the points, 1.0 of the scenes, 1.0 of the levels and 0.9 of
          the starts

Each quantity grows by itself:

- points: of one registration with gradient, 20 unrolled steps;
- scenes: of a batch of such registrations, 2,048 points each;
- levels: that are refined one by one, on 2,048 points;
- starts: short registrations of the search, 15 steps on 256 points.

The exponent is the slope of the logarithms over the larger half of the values. Memory is what XLA
reserves beside arguments and results, so it is the same on every machine with this compiler.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from e2r.cli.errors import parse_options, run_command
from e2r.evaluation.benchmark import median_times
from e2r.evaluation.result_table import write_result
from e2r.evaluation.text_table import text_table
from e2r.evaluation.timed_registration import TIMED_SCHEDULE, Problem, make_problem
from e2r.geometry import poses, surfaces
from e2r.registration import iterate
from e2r.registration.global_search import SearchConfig
from e2r.registration.levels import register_levels
from e2r.registration.schedule import Schedule, run_schedule
from e2r.runtime import outputs
from e2r.runtime.freed_memory import keep_freed_memory
from e2r.types import Array, MaskedCloud, Pose

SCHEDULE = replace(TIMED_SCHEDULE, tolerance_mm=0.0, mode="unrolled")
SEARCH = SearchConfig()
COLUMNS = ["quantity", "value", "time (ms)", "temporary memory (MB)", "exponent", "of memory"]


@dataclass(frozen=True)
class Scaling:
    """How do time and memory grow with points, scenes, levels and starts?"""

    output: Path = Path("runs/scaling.json")
    """JSON file to write"""
    repeats: int = 5
    """runs of which each time is the median"""
    points: tuple[int, ...] = (1024, 4096, 16384, 65536)
    """points of a cloud"""
    scenes: tuple[int, ...] = (1, 4, 16, 64)
    """scenes of a batch"""
    levels: tuple[int, ...] = (1, 3, 6, 12)
    """levels of a model"""
    starts: tuple[int, ...] = (1, 4, 16, 64, 256)
    """initial poses of a search"""

    def __post_init__(self) -> None:
        for name in QUANTITIES:
            values = getattr(self, name)
            if len(values) < 2 or min(values) < 1 or [*values] != sorted({*values}):
                raise ValueError(f"--{name}: give two rising numbers or more, of 1 or more")
        if self.repeats < 1:
            raise ValueError(f"--repeats is {self.repeats}; use 1 or more")


class Task(NamedTuple):
    """A function of arrays, and its arguments."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Growth(NamedTuple):
    """How one quantity costs."""

    quantity: str
    values: list[int]
    time_ms: list[float]
    memory_mb: list[float]

    def exponents(self) -> tuple[float, float]:
        """Of time and of memory, over the larger half of the values."""
        half = len(self.values) // 2
        if len(self.values) - half < 2:
            half = len(self.values) - 2
        size = np.log(self.values[half:])
        slopes = [
            float(np.polyfit(size, np.log(some[half:]), 1)[0])
            for some in (self.time_ms, self.memory_mb)
        ]
        return slopes[0], slopes[1]


def repeated(scene: MaskedCloud, count: int) -> MaskedCloud:
    """A scene with this number of points: its own, again and again."""
    rows = np.arange(count) % scene.weights.shape[0]
    return jax.tree.map(lambda leaf: leaf[rows], scene)


def with_points(problem: Problem, count: int) -> Task:
    """One registration of this number of points, with gradient."""

    def loss(scene: MaskedCloud, start: Pose) -> Array:
        pose = run_schedule(scene, problem.surface, start, SCHEDULE).pose
        targets = problem.surface.points[:64]
        return jnp.mean(jnp.sum(jnp.square(poses.apply(pose, targets) - targets), axis=1))

    return Task(jax.value_and_grad(loss), (repeated(problem.scene, count), problem.start(0)))


def with_scenes(problem: Problem, count: int) -> Task:
    """A batch of this number of registrations, with gradient."""
    one = with_points(problem, problem.scene.weights.shape[0])
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf] * count), one.arguments)
    return Task(jax.vmap(one.function), batch)


def with_levels(problem: Problem, count: int) -> Task:
    """The refinement of this number of levels."""
    meshes = list(problem.meshes.values())
    length = np.ptp(np.concatenate([mesh.vertices for mesh in meshes]), axis=0).max()
    model = {}
    for number in range(count):
        mesh = meshes[number % len(meshes)].copy()
        mesh.apply_translation([0.0, 0.0, length * (number // len(meshes))])
        model[str(number)] = mesh
    surface = surfaces.build_surface(model, seed=0, nodes=surfaces.PROJECTION_NODES)
    surface = jax.tree.map(jnp.asarray, surface)
    centres = jnp.stack(
        [jnp.asarray(mesh.vertices.mean(0), jnp.float32) for mesh in model.values()]
    )
    rows = np.arange(problem.scene.weights.shape[0]) % surface.points.shape[0]
    scene = problem.scene._replace(points=surface.points[rows])

    def refine(scene: MaskedCloud, start: Pose) -> Any:
        whole = run_schedule(
            scene, surface, start, replace(SCHEDULE, steps=1, hold_steps=0, early_steps=0)
        )
        return register_levels(scene, surface, whole, centres=centres, schedule=Schedule())

    return Task(refine, (scene, problem.start(0)))


def with_starts(problem: Problem, count: int) -> Task:
    """Short registrations from this number of initial poses."""
    scales = iterate.annealed_scales(SEARCH.first_scale_mm, SEARCH.last_scale_mm, SEARCH.steps)
    few, step = repeated(problem.scene, SEARCH.points), Schedule().bound_step()

    def register(start: Pose) -> Pose:
        return iterate.run_unrolled(few, problem.surface, start, scales, step=step).pose

    rows = np.arange(count) % problem.starts.translation.shape[0]
    return Task(jax.vmap(register), (jax.tree.map(lambda leaf: leaf[rows], problem.starts),))


QUANTITIES: dict[str, Callable[[Problem, int], Task]] = {
    "points": with_points,
    "scenes": with_scenes,
    "levels": with_levels,
    "starts": with_starts,
}
"""What grows -> the task of a size."""


def measure(problem: Problem, quantity: str, values: Sequence[int], repeats: int) -> Growth:
    """Times the tasks of one quantity in turn.

    Args:
      problem: the scene and the model.
      quantity: a name in :data:`QUANTITIES`.
      values: how many of it.
      repeats: runs of which each time is the median.
    """
    tasks = [QUANTITIES[quantity](problem, value) for value in values]
    compiled = [jax.jit(task.function).lower(*task.arguments).compile() for task in tasks]
    times = median_times(
        {
            str(value): lambda _, run=run, task=task: run(*task.arguments)  # type: ignore[misc]
            for value, run, task in zip(values, compiled, tasks, strict=True)
        },
        repeats,
    )
    memory = [1e-6 * program.memory_analysis().temp_size_in_bytes for program in compiled]  # type: ignore[union-attr]
    return Growth(quantity, [*values], [*times.values()], memory)


def table_rows(found: Sequence[Growth]) -> list[list[Any]]:
    """The rows of the table; the last value of a quantity has its exponents.

    Args:
      found: a growth a quantity.
    """
    rows: list[list[Any]] = []
    for growth in found:
        for value, time, memory in zip(
            growth.values, growth.time_ms, growth.memory_mb, strict=True
        ):
            rows.append([growth.quantity, value, round(time, 2), round(memory, 2), None, None])
        rows[-1][4:] = [round(exponent, 2) for exponent in growth.exponents()]
    return rows


def benchmark(options: Scaling) -> int:
    """Measures each quantity, and writes the table."""
    outputs.require_file(options.output)
    problem = make_problem(None)
    rows: list[list[Any]] = []
    for name in QUANTITIES:
        growth = measure(problem, name, getattr(options, name), options.repeats)
        rows += table_rows([growth])
        print(f"{name}: time grows by the power {growth.exponents()[0]:.2f}", flush=True)
    print(text_table(COLUMNS, [["" if x is None else x for x in row] for row in rows]))
    write_result(
        options.output,
        title="How time and memory grow",
        command="python -m experiments.benchmarks.scaling",
        note="Each quantity grows by itself: points of one registration with gradient, scenes of a "
        "batch of such registrations, levels that are refined, starts of the search. The exponents "
        "are slopes of the logarithms over the larger half of the values.",
        columns=COLUMNS,
        rows=rows,
    )
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the benchmark."""
    if arguments is None:  # the process is ours; training keeps freed memory, too
        keep_freed_memory()
    prog = "python -m experiments.benchmarks.scaling"
    return run_command(
        lambda: benchmark(parse_options(Scaling, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(main())
