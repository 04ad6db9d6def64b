"""A registration: one step, repeated while the robust scale is annealed, and its derivative.

Four ways to differentiate through the repetition stand behind one argument:

- ``unrolled``: through every step, by ``lax.scan``; memory grows with their number.
- ``last``: through the last few steps; the pose they begin at is a constant.
- ``one_step``: through the last step only (Bolte, Pauwels, Vaiter, NeurIPS 2023).
- ``implicit``: at the fixed point ``x = F(x)`` the last step has reached, ``dx = (I - F_x)^-1 dF``
  by the implicit function theorem, a damped 6x6 system (Blondel et al., NeurIPS 2022).

The last three need the memory of the steps they differentiate, and give no gradient to the start
(unless ``last`` covers all steps): a converged registration has forgotten it.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry import linear_algebra
from e2r.registration import steps
from e2r.types import Array, MaskedCloud, Pose, Registration, RegistrationStep, StepResult, Surface

GradientMode = Literal["unrolled", "last", "one_step", "implicit"]
GRADIENT_MODES: tuple[GradientMode, ...] = ("unrolled", "last", "one_step", "implicit")

IMPLICIT_DAMPING = 1e-3
"""Of the 6x6 system: directions that the steps hardly hold are not followed to infinity."""


def annealed_scales(start: float, end: float, steps: int, *, hold: int = 0) -> np.ndarray:
    """Robust scales (steps,) in mm, falling geometrically, the last one ``hold`` times more."""
    falling = np.geomspace(start, end, max(steps - hold, 1))
    return np.append(falling, np.full(steps - len(falling), end)).astype(np.float32)


def zero_nonfinite(scene: MaskedCloud) -> MaskedCloud:
    """The same scene with zeros for points, normals and weights that are not finite numbers.

    Such a point weighs nothing, and nothing of it reaches a gradient.
    """
    points, normals = jnp.asarray(scene.points), jnp.asarray(scene.normals)
    weights = jnp.asarray(scene.weights)
    good = (
        jnp.isfinite(points).all(axis=1) & jnp.isfinite(normals).all(axis=1) & jnp.isfinite(weights)
    )
    return MaskedCloud(
        jnp.where(good[:, None], points, 0.0),
        jnp.where(good[:, None], normals, 0.0),
        jnp.where(good, weights, 0.0),
    )


def first_points(scene: MaskedCloud, count: int) -> MaskedCloud:
    """The first points of a scene; an even subsample where its order is random, as a cloud's is."""
    return MaskedCloud(scene.points[:count], scene.normals[:count], scene.weights[:count])


def top_weighted(scene: MaskedCloud, count: int) -> MaskedCloud:
    """The heaviest points of a scene, ``count`` at most, in their order.

    The weights are raised so that their sum stays; of equals the first are kept, an even subsample
    where the scene's order is random. A mask keeps a part: no step need look at the rest.
    """
    if count >= scene.weights.shape[0]:
        return scene
    points, normals, weights = zero_nonfinite(scene)
    rows = jnp.sort(jax.lax.top_k(weights, count)[1])
    kept = weights[rows]
    raised = kept * (jnp.sum(weights) / jnp.maximum(jnp.sum(kept), 1e-9))
    return MaskedCloud(points[rows], normals[rows], raised)


def run_unrolled(
    scene: MaskedCloud,
    surface: Surface,
    start: Pose,
    scales: Array,
    *,
    step: RegistrationStep,
    mode: GradientMode = "unrolled",
    last: int = 4,
    remat: bool = False,
) -> Registration:
    """Repeats ``step`` once per entry of ``scales``; differentiable in scene, surface and start.

    Args:
      scene: points (N, 3) mm in the camera frame, normals, and weights in [0, 1].
      surface: the model.
      start: camera from model.
      scales: (K,) mm, robust scale of each step.
      step: see :mod:`e2r.registration.steps`.
      mode: how to differentiate, see the module.
      last: steps that ``last`` differentiates.
      remat: recompute each step in the backward pass instead of storing it.

    Raises:
      ValueError: no such mode, or fewer than one step to differentiate.
    """
    if mode not in GRADIENT_MODES:
        raise ValueError(f"mode is {mode!r}; use one of {', '.join(GRADIENT_MODES)}")
    scales = jnp.asarray(scales, jnp.asarray(scene.points).dtype)
    count = scales.shape[0]
    if count < 1 or last < 1:
        raise ValueError("a registration takes one step or more, and differentiates one or more")
    scene = zero_nonfinite(scene)
    through = {"unrolled": count, "last": min(last, count), "one_step": 1, "implicit": 1}[mode]
    constant = jax.lax.stop_gradient((scene, surface, start))
    if through == count:
        constant = (scene, surface, start)
    head, early = _repeat(*constant, scales[: count - through], step=step, remat=remat)
    if through < count:
        head = jax.lax.stop_gradient(head)
    if mode == "implicit":
        moved = _fixed_point(scene, surface, head, scales[-1], step)
        late = jax.tree.map(lambda leaf: leaf[None], moved)
    else:
        _, late = _repeat(scene, surface, head, scales[count - through :], step=step, remat=remat)
    all_ = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), early, late)
    end = jax.tree.map(lambda leaf: leaf[-1], all_)
    return Registration(
        end.pose, all_.pose, end.residual, end.inlier_weight, end.effective_dof, jnp.int32(count)
    )


