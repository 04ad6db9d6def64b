"""The gradient's way back: by which step, in which mode, along which path does it come?

The trick is always the same: give each way a copy of the input of its own. The gradients with
respect to the copies are the shares of the ways, and their sum is the whole gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from e2r.registration import iterate, steps
from e2r.training import losses
from e2r.types import Array, MaskedCloud, Pose, RegistrationStep, Surface, Targets

TrajectoryError = Callable[[Pose], Array]
"""the poses after each step (leading axis K) -> error ()"""


def final_error(targets: Targets) -> TrajectoryError:
    """TRE after the last step, mm."""
    return lambda track: losses.mean_target_error(
        jax.tree.map(lambda leaf: leaf[-1], track), targets
    )


class Comparison(NamedTuple):
    """How P gradients of the same inputs compare."""

    norms: Array  # (P,)
    cosines: Array  # (P, P); 0 beside a gradient that vanishes


def compare(gradients: Array) -> Comparison:
    """Norms and cosines of the rows of (P, D)."""
    norms = jnp.linalg.norm(gradients, axis=1)
    units = gradients / jnp.where(norms > 0, norms, 1.0)[:, None]
    return Comparison(norms, jnp.matmul(units, units.T, precision="highest"))


def stack_gradients(gradients: Sequence[Any]) -> jax.Array:
    """Gradients of the same pytree as the rows of one matrix (P, D)."""
    return jnp.stack([ravel_pytree(gradient)[0] for gradient in gradients])


def by_copy(function: Callable[[tuple[Any, ...]], Array], x: Any, count: int) -> tuple[Any, ...]:
    """The share of each way in the derivative of a function with respect to a pytree.

    Args:
      function: of a tuple of copies of ``x``, each used by one way; its result is () or (L,).
      x: where.
      count: copies P.

    Returns:
      P pytrees like ``x``; with a leading axis L where the function has one.
    """
    shares: tuple[Any, ...] = jax.jacrev(function)((x,) * count)
    return shares


class Steps(NamedTuple):
    """What each of K unrolled steps has to do with the gradient with respect to the weights."""

    shares: Array  # (K, N) the part that comes by the step's own use of the weights
    truncated: Array  # (K, N) the gradient if only this step and those after it are differentiated
    poses: Array  # (K, 6) d error / d the pose that the step begins at, per mm (steps.nudged)
    share_norms: Array  # (K,)
    share_cosines: Array  # (K,) with the whole gradient
    truncated_norms: Array  # (K,)
    truncated_cosines: Array  # (K,) with the whole gradient


def gradient_by_step(
    error: TrajectoryError,
    scene: MaskedCloud,
    surface: Surface,
    start: Pose,
    scales: Array,
    *,
    step: RegistrationStep,
) -> Steps:
    """Follows the gradient of an unrolled registration from step to step.

    The whole gradient is ``truncated[0]``; ``truncated[K - t]`` is that of the mode ``last`` with
    ``t`` steps, and of ``one_step`` with t = 1.

    Args:
      error: of the poses after each step.
      scene: N points under their mask, camera frame.
      surface, start, scales, step: as for :func:`e2r.registration.iterate.run_unrolled`.
    """
    scene = iterate.zero_nonfinite(scene)
    scales = jnp.asarray(scales, scene.points.dtype)
    centre = jnp.mean(jnp.asarray(surface.points), axis=0)

    def run(copies: Array, nudges: Array) -> Array:
        def body(pose: Pose, now: tuple[Array, Array, Array]) -> tuple[Pose, Pose]:
            scale, weights, nudge = now
            begin = steps.apply_twist(pose, nudge, centre)
            moved = step(scene._replace(weights=weights), surface, begin, scale)
            return moved.pose, moved.pose

        _, track = jax.lax.scan(body, start, (scales, copies, nudges))
        return error(track)

    count, dtype = scales.shape[0], scene.weights.dtype
    copies = jnp.broadcast_to(scene.weights, (count, *scene.weights.shape))
    shares, adjoints = jax.grad(run, (0, 1))(copies, jnp.zeros((count, 6), dtype))
    truncated = jnp.cumsum(shares[::-1], axis=0)[::-1]
    share_figures = norm_and_cosine(shares, truncated[0])
    return Steps(
        shares, truncated, adjoints, *share_figures, *norm_and_cosine(truncated, truncated[0])
    )


def norm_and_cosine(gradients: Array, whole: Array) -> tuple[Array, Array]:
    """Norms (K,) of gradients (K, N), and their cosines with another one."""
    found = compare(jnp.concatenate([whole[None], gradients]))
    return found.norms[1:], found.cosines[0, 1:]


class Modes(NamedTuple):
    """The gradient in each of :data:`e2r.registration.iterate.GRADIENT_MODES`."""

    gradients: Array  # (M, N) d error / d weights
    comparison: Comparison


def gradient_by_mode(
    error: TrajectoryError,
    scene: MaskedCloud,
    surface: Surface,
    start: Pose,
    scales: Array,
    found: Steps,
    *,
    step: RegistrationStep,
    last: int = 4,
) -> Modes:
    """The same registration, differentiated in each way there is.

    Args:
      error, scene, surface, start, scales, step: as for :func:`gradient_by_step`.
      found: what it found: all but the implicit gradient are its truncated ones.
      last: steps that the mode ``last`` differentiates.
    """

    def final(weights: Array) -> Array:
        masked = scene._replace(weights=weights)
        result = iterate.run_unrolled(masked, surface, start, scales, step=step, mode="implicit")
        return error(result.trajectory)

    count = found.truncated.shape[0]
    rows = {"unrolled": 0, "last": max(count - last, 0), "one_step": count - 1}
    implicit = jax.grad(final)(jnp.asarray(scene.weights))
    gradients = jnp.stack(
        [
            implicit if mode == "implicit" else found.truncated[rows[mode]]
            for mode in iterate.GRADIENT_MODES
        ]
    )
    return Modes(gradients, compare(gradients))
