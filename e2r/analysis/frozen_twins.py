"""A registration error whose parts can be replaced by what autodiff believes of them.

Each **path** is a part that has no derivative, or whose derivative is cut. Its frozen twin is a
smooth function with the value and the derivative that autodiff sees. Flags, which are traced,
choose the twins, so one compiled program serves all choices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from e2r.geometry import poses
from e2r.registration import iterate
from e2r.registration.schedule import Schedule, apply_mask, run_schedule
from e2r.training import losses
from e2r.types import (
    Array,
    Bool,
    Correspondence,
    Example,
    MaskedCloud,
    Pose,
    RobustKernel,
    ScalarLike,
    Surface,
)

PATHS = {
    "selection": "the points of largest weight, as they were selected",
    "straight-through": "the estimator's own derivative, from the mask as it was drawn",
    "look-up cells": "each match moves as its triangle's derivative says; no point changes cells",
    "truncated steps": "the first steps end where they ended",
    "detached weights": "the robust weights of each step, as they were",
}
"""Name of a path -> its frozen twin, in the order of their replacement."""


class Flags(NamedTuple):
    """Which paths are replaced by their twins, in the order of :data:`PATHS`; traced."""

    selection: Bool[Array, ""]
    estimator: Bool[Array, ""]
    cells: Bool[Array, ""]
    truncation: Bool[Array, ""]
    robust: Bool[Array, ""]


@dataclass(frozen=True)
class Problem:
    """A registration error as a function of the logits."""

    example: Example
    start: Pose
    schedule: Schedule
    estimator: Callable[[Array], Array]
    count: int  # points that the registration takes
    kernel: RobustKernel | None = None  # instead of the schedule's

    def masked(self, weights: Array) -> MaskedCloud:
        """The cloud under mask weights."""
        return iterate.zero_nonfinite(apply_mask(self.example.cloud, weights))

    def final_error(self, pose: Pose) -> Array:
        """The TRE of a pose, mm."""
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

    def twin(self, logits: Array, base: Array, flags: Flags) -> Array:
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

    def _steps(self, cloud: MaskedCloud, fixed: MaskedCloud, flags: Flags) -> Pose:
        """The last pose of a cloud's registration, beside that of the fixed cloud."""
        schedule, surface = self.schedule, self.example.surface
        step: Any = schedule.bound_step()
        if self.kernel is not None:
            step = partial(step, kernel=self.kernel)
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
    flags: Flags

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
