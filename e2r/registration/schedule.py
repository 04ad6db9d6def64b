"""A registration's settings: step, kernel, correspondence, robust scales, and differentiation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry.correspondences import CORRESPONDENCES
from e2r.registration import iterate
from e2r.registration.kernels import KERNELS
from e2r.registration.steps import STEPS
from e2r.types import (
    Array,
    Cloud,
    Float,
    MaskedCloud,
    Pose,
    Registration,
    RegistrationStep,
    Surface,
)


@dataclass(frozen=True)
class Schedule:
    """The settings of a registration from an initial pose."""

    step: str = "symmetric"
    """registration step, by its name in STEPS; an unknown name lists them"""
    kernel: str = "welsch"
    """robust kernel, by its name in KERNELS; an unknown name lists them"""
    correspondence: str = "project"
    """correspondence, by its name in CORRESPONDENCES; an unknown name lists them"""
    steps: int = 60
    """number of steps, at most"""
    hold_steps: int = 0
    """number of these steps, at the end, that repeat the last scale"""
    first_scale_mm: float = 6.0
    """robust scale of the first step, mm"""
    last_scale_mm: float = 1.0
    """robust scale of the last step, mm"""
    early_steps: int = 0
    """number of first steps that see only a subsample of the points"""
    early_points: int = 256
    """points of that subsample"""
    mode: iterate.GradientMode = "unrolled"
    """how to differentiate: unrolled, last, one_step or implicit"""
    last: int = 4
    """number of steps that the mode `last` differentiates"""
    remat: bool = False
    """recompute steps in the backward pass instead of storing them"""
    tolerance_mm: float = 0.0
    """stop when a step moves less, mm; 0 takes all steps; for inference"""
    detach_robust_weights: bool = True
    """cut the derivative of the robust weights; False differentiates the whole registration"""

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

    def scales(self) -> Float[np.ndarray, "steps"]:
        """Robust scale of each step, mm."""
        return iterate.annealed_scales(
            self.first_scale_mm, self.last_scale_mm, self.steps, hold=self.hold_steps
        )

    def bound_step(self) -> RegistrationStep:
        """The registration step, with its kernel and correspondence function bound."""
        whole = {} if self.detach_robust_weights else {"detach_robust_weights": False}
        return partial(
            STEPS[self.step],
            kernel=KERNELS[self.kernel],
            correspond=CORRESPONDENCES[self.correspondence],
            **whole,
        )


def register_cloud(
    cloud: Cloud, weights: Float[Array, "n"], surface: Surface, start: Pose, schedule: Schedule
) -> Registration:
    """Registers a cloud under a mask.

    Args:
      cloud: the scene points; padded ones are ignored.
      weights: mask weights.
      surface: the model.
      start: initial pose, camera from model.
      schedule: the registration's settings.
    """
    return run_schedule(apply_mask(cloud, weights), surface, start, schedule)


def apply_mask(cloud: Cloud, weights: Float[Array, "n"]) -> MaskedCloud:
    """A cloud with its mask weights; padded points weigh zero."""
    return MaskedCloud(cloud.points, cloud.normals, jnp.where(cloud.valid, weights, 0.0))


def run_schedule(
    cloud: MaskedCloud, surface: Surface, start: Pose, schedule: Schedule
) -> Registration:
    """Runs a schedule: early steps on a subsample, late steps on all points.

    With a tolerance, the late steps end once the pose has converged, and only forward mode
    differentiates.

    Args:
      cloud: scene points with their mask weights.
      surface: the model.
      start: initial pose, camera from model.
      schedule: the registration's settings.
    """
    scales, early, step = schedule.scales(), schedule.early_steps, schedule.bound_step()
    run_early = partial(
        iterate.run_unrolled,
        step=step,
        mode=schedule.mode,
        last=schedule.last,
        remat=schedule.remat,
    )
    run_late = run_early
    if schedule.tolerance_mm:
        run_late = partial(
            iterate.run_until_converged, step=step, tolerance_mm=schedule.tolerance_mm
        )
    if not early:
        return run_late(cloud, surface, start, scales)
    subsample = iterate.first_points(cloud, schedule.early_points)
    head = run_early(subsample, surface, start, scales[:early])
    middle = head.pose
    if schedule.mode != "unrolled":
        middle = jax.lax.stop_gradient(middle)
    tail = run_late(cloud, surface, middle, scales[early:])
    trajectory = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b]), head.trajectory, tail.trajectory
    )
    return tail._replace(trajectory=trajectory, steps=head.steps + tail.steps)
