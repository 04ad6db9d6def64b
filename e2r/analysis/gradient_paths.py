"""By which registration step, and in which mode, does the gradient reach the mask weights?

Each step gets its own copy of the weights. The gradients with respect to the copies are the steps'
shares, and their sum is the whole gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from e2r.registration import iterate, steps
from e2r.training import losses
from e2r.types import Array, Float, MaskedCloud, Pose, RegistrationStep, Surface, Targets

TrajectoryError: TypeAlias = Callable[[Pose], Float[Array, ""]]
"""the poses after each step (leading axis K) -> error"""


def final_error(targets: Targets) -> TrajectoryError:
    """The TRE after the last step, mm, as a function of the trajectory."""

    def error(trajectory: Pose) -> Float[Array, ""]:
        last = jax.tree.map(lambda leaf: leaf[-1], trajectory)
        return losses.mean_target_error(last, targets)

    return error


class Comparison(NamedTuple):
    """How P gradients of the same inputs compare."""

    norms: Float[Array, "p"]
    cosines: Float[Array, "p p"]  # 0 where a gradient vanishes


def compare_gradients(gradients: Float[Array, "p d"]) -> Comparison:
    """Norms of the rows, and cosines between them."""
    norms = jnp.linalg.norm(gradients, axis=1)
    units = gradients / jnp.where(norms > 0, norms, 1.0)[:, None]
    return Comparison(norms, jnp.matmul(units, units.T, precision="highest"))


def norms_and_cosines(
    gradients: Float[Array, "k d"], whole: Float[Array, "d"]
) -> tuple[Float[Array, "k"], Float[Array, "k"]]:
    """Norms of some gradients, and their cosines with another gradient, ``whole``."""
    found = compare_gradients(jnp.concatenate([whole[None], gradients]))
    return found.norms[1:], found.cosines[0, 1:]


def stack_gradients(gradients: Sequence[Any]) -> Float[jax.Array, "p d"]:
    """Gradients with respect to the same pytree, as the rows of one matrix."""
    return jnp.stack([ravel_pytree(gradient)[0] for gradient in gradients])


class StepGradients(NamedTuple):
    """How each of K unrolled steps contributes to the gradient with respect to N weights."""

    shares: Float[Array, "k n"]  # by the step's own use of the weights
    truncated: Float[Array, "k n"]  # if only this step and later ones are differentiated
    pose_gradients: Float[Array, "k 6"]  # d error / d the step's initial pose, a twist, per mm
    share_norms: Float[Array, "k"]
    share_cosines: Float[Array, "k"]  # with the whole gradient
    truncated_norms: Float[Array, "k"]
    truncated_cosines: Float[Array, "k"]  # with the whole gradient


def gradient_by_step(
    cloud: MaskedCloud,
    surface: Surface,
    start: Pose,
    *,
    scales: Float[Array, "steps"],
    step: RegistrationStep,
    error: TrajectoryError,
) -> StepGradients:
    """Follows the gradient of an unrolled registration from step to step.

    The whole gradient is ``truncated[0]``. ``truncated[K - t]`` is the gradient of the mode
    ``last`` with ``t`` steps, and that of ``one_step`` for t = 1.

    Args:
      cloud: scene points with their mask weights.
      surface: the model.
      start: initial pose, camera from model.
      scales: robust scale of each step, mm.
      step: one of :mod:`e2r.registration.steps`.
      error: of the poses after each step.
    """
    cloud = iterate.zero_nonfinite(cloud)
    scales = jnp.asarray(scales, cloud.points.dtype)
    centre = jnp.mean(jnp.asarray(surface.points), axis=0)

    def run(copies: Array, twists: Array) -> Array:
        def body(pose: Pose, inputs: tuple[Array, Array, Array]) -> tuple[Pose, Pose]:
            scale, weights, twist = inputs
            moved = steps.apply_twist(pose, twist, centre)
            after = step(cloud._replace(weights=weights), surface, moved, scale).pose
            return after, after

        _, trajectory = jax.lax.scan(body, start, (scales, copies, twists))
        return error(trajectory)

    count, dtype = scales.shape[0], cloud.weights.dtype
    copies = jnp.broadcast_to(cloud.weights, (count, *cloud.weights.shape))
    shares, pose_gradients = jax.grad(run, (0, 1))(copies, jnp.zeros((count, 6), dtype))
    truncated = jnp.cumsum(shares[::-1], axis=0)[::-1]
    share_norms, share_cosines = norms_and_cosines(shares, truncated[0])
    truncated_norms, truncated_cosines = norms_and_cosines(truncated, truncated[0])
    return StepGradients(
        shares=shares,
        truncated=truncated,
        pose_gradients=pose_gradients,
        share_norms=share_norms,
        share_cosines=share_cosines,
        truncated_norms=truncated_norms,
        truncated_cosines=truncated_cosines,
    )


class ModeGradients(NamedTuple):
    """The gradient in each of :data:`e2r.registration.iterate.GRADIENT_MODES`."""

    gradients: Float[Array, "m n"]  # d error / d weights
    comparison: Comparison


def gradient_by_mode(
    cloud: MaskedCloud,
    surface: Surface,
    start: Pose,
    *,
    scales: Float[Array, "steps"],
    step: RegistrationStep,
    error: TrajectoryError,
    by_step: StepGradients,
    last: int = 4,
) -> ModeGradients:
    """Differentiates the same registration in each mode.

    It takes the arguments of :func:`gradient_by_step`, and that function's result.

    Args:
      cloud: scene points with their mask weights.
      surface: the model.
      start: initial pose, camera from model.
      scales: robust scale of each step, mm.
      step: one of :mod:`e2r.registration.steps`.
      error: of the poses after each step.
      by_step: the gradients by step. All modes but ``implicit`` are among its truncated ones.
      last: number of steps that the mode ``last`` differentiates.
    """

    def implicit_error(weights: Array) -> Array:
        masked = cloud._replace(weights=weights)
        result = iterate.run_unrolled(masked, surface, start, scales, step=step, mode="implicit")
        return error(result.trajectory)

    count = by_step.truncated.shape[0]
    rows = {"unrolled": 0, "last": max(count - last, 0), "one_step": count - 1}
    implicit = jax.grad(implicit_error)(jnp.asarray(cloud.weights))
    gradients = jnp.stack(
        [
            implicit if mode == "implicit" else by_step.truncated[rows[mode]]
            for mode in iterate.GRADIENT_MODES
        ]
    )
    return ModeGradients(gradients, compare_gradients(gradients))
