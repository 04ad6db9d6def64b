"""Does the gradient of a registration agree with central differences, and if not, why?

Autodiff differentiates another function than the one that runs: some parts of it count as constant,
and some look-ups jump. Each such part is a **path**. :func:`gradient_check` replaces the paths by
their frozen twins, one after the other: what autodiff believes they do. With every path replaced,
the central differences are those of the function that autodiff differentiates.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from e2r.analysis.frozen_twins import PATHS, Flags, Problem
from e2r.analysis.probed_registration import in_double_precision
from e2r.datasets.case import Case
from e2r.datasets.case_folder import read_case
from e2r.geometry import poses, surfaces
from e2r.networks import mask_estimators
from e2r.networks.build import NetworkConfig
from e2r.registration.schedule import Schedule
from e2r.runtime.compile_cache import FAST_COMPILE
from e2r.training import examples
from e2r.types import Array, Example, Float, Int, MaskEstimator, Pose, ScalarLike

LEAST_COSINE = 0.99
"""A gradient passes the check from this cosine on."""
CHUNK = 10
"""Registrations at a time."""


@dataclass(frozen=True)
class PathShare:
    """What one path explains of the difference between autodiff and central differences."""

    name: str
    """one of :data:`PATHS`"""
    used: bool
    """whether the settings have this path at all"""
    share: float
    """part of the difference that its twin takes away; all shares and the rest sum to 1"""
    cosine: float
    """of autodiff and central differences, once this path and those before it are replaced"""


@dataclass(frozen=True)
class GradientCheck:
    """The gradient of a registration error beside central differences, with the reasons."""

    schedule: Schedule
    """of the registration"""
    eps: float
    """half the step of the differences, in logits"""
    error_mm: float
    """TRE after the last step"""
    rows: Int[np.ndarray, "r"]
    """the points with the strongest gradients, the strongest first"""
    autodiff: Float[np.ndarray, "r"]
    """d TRE / d logit of these points, mm"""
    differences: Float[np.ndarray, "r"]
    """central differences of the same, mm"""
    paths: tuple[PathShare, ...]
    """in the order of their replacement"""
    rest: float
    """part of the difference that no path explains: curvature over ``eps``, and rounding"""

    @property
    def cosine(self) -> float:
        """Of autodiff and central differences: 1 if they agree, 0 if one of them vanishes."""
        return cosine_between(self.autodiff, self.differences)

    @property
    def scale(self) -> float:
        """Length of the differences over that of autodiff's gradient; 1 if they agree."""
        return float(np.linalg.norm(self.differences) / np.linalg.norm(self.autodiff))

    @property
    def passed(self) -> bool:
        """Whether the cosine reaches :data:`LEAST_COSINE`."""
        return self.cosine >= LEAST_COSINE

    def to_table(self) -> str:
        """The verdict, and a line for each path, as text."""
        verdict = "passes" if self.passed else f"fails (below {LEAST_COSINE})"
        lines = [
            f"TRE {self.error_mm:.2f} mm; {len(self.rows)} points, differences over "
            f"{self.eps:g} logits: cosine {self.cosine:.4f}, {self.scale:.2f} as long: {verdict}",
            f"{'path':18s}{'explains':>10s}{'cosine then':>13s}",
        ]
        for path in self.paths:
            cells = (f"{path.share:.1%}", f"{path.cosine:.4f}") if path.used else ("not used", "")
            lines.append(f"{path.name:18s}{cells[0]:>10s}{cells[1]:>13s}".rstrip())
        return "\n".join([*lines, f"{'rest':18s}{self.rest:>10.1%}"])

    def __repr__(self) -> str:
        """The table."""
        return self.to_table()


def gradient_check(
    case: Example | Case | str | os.PathLike[str],
    schedule: Schedule = Schedule(),
    *,
    logits: Float[Array, "n"] | None = None,
    estimator: str | MaskEstimator = "soft",
    max_points: int | None = None,
    start: Pose | None = None,
    network: NetworkConfig = NetworkConfig(),
    points: int = 30,
    eps: float = 1e-3,
    seed: int = 0,
    double: bool = True,
) -> GradientCheck:
    """Compares the gradient of the final TRE with central differences, path by path.

    Args:
      case: an example with its surface; or a case with a truth, or its folder.
      schedule: of the registration.
      logits: of the mask; by default 0, which weighs each point one half.
      estimator: the mask estimator or its name, with its default temperature and a fixed key.
      max_points: the registration takes this many points of largest weight; by default all.
      start: initial pose, camera from model; by default the true one, turned by 4 degrees and
        shifted by 4 mm an axis (standard deviations).
      network: sizes of the cloud that is sampled from a case.
      points: number of strongest logits that are compared.
      eps: half the step of the differences, in logits.
      seed: of the sample, the initial pose and the estimator.
      double: compute in double precision. Single precision needs an ``eps`` of 0.1 or more.

    Raises:
      ValueError: the case has no truth, no point counts, or a setting is refused.
    """
    if schedule.tolerance_mm:
        raise ValueError("schedule.tolerance_mm is for inference; use 0 to differentiate")
    if isinstance(estimator, str):
        mask_estimators.ESTIMATORS.settle(estimator, field="estimator")
    if points < 1 or not 0 < eps < float("inf") or (max_points is not None and max_points < 1):
        raise ValueError("gradient_check: use points >= 1, max_points >= 1 and eps > 0")
    example = case if isinstance(case, Example) else _read_example(case, schedule, network, seed)
    with jax.enable_x64(True) if double else nullcontext():
        convert = in_double_precision if double else partial(jax.tree.map, jnp.asarray)
        key_start, key_mask = jax.random.split(jax.random.key(seed))
        if start is None:
            middle = jnp.mean(example.targets.goals[np.asarray(example.targets.valid)], axis=0)
            start = poses.perturb(key_start, example.pose, middle, degrees=4.0, mm=4.0)
        if logits is None:
            logits = np.zeros(len(example.cloud.points), np.float32)
        example, start, logits = convert((example, start, logits))
        count = len(logits) if max_points is None else min(max_points, len(logits))
        draw = mask_estimators.by_name(estimator) if isinstance(estimator, str) else estimator
        problem = Problem(example, start, schedule, partial(draw, key_mask), count)
        used = _used_paths(problem, estimator)
        found = _compare(problem, logits, used, points=points, eps=eps)
    return _explain(found, used, schedule, eps=eps)


