"""Does the gradient of a registration agree with central differences, and if not, why?

Autodiff differentiates another function than the one that runs: some parts of it count as constant,
and some look-ups jump. Each such part is a **path**. :func:`gradient_check` replaces the paths by
their frozen twins, one after the other: what autodiff believes they do. With every path replaced,
the central differences are those of the function that autodiff differentiates.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from e2r.analysis.probed_registration import in_double_precision
from e2r.datasets.case import Case
from e2r.datasets.case_folder import read_case
from e2r.geometry import poses, surfaces
from e2r.networks import mask_estimators
from e2r.networks.build import NetworkConfig
from e2r.registration import iterate
from e2r.registration.schedule import Schedule, apply_mask, run_schedule
from e2r.runtime.compile_cache import FAST_COMPILE
from e2r.training import examples, losses
from e2r.types import (
    Array,
    Bool,
    Correspondence,
    Example,
    Float,
    Int,
    MaskedCloud,
    Pose,
    ScalarLike,
    Surface,
)

LEAST_COSINE = 0.99
"""A gradient passes the check from this cosine on."""
CHUNK = 10
"""Registrations at a time."""

PATHS = {
    "selection": "the points of largest weight, as they were selected",
    "straight-through": "the estimator's own derivative, from the mask as it was drawn",
    "look-up cells": "each match moves as its triangle's derivative says; no point changes cells",
    "truncated steps": "the first steps end where they ended",
    "detached weights": "the robust weights of each step, as they were",
}
"""Name of a path -> its frozen twin, in the order of their replacement."""


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
        return _cosine(self.autodiff, self.differences)

    @property
    def scale(self) -> float:
        """Length of autodiff's gradient over that of the differences; 0 if these vanish."""
        length = float(np.linalg.norm(self.differences))
        return float(np.linalg.norm(self.autodiff)) / length if length > 0 else 0.0

    @property
    def passed(self) -> bool:
        """Whether the cosine reaches :data:`LEAST_COSINE`."""
        return self.cosine >= LEAST_COSINE

    def to_table(self) -> str:
        """The verdict, and a line for each path, as text."""
        verdict = "passes" if self.passed else f"fails (below {LEAST_COSINE})"
        lines = [
            f"gradient at {len(self.rows)} points, differences over {self.eps:g} logits: "
            f"cosine {self.cosine:.4f}, length {self.scale:.2f}: {verdict}",
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
    estimator: str = "soft",
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
      estimator: name of the mask estimator, with its default temperature and a fixed key.
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
    if estimator not in mask_estimators.ESTIMATORS:
        names = ", ".join(mask_estimators.ESTIMATORS)
        raise ValueError(f"estimator is {estimator!r}; use one of {names}")
    if points < 1 or not 0 < eps < float("inf") or (max_points or 1) < 1:
        raise ValueError("gradient_check: use points >= 1, max_points >= 1 and eps > 0")
    example = case if isinstance(case, Example) else _read_example(case, schedule, network, seed)
    with jax.enable_x64(double or jax.config.jax_enable_x64):
        convert = in_double_precision if double else partial(jax.tree.map, jnp.asarray)
        key_start, key_mask = jax.random.split(jax.random.key(seed))
        if start is None:
            middle = jnp.mean(example.targets.goals[np.asarray(example.targets.valid)], axis=0)
            start = poses.perturb(key_start, example.pose, middle, degrees=4.0, mm=4.0)
        if logits is None:
            logits = np.zeros(len(example.cloud.points), np.float32)
        example, start, logits = convert((example, start, logits))
        count = len(logits) if max_points is None else min(max_points, len(logits))
        problem = _Problem(
            example, start, schedule, partial(mask_estimators.by_name(estimator), key_mask), count
        )
        used = _used_paths(problem, estimator)
        (error, gradient), rows, found = _compare(problem, logits, used, points=points, eps=eps)
        autodiff = gradient[rows]
    return _explain(schedule, eps, float(error), rows, autodiff, found, used)


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
        return (error(logits + change) - error(logits - change)) / (2.0 * eps)

    slopes: jax.Array = jax.lax.map(one, rows, batch_size=chunk)
    return slopes


def _read_example(
    case: Case | str | os.PathLike[str], schedule: Schedule, network: NetworkConfig, seed: int
) -> Example:
    case = case if isinstance(case, Case) else read_case(case)
    if case.truth is None:
        raise ValueError(f"{case.id}: has no truth.json, which a registration error needs")
    example = examples.make_example(case, network, seed=seed, cropped=True)
    surface = surfaces.build_surface(
        case.model, seed=seed, nodes=surfaces.PROJECTION_NODES, exact=True
    )
    return example._replace(surface=surface)


class _Flags(NamedTuple):
    """Which paths are replaced by their twins, in the order of :data:`PATHS`; traced."""

    selection: Bool[Array, ""]
    estimator: Bool[Array, ""]
    cells: Bool[Array, ""]
    truncation: Bool[Array, ""]
    robust: Bool[Array, ""]


@dataclass(frozen=True)
class _Problem:
    """A registration error as a function of the logits."""

    example: Example
    start: Pose
    schedule: Schedule
    estimator: Callable[[Array], Array]
    count: int  # points that the registration takes

    def masked(self, weights: Array) -> MaskedCloud:
        return iterate.zero_nonfinite(apply_mask(self.example.cloud, weights))

    def final_error(self, pose: Pose) -> Array:
        return losses.mean_target_error(pose, self.example.targets)

    def error(self, logits: Array) -> Array:
        """The error as it is used: what autodiff differentiates."""
        cloud = iterate.top_weighted(self.masked(self.estimator(logits)), self.count)
        run = run_schedule(cloud, self.example.surface, self.start, self.schedule)
        return self.final_error(run.pose)

    @property
    def restart(self) -> int:
        """The step from which on poses have a derivative."""
        schedule = self.schedule
        through = {"unrolled": schedule.steps, "last": schedule.last}.get(schedule.mode, 1)
        if schedule.mode == "unrolled":
            return 0
        return max(schedule.early_steps, schedule.steps - through)

    def twin(self, logits: Array, base: Array, flags: _Flags) -> Array:
        """The same error, with some paths replaced by what they are at other logits, ``base``.

        Args:
          logits: of the mask.
          base: the logits at which the replaced paths are frozen.
          flags: which paths are replaced.
        """
        drawn, slope = jax.jvp(self.estimator, (base,), (logits - base,))
        fixed = self.masked(drawn)
        weights = jnp.where(flags.estimator, drawn + slope, self.estimator(logits))
        cloud = self.masked(weights)
        if self.count < len(base):
            rows = iterate.top_rows(fixed, self.count)
            chosen = iterate.top_rows(cloud, self.count)
            cloud = iterate.take_rows(cloud, jnp.where(flags.selection, rows, chosen))
            fixed = iterate.take_rows(fixed, rows)
        return self.final_error(self._steps(cloud, fixed, flags))

    def _steps(self, cloud: MaskedCloud, fixed: MaskedCloud, flags: _Flags) -> Pose:
        """The last pose of a cloud's registration, beside that of the fixed cloud."""
        schedule, surface = self.schedule, self.example.surface
        step: Any = schedule.bound_step()
        seen = jnp.arange(len(cloud.weights)) < schedule.early_points
        scales = jnp.asarray(schedule.scales(), cloud.points.dtype)
        index = jnp.arange(schedule.steps)

        def body(state: tuple[Pose, Pose], inputs: tuple[Array, Array]) -> tuple:
            (pose, reference), (scale, number) = state, inputs
            pose = jax.tree.map(
                partial(jnp.where, flags.truncation & (number == self.restart)), reference, pose
            )
            use = (number >= schedule.early_steps) | seen
            own, base = (
                some._replace(weights=jnp.where(use, some.weights, 0.0)) for some in (cloud, fixed)
            )
            around = _Frozen(step, surface, base, reference, scale, flags)
            after = step(
                own, surface, pose, scale, kernel=around.kernel, correspond=around.correspond
            )
            return (after.pose, step(base, surface, reference, scale).pose), None

        (pose, _), _ = jax.lax.scan(body, (self.start, self.start), (scales, index))
        return pose


@dataclass(frozen=True)
class _Frozen:
    """Kernel and correspondence of a step, or their twins at a reference pose."""

    step: Any  # a partial with both policies
    surface: Surface
    cloud: MaskedCloud
    reference: Pose
    scale: Array
    flags: _Flags

    @property
    def queries(self) -> Array:
        return poses.apply_inverse(self.reference, self.cloud.points)

    def correspond(self, surface: Surface, queries: Array) -> Correspondence:
        policy = self.step.keywords["correspond"]
        live = policy(surface, queries)

        def place(where: Array) -> tuple[Array, Array]:
            return policy(surface, where)[:2]

        base, slope = jax.jvp(place, (self.queries,), (queries - self.queries,))
        points, normals = (
            jnp.where(self.flags.cells, at + change, now)
            for at, change, now in zip(base, slope, live[:2], strict=True)
        )
        return Correspondence(points, normals, live.levels)

    def kernel(self, square: Array, weights: Array, scale: ScalarLike) -> Array:
        policy = self.step.keywords["kernel"]
        match = self.step.keywords["correspond"](self.surface, self.queries)
        apart = jnp.sum(jnp.square(self.queries - match.points), axis=1)
        fixed = policy(apart, self.cloud.weights, self.scale)
        return jnp.where(self.flags.robust, fixed, policy(square, weights, scale))


def _used_paths(problem: _Problem, estimator: str) -> tuple[bool, ...]:
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
    problem: _Problem, logits: Array, used: tuple[bool, ...], *, points: int, eps: float
) -> tuple[tuple[Array, Array], Array, Array]:
    """Error and gradient, the strongest rows, and the differences (P, R) of each stage.

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
                lambda changed: problem.twin(changed, logits, _Flags(*row)),
                logits,
                rows=rows,
                eps=eps,
            )

        return jax.lax.map(one, flags)

    return (error, gradient), rows, _compiled(stages)(logits, rows, jnp.asarray(flags))


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is compiled quickly, because it runs once."""
    return jax.jit(function, compiler_options=FAST_COMPILE)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size > 0 else 0.0


def _explain(
    schedule: Schedule,
    eps: float,
    error: float,
    rows: Array,
    gradient: Array,
    stages: Array,
    used: tuple[bool, ...],
) -> GradientCheck:
    """The check's result, from the differences of each stage."""
    autodiff, found = np.asarray(gradient, np.float64), np.asarray(stages, np.float64)
    whole = found[0] - autodiff
    square = float(whole @ whole)

    def share(part: np.ndarray) -> float:
        return float(part @ whole) / square if square > 0 else 0.0

    paths, place = [], 0
    for name, path_used in zip(PATHS, used, strict=True):
        before, place = place, place + path_used
        paths.append(
            PathShare(
                name,
                path_used,
                share(found[before] - found[place]),
                _cosine(autodiff, found[place]),
            )
        )
    return GradientCheck(
        schedule, eps, error, np.asarray(rows), autodiff, found[0], tuple(paths),
        share(found[-1] - autodiff),
    )
