"""How well is each step of a registration determined?"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.geometry import poses, procrustes
from e2r.registration import iterate, steps
from e2r.registration.schedule import Schedule
from e2r.types import Array, Float, MaskedCloud, Pose, Surface


class Conditioning(NamedTuple):
    """Figures of each of K steps, at the pose it begins with."""

    gap: Float[Array, "k"]  # 0 to 1, of Procrustes; near 0 the rotation is not determined
    effective_points: Float[Array, "k"]  # (sum s)^2 / sum s^2 of the inlier weights s
    stiffness: Float[Array, "k 6"]  # 0 to 1, ascending: share of the points that hold a direction
    condition: Float[Array, "k"]  # largest stiffness over the smallest, limited by rounding
    inlier_weight: Float[Array, "k"]  # sum of the inlier weights, in points
    residual: Float[Array, "k"]  # mm
    effective_dof: Float[Array, "k"]  # 0 to 6, of the step
    motion: Float[Array, "k"]  # mm: shift of the model's middle, and turn at the lever


def along_trajectory(
    cloud: MaskedCloud, surface: Surface, start: Pose, *, schedule: Schedule
) -> Conditioning:
    """Conditioning of each step of a registration.

    The stiffness is that of distances to the surface's tangent planes, whatever the step: the
    eigenvalues of ``sum s r r^T / sum s`` with ``r = (n x (p - c) / lever, n)``. (After Gelfand et
    al., "Geometrically stable sampling for the ICP algorithm", 3DIM 2003, with the lever of
    :mod:`e2r.registration.steps`.)

    Args:
      cloud: scene points with their mask weights.
      surface: the model.
      start: initial pose, camera from model.
      schedule: of the registration. Mode and tolerance have no effect, and all steps see all
        points.
    """
    step, scales = schedule.bound_step(), jnp.asarray(schedule.scales(), cloud.points.dtype)
    cloud = iterate.zero_nonfinite(cloud)
    middle = jnp.mean(jnp.asarray(surface.points), axis=0)

    def body(pose: Pose, scale: Array) -> tuple[Pose, Conditioning]:
        result = step(cloud, surface, pose, scale)
        figures = _figures_at(cloud, surface, pose, scale=scale, schedule=schedule)
        motion = jnp.linalg.norm(steps.twist_between(pose, result.pose, middle))
        return result.pose, figures._replace(
            inlier_weight=result.inlier_weight,
            residual=result.residual,
            effective_dof=result.effective_dof,
            motion=motion,
        )

    _, conditioning = jax.lax.scan(body, start, scales)
    return conditioning


def _figures_at(
    cloud: MaskedCloud, surface: Surface, pose: Pose, *, scale: Array, schedule: Schedule
) -> Conditioning:
    """The figures that follow from a pose alone; those of the step are zero."""
    queries = poses.apply_inverse(pose, cloud.points)
    match = schedule.chosen_correspondence()(surface, queries)
    square = jnp.sum(jnp.square(queries - match.points), axis=1)
    share = cloud.weights * schedule.chosen_kernel()(square, cloud.weights, scale)
    total = jnp.sum(share)
    safe_total = jnp.where(total > 0, total, 1.0)
    centre = jnp.matmul(share, queries, precision="highest") / safe_total
    lever = jnp.cross((queries - centre[None]) / steps.LEVER, match.normals)
    rows = jnp.concatenate([lever, match.normals], axis=1)
    gram = jnp.matmul((share[:, None] * rows).T, rows, precision="highest") / safe_total
    stiffness = jnp.maximum(jnp.linalg.eigvalsh(gram), 0.0)
    largest = jnp.where(stiffness[-1] > 0, stiffness[-1], 1.0)
    smallest = jnp.maximum(stiffness[0], jnp.finfo(stiffness.dtype).eps * largest)
    squares = jnp.sum(share * share)
    zero = jnp.zeros_like(total)
    return Conditioning(
        gap=procrustes.procrustes(queries, match.points, share).gap,
        effective_points=total * total / jnp.where(squares > 0, squares, 1.0),
        stiffness=stiffness,
        condition=largest / smallest,
        inlier_weight=zero,
        residual=zero,
        effective_dof=zero,
        motion=zero,
    )
