"""A registration by its settings: which step, kernel and correspondence, how often, how differentiated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry import correspondences
from e2r.registration import iterate, kernels, steps
from e2r.types import (
    Array,
    Cloud,
    CorrespondenceFn,
    MaskedCloud,
    Pose,
    Registration,
    RegistrationStep,
    RobustKernel,
    StepResult,
    Surface,
)

STEPS: dict[str, Callable[..., StepResult]] = {
    "point_to_point": steps.point_to_point,
    "point_to_plane": steps.point_to_plane,
    "symmetric": steps.symmetric,
    "generalised": steps.generalised,
}
KERNELS: dict[str, RobustKernel] = {
    "welsch": kernels.welsch,
    "geman_mcclure": kernels.geman_mcclure,
    "tukey": kernels.tukey,
    "huber": kernels.huber,
    "trimmed": kernels.trimmed,
    "constant": kernels.constant,
}
CORRESPONDENCES: dict[str, CorrespondenceFn] = {
    "project": correspondences.project,
    "closest": correspondences.closest,
    "nearest": correspondences.nearest,
    "soft": correspondences.soft,
}


@dataclass(frozen=True)
class Schedule:
    """A registration: which step, how often, at which robust scales, and how to differentiate."""

    step: str = "symmetric"
    """point_to_point, point_to_plane, symmetric or generalised"""
    kernel: str = "welsch"
    """welsch, geman_mcclure, tukey, huber, trimmed or constant"""
    correspondence: str = "project"
    """project (quick), closest (on the triangles), nearest (hard) or soft"""
    steps: int = 60
    """steps, at most"""
    hold_steps: int = 0
    """of them, how many more at the last scale"""
    first_scale_mm: float = 6.0
    """robust scale of the first step, mm"""
    last_scale_mm: float = 1.0
    """robust scale of the last step, mm"""
    early_steps: int = 0
    """of the steps, how many see a subsample only"""
    early_points: int = 256
    """points of that subsample"""
    mode: iterate.GradientMode = "unrolled"
    """how to differentiate"""
    last: int = 4
    """steps that the mode `last` differentiates"""
    remat: bool = False
    """recompute steps in the backward pass instead of storing them"""
    tolerance_mm: float = 0.0
    """mm: at inference, stop when a step moves less; 0 takes all steps"""

    def __post_init__(self) -> None:
        for name, table in (
            ("step", STEPS),
            ("kernel", KERNELS),
            ("correspondence", CORRESPONDENCES),
            ("mode", iterate.GRADIENT_MODES),
        ):
            if getattr(self, name) not in table:
                raise ValueError(
                    f"schedule.{name} is {getattr(self, name)!r}; use one of {', '.join(table)}"
                )
        if self.steps < 1 or not 0 < self.last_scale_mm <= self.first_scale_mm:
            raise ValueError("schedule: use steps >= 1 and 0 < last_scale_mm <= first_scale_mm")
        if not 0 <= self.hold_steps < self.steps or not 0 <= self.early_steps < self.steps:
            raise ValueError(
                "schedule: hold_steps and early_steps are 0 or more, and fewer than steps"
            )
        if self.early_points < 1 or self.last < 1 or not self.tolerance_mm >= 0:
            raise ValueError("schedule: use early_points >= 1, last >= 1 and tolerance_mm >= 0")

    def scales(self) -> np.ndarray:
        """Robust scale of every step, mm."""
        return iterate.annealed_scales(
            self.first_scale_mm, self.last_scale_mm, self.steps, hold=self.hold_steps
        )

    def bound_step(self) -> RegistrationStep:
        """The step with its kernel and correspondence."""
        return partial(
            STEPS[self.step],
            kernel=KERNELS[self.kernel],
            correspond=CORRESPONDENCES[self.correspondence],
        )


def register_cloud(
    cloud: Cloud, weights: Array, surface: Surface, start: Pose, schedule: Schedule
) -> Registration:
    """Registers one cloud with given weights (N,); padded points count for nothing."""
    return run_schedule(apply_mask(cloud, weights), surface, start, schedule)


def apply_mask(cloud: Cloud, weights: Array) -> MaskedCloud:
    """A cloud under a mask; what is padded weighs nothing."""
    return MaskedCloud(cloud.points, cloud.normals, jnp.where(cloud.valid, weights, 0.0))


def run_schedule(
    scene: MaskedCloud, surface: Surface, start: Pose, schedule: Schedule
) -> Registration:
    """Runs a schedule: early steps on a subsample, late ones on all points.

    With a tolerance, the late steps end by themselves, and only forward mode differentiates.
    """
    scales, early, step = schedule.scales(), schedule.early_steps, schedule.bound_step()
    run = partial(
        iterate.run_unrolled,
        step=step,
        mode=schedule.mode,
        last=schedule.last,
        remat=schedule.remat,
    )
    if not early:
        if schedule.tolerance_mm:
            tolerance = schedule.tolerance_mm
            return iterate.run_until_converged(
                scene, surface, start, scales, step=step, tolerance_mm=tolerance
            )
        return run(scene, surface, start, scales)
    few = iterate.first_points(scene, schedule.early_points)
    head = run(few, surface, start, scales[:early])
    begin = head.pose
    if schedule.mode != "unrolled":
        begin = jax.lax.stop_gradient(begin)
    if schedule.tolerance_mm:
        tail = iterate.run_until_converged(
            scene, surface, begin, scales[early:], step=step, tolerance_mm=schedule.tolerance_mm
        )
    else:
        tail = run(scene, surface, begin, scales[early:])
    track = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), head.trajectory, tail.trajectory)
    return tail._replace(trajectory=track, steps=head.steps + tail.steps)
