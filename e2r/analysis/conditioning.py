"""How well is each step of a registration determined?"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.geometry import poses, procrustes
from e2r.registration import iterate, steps
from e2r.registration.schedule import CORRESPONDENCES, KERNELS, Schedule
from e2r.types import Array, MaskedCloud, Pose, Surface


class Conditioning(NamedTuple):
    """Figures of each of K steps, at the pose it begins with."""

    gap: Array  # (K,) in [0, 1], of Procrustes; near 0 its rotation is not determined
    effective: Array  # (K,) effective number of points, (sum s)^2 / sum s^2, s weight times robust
    stiffness: Array  # (K, 6) in [0, 1], ascending: share of the evidence that holds a direction
    condition: Array  # (K,) largest stiffness over the smallest, as far as rounding can tell
    inlier_weight: Array  # (K,) total weight times robust weight, in points
    residual: Array  # (K,) mm
    effective_dof: Array  # (K,) in [0, 6], of the step
    moved: Array  # (K,) mm, by which the step moves the model's middle and turns it at the lever


def along_trajectory(
    scene: MaskedCloud, surface: Surface, start: Pose, schedule: Schedule
) -> Conditioning:
    """Conditioning along a trajectory.

    The stiffness is that of distances to the surface's tangent planes, whatever the step: the
    eigenvalues of ``sum s r r^T / sum s`` with ``r = (n x (p - c) / lever, n)`` (after Gelfand et
    al., "Geometrically stable sampling for the ICP algorithm", 3DIM 2003, with the lever that the
    steps have).

    Args:
      scene: N points under their mask, camera frame.
      surface, start: of the registration.
      schedule: of it; its mode and its tolerance play no part, and all steps see all points.
    """
    step, scales = schedule.bound_step(), jnp.asarray(schedule.scales(), scene.points.dtype)
    kernel = KERNELS[schedule.kernel]
    correspond = CORRESPONDENCES[schedule.correspondence]
    scene = iterate.zero_nonfinite(scene)
    middle = jnp.mean(jnp.asarray(surface.points), axis=0)

    def body(pose: Pose, scale: Array) -> tuple[Pose, Conditioning]:
        queries = poses.apply_inverse(pose, scene.points)
        match = correspond(surface, queries)
        square = jnp.sum(jnp.square(queries - match.points), axis=1)
        share = scene.weights * kernel(square, scene.weights, scale)
        total = jnp.sum(share)
        some = jnp.where(total > 0, total, 1.0)
        centre = jnp.matmul(share, queries, precision="highest") / some
        lever = jnp.cross((queries - centre) / steps.LEVER, match.normals)
        rows = jnp.concatenate([lever, match.normals], axis=1)
        gram = jnp.matmul((share[:, None] * rows).T, rows, precision="highest") / some
        stiffness = jnp.maximum(jnp.linalg.eigvalsh(gram), 0.0)
        largest = jnp.where(stiffness[-1] > 0, stiffness[-1], 1.0)
        smallest = jnp.maximum(stiffness[0], jnp.finfo(stiffness.dtype).eps * largest)
        squares = jnp.sum(share * share)
        after = step(scene, surface, pose, scale)
        figures = Conditioning(
            gap=procrustes.procrustes(queries, match.points, share).gap,
            effective=total * total / jnp.where(squares > 0, squares, 1.0),
            stiffness=stiffness,
            condition=largest / smallest,
            inlier_weight=after.inlier_weight,
            residual=after.residual,
            effective_dof=after.effective_dof,
            moved=jnp.linalg.norm(steps.twist_between(pose, after.pose, middle)),
        )
        return after.pose, figures

    _, found = jax.lax.scan(body, start, scales)
    return found
