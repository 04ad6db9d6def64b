"""A registration's settings: step, kernel, correspondence, robust scales, and differentiation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry.correspondences import CORRESPONDENCES, nearest, project, soft
from e2r.registration import iterate
from e2r.registration.kernels import KERNELS
from e2r.registration.steps import STEPS
from e2r.runtime.registry import PluginName, require_keywords, settle_plugins
from e2r.types import (
    Array,
    Cloud,
    CorrespondenceFn,
    Float,
    MaskedCloud,
    Pose,
    Registration,
    RegistrationStep,
    RobustKernel,
    Surface,
)


@dataclass(frozen=True)
class Schedule:
    """The settings of a registration from an initial pose."""

    step: PluginName = "symmetric"
    """registration step: a name in STEPS, or module:function; an unknown name lists them"""
    kernel: PluginName = "welsch"
    """robust kernel: a name in KERNELS, or module:function; an unknown name lists them"""
    correspondence: PluginName = "project"
    """correspondence: a name in CORRESPONDENCES, or module:function; an unknown name lists them"""
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
        settle_plugins(self, "schedule", step=STEPS, kernel=KERNELS, correspondence=CORRESPONDENCES)
        needed = ["kernel", "correspond"]
        needed += [] if self.detach_robust_weights else ["detach_robust_weights"]
        require_keywords(STEPS.find(self.step), needed, f"schedule.step is {str(self.step)!r}")
        if self.mode not in iterate.GRADIENT_MODES:
            raise ValueError(
                f"schedule.mode is {self.mode!r}; use one of {', '.join(iterate.GRADIENT_MODES)}"
            )
        self._refuse_counts_and_scales()

    def _refuse_counts_and_scales(self) -> None:
        for name in ("steps", "early_points", "last"):
            if not isinstance(getattr(self, name), Integral):
                raise ValueError(f"schedule.{name} is {getattr(self, name)!r}; use a whole number")
            if getattr(self, name) < 1:
                raise ValueError(f"schedule.{name} is {getattr(self, name)}; use 1 or more")
        if not self.first_scale_mm < np.inf:
            raise ValueError(f"schedule.first_scale_mm is {self.first_scale_mm}; use a finite one")
        if not 0 < self.last_scale_mm <= self.first_scale_mm:
            raise ValueError(
                f"schedule.last_scale_mm is {self.last_scale_mm}; use more than 0, and at most "
                f"schedule.first_scale_mm, which is {self.first_scale_mm}"
            )
        for name in ("hold_steps", "early_steps"):
            if not 0 <= getattr(self, name) < self.steps:
                raise ValueError(
                    f"schedule.{name} is {getattr(self, name)}; use 0 or more, and fewer than "
                    f"schedule.steps, which is {self.steps}"
                )
        if not self.tolerance_mm >= 0:
            raise ValueError(f"schedule.tolerance_mm is {self.tolerance_mm}; use 0 or more")

    def scales(self) -> Float[np.ndarray, "steps"]:
        """Robust scale of each step, mm."""
        return iterate.annealed_scales(
            self.first_scale_mm, self.last_scale_mm, self.steps, hold=self.hold_steps
        )

    def bound_step(self) -> RegistrationStep:
        """The registration step, with its kernel and correspondence function bound."""
        whole = {} if self.detach_robust_weights else {"detach_robust_weights": False}
        return partial(
            STEPS.find(self.step),
            kernel=self.chosen_kernel(),
            correspond=self.chosen_correspondence(),
            **whole,
        )

    def chosen_kernel(self) -> RobustKernel:
        """The robust kernel that is named."""
        return KERNELS.find(self.kernel)

    def chosen_correspondence(self) -> CorrespondenceFn:
        """The correspondence function that is named."""
        return CORRESPONDENCES.find(self.correspondence)

    @property
    def needs_triangles(self) -> bool:
        """Whether the correspondence may read triangles, so that surfaces are built exactly."""
        return not any(self.chosen_correspondence() is one for one in (project, nearest, soft))

    def reached_code(self) -> tuple[Any, ...]:
        """The functions that are named, for :mod:`e2r.runtime.code_digest`."""
        return (self.bound_step(),)


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
