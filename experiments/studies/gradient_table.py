"""Does autodiff equal central differences? Every smooth kernel, step and correspondence.

Command:  python -m experiments.studies.gradient_table --output runs/gradient_table.json
Time:     half an hour on two cores, nearly all of it compilation
Expect:   60 rows, 20 a correspondence; cosine 1.000 in double precision over the smallest step

The robust weights keep their derivative (``detach_robust_weights=False``). The scene holds the true
bone, each point of which weighs one half: so plain least squares has a sensible pose, too. The
strongest logits are those of the gradient in double precision, and single precision is compared at
the same ones. Where a row misses 0.99, the differences are made once more, with each match moving
as its derivative says: what is missing then is curvature, and the rest are jumps of the matches.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from e2r.analysis.frozen_twins import Flags, Problem
from e2r.analysis.gradient_check import LEAST_COSINE, cosine_between, differences
from e2r.analysis.probed_registration import in_double_precision
from e2r.api.examples import simulate
from e2r.cli.errors import parse_options, run_command
from e2r.datasets.case import true_pose
from e2r.datasets.sampling import sample_scene_points
from e2r.evaluation.text_table import text_table
from e2r.geometry import poses, surfaces
from e2r.networks.build import NetworkConfig
from e2r.registration import iterate
from e2r.registration.kernels import KERNELS
from e2r.registration.schedule import Schedule, apply_mask
from e2r.registration.steps import STEPS
from e2r.runtime.atomic_files import atomic_write
from e2r.runtime.compile_cache import FAST_COMPILE, enable_cache
from e2r.runtime.provenance import versions
from e2r.training import examples, losses
from e2r.types import Array, Example, Pose, RobustKernel, ScalarLike

SMOOTH_KERNELS = tuple(name for name in KERNELS if name != "trimmed")
"""Kernels whose weight is a continuous function of the distance."""
CORRESPONDENCES = ("closest", "soft", "project")
"""Correspondences whose matches move with the query."""


@dataclass(frozen=True)
class GradientTable:
    """Does autodiff equal central differences? Every smooth kernel, step and correspondence."""

    output: Path = Path("gradient_table.json")
    """file for all figures"""
    steps: tuple[str, ...] = tuple(STEPS)
    """registration steps"""
    kernels: tuple[str, ...] = SMOOTH_KERNELS
    """robust kernels"""
    correspondences: tuple[str, ...] = CORRESPONDENCES
    """correspondences"""
    points: int = 256
    """scene points"""
    samples: int = 1024
    """samples of the model, which `soft` compares each point with"""
    count: int = 20
    """steps of a registration"""
    strongest: int = 30
    """number of strongest logits that are compared"""
    eps: tuple[float, ...] = (1e-4, 1e-2, 3e-2, 1e-1, 3e-1)
    """half steps of the differences, in logits"""
    degrees: float = 2.0
    """standard deviation of the initial pose's rotation per axis, degrees"""
    mm: float = 2.0
    """standard deviation of the initial pose's translation per axis, mm"""
    seed: int = 0
    """seed of the case, the sample and the initial pose"""

    def __post_init__(self) -> None:
        for name, known in (
            ("steps", tuple(STEPS)),
            ("kernels", SMOOTH_KERNELS),
            ("correspondences", CORRESPONDENCES),
        ):
            if not getattr(self, name) or set(getattr(self, name)) - set(known):
                raise ValueError(f"--{name}: use some of {', '.join(known)}")
        for name in ("points", "samples", "count", "strongest"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; use 1 or more")
        if not self.eps or not all(0 < eps < float("inf") for eps in self.eps):
            raise ValueError("--eps: use one or more numbers above 0")


def make_problem(options: GradientTable) -> tuple[Example, Pose, np.ndarray]:
    """A simulated case, its initial pose, and the logits of its mask.

    Args:
      options: of the command line.
    """
    (case,) = simulate(seed=options.seed)
    if case.bone is None:
        raise ValueError(f"{case.id}: has no true bone; use a simulated case")
    sample = sample_scene_points(
        case,
        NetworkConfig(points=options.points, tokens=min(128, options.points)),
        seed=options.seed,
        within=np.flatnonzero(case.bone),
    )
    cloud, pyramid = jax.tree.map(lambda leaf: leaf[0], (sample.cloud, sample.pyramid))
    surface = surfaces.build_surface(
        case.model,
        seed=options.seed,
        nodes=surfaces.PROJECTION_NODES,
        samples=options.samples,
        exact=True,
    )
    targets = examples.make_targets(case)
    truth = true_pose(case)
    middle = targets.goals[targets.valid].mean(0)
    start = poses.perturb(
        jax.random.key(options.seed), truth, middle, degrees=options.degrees, mm=options.mm
    )
    logits = np.zeros(options.points, np.float32)
    return Example(cloud, pyramid, surface, targets, truth), start, logits


class Programs:
    """Compiled functions of one correspondence and step, for any kernel of the options."""

    def __init__(self, options: GradientTable, correspondence: str, step: str) -> None:
        self._options = options
        self._schedule = Schedule(
            step=step,
            correspondence=correspondence,
            steps=options.count,
            first_scale_mm=8.0,
            last_scale_mm=2.0,
            detach_robust_weights=False,
        )
        self.compiled = jax.jit(self.compare, compiler_options=FAST_COMPILE)
        self.compiled_frozen = jax.jit(self.freeze, compiler_options=FAST_COMPILE)

    def _kernel(self, index: Array) -> RobustKernel:
        """The kernel of a traced number."""
        choices = [KERNELS[name] for name in self._options.kernels]

        def weigh(square: Array, weights: Array, scale: ScalarLike) -> Array:
            found: Array = jax.lax.switch(index, choices, square, weights, scale)
            return found

        return weigh

    def _differences(self, error: Callable[[Array], Array], logits: Array, rows: Array) -> Array:
        """Central differences over each step of the options."""
        found: Array = jax.lax.map(
            lambda eps: differences(error, logits, rows=rows, eps=eps),
            jnp.asarray(self._options.eps, logits.dtype),
        )
        return found

    def compare(
        self, example: Example, start: Pose, logits: Array, kernel: Array, rows: Array | None
    ) -> tuple[Array, Array, Array, Array]:
        """The error, autodiff, differences, and the rows of both.

        Args:
          example: of the problem.
          start: initial pose.
          logits: of the mask.
          kernel: its number in the options.
          rows: to compare; the strongest by default.
        """

        def error(logits: Array) -> Array:
            cloud = apply_mask(example.cloud, jax.nn.sigmoid(logits))
            run = iterate.run_unrolled(
                cloud,
                example.surface,
                start,
                self._schedule.scales(),
                step=partial(self._schedule.bound_step(), kernel=self._kernel(kernel)),  # type: ignore[call-arg]
            )
            return losses.mean_target_error(run.pose, example.targets)

        value, gradient = jax.value_and_grad(error)(logits)
        if rows is None:
            rows = jnp.argsort(-jnp.abs(gradient))[: self._options.strongest]
        return value, gradient[rows], self._differences(error, logits, rows), rows

    def freeze(
        self, example: Example, start: Pose, logits: Array, kernel: Array, rows: Array
    ) -> Array:
        """Differences where each match moves as its derivative says, and never jumps.

        Args:
          example: of the problem.
          start: initial pose.
          logits: of the mask.
          kernel: its number in the options.
          rows: to compare.
        """
        problem = Problem(
            example,
            start,
            self._schedule,
            estimator=jax.nn.sigmoid,
            count=self._options.points,
            kernel=self._kernel(kernel),
        )
        flags = Flags(*(jnp.asarray(name == "cells") for name in Flags._fields))
        return self._differences(lambda changed: problem.twin(changed, logits, flags), logits, rows)


def compare_all(options: GradientTable) -> list[dict[str, Any]]:
    """The figures of every combination: cosines by precision and by step of the differences.

    Args:
      options: of the command line.
    """
    problem, runs = make_problem(options), []
    for correspondence in options.correspondences:
        for step in options.steps:
            programs = Programs(options, correspondence, step)
            for index, kernel in enumerate(options.kernels):
                names = {"correspondence": correspondence, "step": step, "kernel": kernel}
                runs.append(names | figures_of(programs, problem, jnp.int32(index)))
                print(results_table(runs[-1:], options.eps).splitlines()[1], flush=True)
                write(options, runs)
    return runs


def figures_of(programs: Programs, problem: tuple[Example, Pose, np.ndarray], kernel: Array) -> Any:
    """The cosines of one row. Where differences miss, those without jumps are made, too.

    Args:
      programs: of the row's correspondence and step.
      problem: of :func:`make_problem`.
      kernel: its number in the options.
    """
    with jax.enable_x64(True):
        double = in_double_precision(problem)
        found = programs.compiled(*double, kernel, None)
        tre, exact, of_double, rows = (np.asarray(leaf) for leaf in found)
        cosines = [cosine_between(exact, row) for row in of_double]
        frozen = None
        if min(cosines) < LEAST_COSINE:
            frozen = np.asarray(programs.compiled_frozen(*double, kernel, jnp.asarray(rows)))
    single = jax.tree.map(jnp.asarray, problem)
    found = programs.compiled(*single, kernel, jnp.asarray(rows, jnp.int32))
    rounded, of_single = (np.asarray(leaf, np.float64) for leaf in found[1:3])
    return {
        "tre_mm": float(tre),
        "double": cosines,
        "without_jumps": None if frozen is None else [cosine_between(exact, row) for row in frozen],
        "single": [cosine_between(rounded, row) for row in of_single],
        "single_to_double": cosine_between(rounded, of_double[0]),
    }


def results_table(runs: Sequence[Mapping[str, Any]], eps: Sequence[float]) -> str:
    """The figures as text: cosines in double (64) and single (32) precision, by half step.

    Args:
      runs: figures of each row.
      eps: half steps, logits.
    """
    columns = ["correspondence", "step", "kernel", "TRE"]
    columns += [f"{bits}: {e:g}" for bits in (64, 32) for e in eps]
    rows = [
        [
            run["correspondence"],
            run["step"],
            run["kernel"],
            f"{run['tre_mm']:.2f}",
            *(f"{value:.4f}" for value in (*run["double"], *run["single"])),
            f"{run['single_to_double']:.4f}",
            *(f"{value:.4f}" for value in run["without_jumps"] or ()),
            *("" for _ in eps if not run["without_jumps"]),
        ]
        for run in runs
    ]
    columns += ["32 to 64", *(f"no jumps: {e:g}" for e in eps)]
    return text_table(columns, rows)


def write(options: GradientTable, runs: Sequence[Mapping[str, Any]]) -> None:
    """Writes the figures of the rows that are done.

    Args:
      options: of the command line.
      runs: figures of each row.
    """
    record = {"eps": list(options.eps), "runs": runs, "versions": versions()}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(options.output) as part:
        part.write_text(json.dumps(record, indent=1))


def tabulate(options: GradientTable) -> int:
    """Compares all combinations, and writes the figures."""
    enable_cache()
    runs = compare_all(options)
    print(results_table(runs, options.eps))
    print(options.output)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and compares."""
    prog = "python -m experiments.studies.gradient_table"
    return run_command(
        lambda: tabulate(parse_options(GradientTable, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(main())