def _repeat(
    scene: MaskedCloud,
    surface: Surface,
    start: Pose,
    scales: Array,
    *,
    step: RegistrationStep,
    remat: bool,
) -> tuple[Pose, StepResult]:
    """The pose after all steps, and what each of them came to (leading axis K, perhaps 0)."""

    def body(pose: Pose, scale: Array) -> tuple[Pose, StepResult]:
        moved = step(scene, surface, pose, scale)
        return moved.pose, moved

    pose, steps = jax.lax.scan(jax.checkpoint(body) if remat else body, start, scales)
    return pose, steps


def _fixed_point(
    scene: MaskedCloud, surface: Surface, pose: Pose, scale: Array, step: RegistrationStep
) -> StepResult:
    """One more step, whose pose has the derivative of the fixed point.

    In the coordinates ``u`` of ``pose exp(u)`` a step is ``u -> F(u)``. The 6x6 system
    ``(I - F_u) du = dF`` is solved in damped least squares, for ``F_u`` is not symmetric.
    """

    def local(nudge: Array, scene: MaskedCloud, surface: Surface) -> tuple[jax.Array, StepResult]:
        begin = steps.apply_twist(pose, nudge, centre)
        moved = step(scene, surface, begin, scale)
        return steps.twist_between(pose, moved.pose, centre), moved

    zero = jnp.zeros(6, pose.rotation.dtype)
    centre = jnp.mean(jnp.asarray(surface.points), axis=0)
    still = jax.lax.stop_gradient((scene, surface))
    slope = jax.jacfwd(lambda nudge: local(nudge, *still)[0])(zero)
    system = jnp.eye(6, dtype=slope.dtype) - slope
    product = jnp.matmul(system.T, system, precision="highest")
    damped = product + IMPLICIT_DAMPING * jnp.eye(6, dtype=slope.dtype)
    matrix = jnp.matmul(linear_algebra.inverse_6x6(damped), system.T, precision="highest")
    moved_by, moved = local(zero, scene, surface)
    change = jnp.matmul(
        jax.lax.stop_gradient(matrix),
        moved_by - jax.lax.stop_gradient(moved_by),
        precision="highest",
    )
    end = jax.lax.stop_gradient(moved.pose)
    return moved._replace(pose=steps.apply_twist(end, change, centre))


def run_until_converged(
    scene: MaskedCloud,
    surface: Surface,
    start: Pose,
    scales: Array,
    *,
    step: RegistrationStep,
    tolerance_mm: float,
) -> Registration:
    """Like :func:`run_unrolled`, for inference: stops once the last scale is reached and nothing moves.

    Under ``vmap`` each item stops by itself: the others go on, and it keeps its pose.

    Args:
      scene, surface, start, scales, step: as in :func:`run_unrolled`.
      tolerance: mm; no part of the model that a step moved less is worth another.

    Returns:
      the registration; after its last step the trajectory holds the last pose.
    """
    scene = zero_nonfinite(scene)
    scales = jnp.asarray(scales, scene.points.dtype)
    count = scales.shape[0]
    reached = jnp.argmax(scales <= scales[-1])  # steps before this one are still annealing
    centre = jnp.mean(jnp.asarray(surface.points), axis=0)
    first_move = step(scene, surface, start, scales[0])
    track = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), first_move.pose)

    def goes_on(state: tuple) -> jax.Array:
        taken, _, shift, _ = state
        return (taken < count) & ((taken <= reached) | (shift > tolerance_mm))

    def body(state: tuple) -> tuple:
        taken, moved, _, track = state
        after = step(scene, surface, moved.pose, scales[taken])
        shift = jnp.max(jnp.abs(steps.twist_between(moved.pose, after.pose, centre)))
        track = jax.tree.map(
            lambda rows, leaf: jnp.where(
                jnp.arange(count).reshape(-1, *[1] * leaf.ndim) >= taken, leaf, rows
            ),
            track,
            after.pose,
        )
        return taken + 1, after, shift, track

    state = (jnp.int32(1), first_move, jnp.asarray(jnp.inf, scales.dtype), track)
    taken, moved, _, track = jax.lax.while_loop(goes_on, body, state)
    return Registration(
        moved.pose, track, moved.residual, moved.inlier_weight, moved.effective_dof, taken
    )