def differences(
    error: Callable[[Float[Array, "n"]], Float[Array, ""]],
    logits: Float[Array, "n"],
    *,
    rows: Int[Array, "r"],
    eps: ScalarLike,
    chunk: int = CHUNK,
) -> Float[jax.Array, "r"]:
    """Central differences of an error, by some of its arguments.

    Args:
      error: of the logits.
      logits: where it is differentiated.
      rows: which logits are changed, one at a time.
      eps: half the step.
      chunk: pairs of errors at a time, by ``vmap``.
    """

    def one(row: Array) -> Array:
        change = jnp.zeros_like(logits).at[row].set(eps)
        ahead, behind = jax.vmap(error)(jnp.stack([logits + change, logits - change]))
        return (ahead - behind) / (2.0 * eps)

    slopes: jax.Array = jax.lax.map(one, rows, batch_size=chunk)
    return slopes


def _read_example(
    case: Case | str | os.PathLike[str], schedule: Schedule, network: NetworkConfig, seed: int
) -> Example:
    """The example of a case, with a surface that serves the schedule's correspondence."""
    case = case if isinstance(case, Case) else read_case(case)
    if case.truth is None:
        raise ValueError(f"{case.id}: has no truth.json, which a registration error needs")
    example = examples.make_example(case, network, seed=seed, cropped=True)
    exact = schedule.needs_triangles
    nodes = surfaces.NODES if exact else surfaces.PROJECTION_NODES
    surface = surfaces.build_surface(case.model, seed=seed, nodes=nodes, exact=exact)
    return example._replace(surface=surface)


def _used_paths(problem: Problem, estimator: str | MaskEstimator) -> tuple[bool, ...]:
    """Whether the settings have each of :data:`PATHS`."""
    schedule = problem.schedule
    return (
        problem.count < len(problem.example.cloud.points),
        estimator not in ("soft", "gates"),
        schedule.correspondence != "soft",
        schedule.mode in ("last", "one_step"),
        schedule.detach_robust_weights,
    )


def _compare(
    problem: Problem, logits: Array, used: tuple[bool, ...], *, points: int, eps: float
) -> tuple[Array, Array, Array, Array]:
    """The error, the strongest rows, their gradient, and the differences (P, R) of each stage.

    A stage replaces one more of the paths that are used; the first replaces none.
    """
    places = [0, *(i + 1 for i, path in enumerate(used) if path)]
    flags = np.array([[i < place and used[i] for i in range(len(used))] for place in places])
    size = int(min(points, int(jnp.sum(problem.example.cloud.valid))))
    error, gradient = _compiled(jax.value_and_grad(problem.error))(logits)
    if not bool(jnp.any(gradient != 0)):
        raise ValueError("the gradient is zero: no point counts; look at the mask and the start")
    rows = jnp.argsort(-jnp.abs(gradient))[:size]

    def stages(logits: Array, rows: Array, flags: Array) -> Array:
        def one(row: Array) -> Array:
            return differences(
                lambda changed: problem.twin(changed, logits, Flags(*row)),
                logits,
                rows=rows,
                eps=eps,
            )

        return jax.lax.map(one, flags)

    return error, rows, gradient[rows], _compiled(stages)(logits, rows, jnp.asarray(flags))


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is compiled quickly, because it runs once."""
    return jax.jit(function, compiler_options=FAST_COMPILE)


def cosine_between(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two gradients, 0 where one vanishes.

    Args:
      a: a gradient, (n,).
      b: another one.
    """
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size > 0 else 0.0


def _explain(
    found: tuple[Array, ...], used: tuple[bool, ...], schedule: Schedule, *, eps: float
) -> GradientCheck:
    """The check's result, from what :func:`_compare` returns."""
    error, rows, autodiff, stages = (np.asarray(leaf) for leaf in found)
    autodiff, stages = autodiff.astype(np.float64), stages.astype(np.float64)
    whole = stages[0] - autodiff
    square = float(whole @ whole)

    def share(part: np.ndarray) -> float:
        return float(part @ whole) / square if square > 0 else 0.0

    paths, place = [], 0
    for name, present in zip(PATHS, used, strict=True):
        before, place = place, place + present
        explained = share(stages[before] - stages[place])
        paths.append(PathShare(name, present, explained, cosine_between(autodiff, stages[place])))
    rest = share(stages[-1] - autodiff)
    return GradientCheck(schedule, eps, float(error), rows, autodiff, stages[0], tuple(paths), rest)
