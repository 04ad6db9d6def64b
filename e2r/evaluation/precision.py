"""How well the points hold each level: the error of its pose that noise would make.

The covariance of a least-squares pose, carried to the targets (Fitzpatrick, West and Maurer, 1998,
for points; here for distances to tangent planes). It knows how the points lie: three points of one
lamina hold a level less than the same number around it. It knows nothing of a mask's own errors.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from e2r.evaluation.frame_scale import MAX_POINTS
from e2r.types import Float, LevelPoses, Surface

KERNEL_MM = 2.0
"""Width of the robust kernel that weighs a point."""
PRIOR = np.diag([30.0**2] * 3 + [1.0] * 3) * 0.05
"""What is known without a point, in points: turns by 30 mm's lever, and shifts."""
NOISE_FLOOR_MM = 0.1
"""Least noise of a point, mm."""


class LevelPrecision(NamedTuple):
    """What the points say of each level's pose, leading axis L."""

    dilution: Float[np.ndarray, "l"]  # mm of error at the level's surface for 1 mm of noise
    noise: Float[np.ndarray, "l"]  # mm: spread of the points about the surface
    share: Float[np.ndarray, "l"]  # of the level's points that lie on it, 0 to 1
    inliers: Float[np.ndarray, "l"]  # weight of the level's points, of all that are registered


def level_precision(
    points: Float[np.ndarray, "n 3"], tree: cKDTree, surface: Surface, levels: LevelPoses
) -> LevelPrecision:
    """The precision of each level's pose.

    Where all levels have one pose, all points hold each of them. Else its own points do.

    Args:
      points: of the mask, mm, camera frame.
      tree: of the centres of the model's triangles; a lattice is too coarse for their spread.
      surface: of the model.
      levels: one pose a level, padded; or one for all.
    """
    triangles = np.asarray(surface.planes, np.float64)
    level_of = triangles[:, 7].astype(np.int64)
    count = int(level_of.max()) + 1
    thinned = np.asarray(points, np.float64)[:: max(1, len(points) // MAX_POINTS)]
    scale = len(points) / max(1, len(thinned))
    rotations, translations = (np.asarray(leaf, np.float64) for leaf in levels.pose)
    bent = max(np.ptp(rotations, axis=0).max(), np.ptp(translations, axis=0).max()) > 0
    found = []
    for level in range(count):
        if bent or level == 0:  # with one pose, the points lie alike for all levels
            k = min(level, len(translations) - 1)
            placed = (thinned - translations[k]) @ rotations[k]
            nearest = tree.query(placed)[1] if len(placed) else np.zeros(0, np.int64)
            across = triangles[nearest, 3:6]
            apart = ((placed - triangles[nearest, :3]) * across).sum(1)
            weight = np.exp(-np.square(apart / KERNEL_MM))
        own = level_of[nearest] == level
        targets = triangles[level_of == level, :3]
        centre = targets.mean(0)
        rows = np.column_stack([np.cross(placed - centre, across), across])
        held = weight * own if bent else weight
        information = scale * (rows * held[:, None]).T @ rows + PRIOR
        dilution = np.sqrt(np.trace(np.linalg.solve(information, _mean_square(targets - centre))))
        total = held.sum()
        noise = np.sqrt((held * apart**2).sum() / max(total, 1e-6) + NOISE_FLOOR_MM**2)
        inliers = (weight * own).sum()
        found.append((dilution, noise, inliers / max(own.sum(), 1.0), scale * inliers))
    return LevelPrecision(*np.array(found).T)


def _mean_square(arms: Float[np.ndarray, "t 3"]) -> Float[np.ndarray, "6 6"]:
    """The mean of J^T J, where J turns a small motion about the centre into a target's shift."""
    zero = np.zeros(len(arms))
    x, y, z = arms.T
    # A turn w moves a target by w x arm.
    turns = np.array([[zero, z, -y], [-z, zero, x], [y, -x, zero]]).transpose(2, 0, 1)
    jacobian = np.concatenate([turns, np.broadcast_to(np.eye(3), turns.shape)], axis=2)
    mean: np.ndarray = np.einsum("tij,tik->jk", jacobian, jacobian) / len(arms)
    return mean
