"""Repeats a registration step while the robust scale is annealed, and differentiates the result.

The argument ``mode`` selects how to differentiate:

- ``unrolled``: through every step, by ``lax.scan``; memory grows with the number of steps.
- ``last``: through the last few steps; the pose at which these begin is constant.
- ``one_step``: through the last step only (Bolte, Pauwels, Vaiter, NeurIPS 2023).
- ``implicit``: at the fixed point ``x = F(x)`` of the last step, ``dx = (I - F_x)^-1 dF`` by the
  implicit function theorem; a damped 6x6 system (Blondel et al., NeurIPS 2022).

The last three store only the steps that they differentiate. They give no gradient to the initial
pose (unless ``last`` covers all steps), because a converged registration does not depend on it.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry import linear_algebra
from e2r.registration import steps
from e2r.types import (
    Array,
    Float,
    Int,
    MaskedCloud,
    Pose,
    Registration,
    RegistrationStep,
    StepResult,
    Surface,
)

GradientMode = Literal["unrolled", "last", "one_step", "implicit"]
GRADIENT_MODES: tuple[GradientMode, ...] = ("unrolled", "last", "one_step", "implicit")

IMPLICIT_DAMPING = 1e-3
"""Damping of the 6x6 system: it bounds the derivative where the points hardly hold the pose."""


def annealed_scales(
    first: float, last: float, steps: int, *, hold: int = 0
) -> Float[np.ndarray, "steps"]:
    """Robust scales of a run in mm, falling geometrically.

    Args:
      first: scale of the first step, mm.
      last: scale of the last step, mm.
      steps: number of steps.
      hold: number of the steps, at the end, that repeat the last scale.
    """
    falling = np.geomspace(first, last, max(steps - hold, 1))
    return np.append(falling, np.full(steps - len(falling), last)).astype(np.float32)


def zero_nonfinite(cloud: MaskedCloud) -> MaskedCloud:
    """Sets every point with a number that is not finite to zero, with its normal and weight.

    Such a point then counts for nothing, in values and in gradients.
    """
    points, normals = jnp.asarray(cloud.points), jnp.asarray(cloud.normals)
    weights = jnp.asarray(cloud.weights)
    finite = (
        jnp.isfinite(points).all(axis=1) & jnp.isfinite(normals).all(axis=1) & jnp.isfinite(weights)
    )
    return MaskedCloud(
        jnp.where(finite[:, None], points, 0.0),
        jnp.where(finite[:, None], normals, 0.0),
        jnp.where(finite, weights, 0.0),
    )


def first_points(cloud: MaskedCloud, count: int) -> MaskedCloud:
    """The first points of a cloud: an even subsample, because their order is random."""
    return MaskedCloud(cloud.points[:count], cloud.normals[:count], cloud.weights[:count])


def top_weighted(cloud: MaskedCloud, count: int) -> MaskedCloud:
    """At most ``count`` points of largest weight, in their order; the sum of weights is kept.

    A mask drops most points, so a step need not compute the rest. Of equal weights the first are
    taken: an even subsample, because their order is random.
    """
    if count >= cloud.weights.shape[0]:
        return cloud
    cloud = zero_nonfinite(cloud)
    return take_rows(cloud, top_rows(cloud, count))


def top_rows(cloud: MaskedCloud, count: int) -> Int[jax.Array, "m"]:
    """Rows of the ``count`` points of largest weight, ascending; they have no derivative."""
    return jnp.sort(jax.lax.top_k(cloud.weights, count)[1])


def take_rows(cloud: MaskedCloud, rows: Int[Array, "m"]) -> MaskedCloud:
    """Some points of a cloud; the sum of weights is kept."""
    points, normals, weights = cloud
    kept = weights[rows]
    rescaled = kept * (jnp.sum(weights) / jnp.maximum(jnp.sum(kept), 1e-9))
    return MaskedCloud(points[rows], normals[rows], rescaled)


def run_unrolled(
    cloud: MaskedCloud,
    surface: Surface,
    start: Pose,
    scales: Float[Array, "steps"],
    *,
    step: RegistrationStep,
    mode: str = "unrolled",
    last: int = 4,
    remat: bool = False,
) -> Registration:
    """Takes one step per scale; differentiable in the cloud, the surface and the initial pose.

    Args:
      cloud: scene points with their mask weights.
      surface: the model.
      start: initial pose, camera from model.
      scales: robust scale of each step, mm.
      step: one of :mod:`e2r.registration.steps`.
      mode: how to differentiate; see the module's text.
      last: number of steps that the mode ``last`` differentiates.
      remat: recompute each step in the backward pass instead of storing it.

    Raises:
      ValueError: there is no such mode, or fewer than one step to take or to differentiate.
    """
    if mode not in GRADIENT_MODES:
        raise ValueError(f"mode is {mode!r}; use one of {', '.join(GRADIENT_MODES)}")
    scales = jnp.asarray(scales, jnp.asarray(cloud.points).dtype)
    count = scales.shape[0]
    if count < 1 or last < 1:
        raise ValueError("scales and last: use one step or more, and differentiate one or more")
    cloud = zero_nonfinite(cloud)
    through = {"unrolled": count, "last": min(last, count), "one_step": 1, "implicit": 1}[mode]
    split = count - through
    constant = jax.lax.stop_gradient((cloud, surface, start))
    if through == count:
        constant = (cloud, surface, start)
    head, early = _repeat(*constant, scales[:split], step=step, remat=remat)
    if through < count:
        head = jax.lax.stop_gradient(head)
    if mode == "implicit":
        result = _fixed_point(cloud, surface, head, scales[-1], step=step)
        late = jax.tree.map(lambda leaf: leaf[None], result)
    else:
        _, late = _repeat(cloud, surface, head, scales[split:], step=step, remat=remat)
    taken = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), early, late)
    end = jax.tree.map(lambda leaf: leaf[-1], taken)
    return Registration(
        end.pose, taken.pose, end.residual, end.inlier_weight, end.effective_dof, jnp.int32(count)
    )


def _repeat(
    cloud: MaskedCloud,
    surface: Surface,
    start: Pose,
    scales: jax.Array,
    *,
    step: RegistrationStep,
    remat: bool,
) -> tuple[Pose, StepResult]:
    """The pose after all steps, and the result of each (leading axis K, which may be 0)."""

    def body(pose: Pose, scale: jax.Array) -> tuple[Pose, StepResult]:
        result = step(cloud, surface, pose, scale)
        return result.pose, result

    if remat:
        body = jax.checkpoint(body)
    return jax.lax.scan(body, start, scales)


def _fixed_point(
    cloud: MaskedCloud, surface: Surface, pose: Pose, scale: Array, *, step: RegistrationStep
) -> StepResult:
    """One more step, whose pose has the derivative of the fixed point.

    In the coordinates ``u`` of ``pose exp(u)`` a step is ``u -> F(u)``. The 6x6 system
    ``(I - F_u) du = dF`` is solved by damped least squares, because ``F_u`` is not symmetric.
    """

    def local(twist: Array, cloud: MaskedCloud, surface: Surface) -> tuple[jax.Array, StepResult]:
        result = step(cloud, surface, steps.apply_twist(pose, twist, centre), scale)
        return steps.twist_between(pose, result.pose, centre), result

    zero = jnp.zeros(6, pose.rotation.dtype)
    centre = jnp.mean(jnp.asarray(surface.points), axis=0)
    constant = jax.lax.stop_gradient((cloud, surface))
    slope = jax.jacfwd(lambda twist: local(twist, *constant)[0])(zero)
    system = jnp.eye(6, dtype=slope.dtype) - slope
    product = jnp.matmul(system.T, system, precision="highest")
    damped = product + IMPLICIT_DAMPING * jnp.eye(6, dtype=slope.dtype)
    inverse = jnp.matmul(linear_algebra.inverse_6x6(damped), system.T, precision="highest")
    twist, result = local(zero, cloud, surface)
    change = jnp.matmul(
        jax.lax.stop_gradient(inverse), twist - jax.lax.stop_gradient(twist), precision="highest"
    )
    end = jax.lax.stop_gradient(result.pose)
    return result._replace(pose=steps.apply_twist(end, change, centre))


def run_until_converged(
    cloud: MaskedCloud,
    surface: Surface,
    start: Pose,
    scales: Float[Array, "steps"],
    *,
    step: RegistrationStep,
    tolerance_mm: float,
) -> Registration:
    """Steps until the last scale is reached and the model stops moving; for inference.

    Under ``vmap`` each item stops by itself: the others go on while it keeps its pose. Only
    forward mode differentiates this.

    Args:
      cloud: scene points with their mask weights.
      surface: the model.
      start: initial pose, camera from model.
      scales: robust scale of each step, mm.
      step: one of :mod:`e2r.registration.steps`.
      tolerance_mm: stop when the largest entry of a step's twist is smaller.

    Returns:
      The registration. Its trajectory is filled with the last pose after the last step.
    """
    cloud = zero_nonfinite(cloud)
    scales = jnp.asarray(scales, cloud.points.dtype)
    count = scales.shape[0]
    reached = jnp.argmax(scales <= scales[-1])  # steps before this one are still annealing
    centre = jnp.mean(jnp.asarray(surface.points), axis=0)
    first = step(cloud, surface, start, scales[0])
    trajectory = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), first.pose)

    def goes_on(state: tuple) -> jax.Array:
        taken, _, shift, _ = state
        return (taken < count) & ((taken <= reached) | (shift > tolerance_mm))

    def body(state: tuple) -> tuple:
        taken, before, _, trajectory = state
        after = step(cloud, surface, before.pose, scales[taken])
        shift = jnp.max(jnp.abs(steps.twist_between(before.pose, after.pose, centre)))
        trajectory = jax.tree.map(
            lambda rows, leaf: jnp.where(
                jnp.arange(count).reshape(-1, *[1] * leaf.ndim) >= taken, leaf[None], rows
            ),
            trajectory,
            after.pose,
        )
        return taken + 1, after, shift, trajectory

    state = (jnp.int32(1), first, jnp.asarray(jnp.inf, scales.dtype), trajectory)
    taken, last, _, trajectory = jax.lax.while_loop(goes_on, body, state)
    return Registration(
        last.pose, trajectory, last.residual, last.inlier_weight, last.effective_dof, taken
    )
