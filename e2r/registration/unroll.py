"""A registration: one step, unrolled by ``lax.scan`` while the robust scale is annealed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from e2r.types import Array, Pose, Registration, Step, Surface


def annealed(start: float, end: float, steps: int) -> np.ndarray:
    """Robust scales (steps,) in mm, falling geometrically from ``start`` to ``end``."""
    return np.geomspace(start, end, steps).astype(np.float32)


def register(
    points: Array,
    weights: Array,
    surface: Surface,
    start: Pose,
    scales: Array,
    *,
    step: Step,
) -> Registration:
    """Unrolls ``step`` once per entry of ``scales``; differentiable in points, weights and start.

    Args:
      points: (N, 3) mm, camera frame.
      weights: (N,) in [0, 1]; zero for padded or dropped points.
      surface: the model.
      start: camera from model.
      scales: (K,) mm, robust scale of each step.
      step: see :mod:`e2r.registration.steps`.
    """

    def body(pose: Pose, scale: Array) -> tuple[Pose, tuple[Pose, Array, Array]]:
        pose, residual, evidence = step(points, weights, surface, pose, scale)
        return pose, (pose, residual, evidence)

    scales = jnp.asarray(scales, points.dtype)
    pose, (trajectory, residual, evidence) = jax.lax.scan(body, start, scales)
    return Registration(pose, trajectory, residual[-1], evidence[-1])
