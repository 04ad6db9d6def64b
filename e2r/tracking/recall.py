"""Where a remembered posture may be, given a registration that may be some levels off."""

from __future__ import annotations

import numpy as np

from e2r.geometry import poses
from e2r.types import Float, Pose, Surface

OFF = 2
"""A registration may be so many levels off: vertebrae look alike."""


def places(found: Pose, level: int, posture: Pose, surface: Surface) -> list[Pose]:
    """A posture, moved so that one level after the other lies where a registration found a level.

    Args:
      found: a registration: pose of each level, leading axis L, camera from model.
      level: index of the level that it sees best.
      posture: the remembered poses of the same levels.
      surface: of all levels.

    Returns:
      Poses of all levels for each of the levels that may be meant; that level itself comes first.
    """
    centres = level_centres(surface, len(posture.translation))
    tangents = np.gradient(centres, axis=0) if len(centres) > 1 else np.zeros_like(centres)
    there = _matrices(found)[level]
    remembered = _matrices(posture)
    moved = []
    for meant in sorted(range(len(centres)), key=lambda one: abs(one - level)):
        if abs(meant - level) > OFF:
            continue
        alike = np.eye(4)  # takes the meant level to the place of the found one, model frame
        alike[:3, :3] = _turn(tangents[meant], tangents[level])
        alike[:3, 3] = centres[level] - alike[:3, :3] @ centres[meant]
        motion = there @ alike @ np.linalg.inv(remembered[meant])
        after = (motion @ remembered).astype(np.float32)
        moved.append(Pose(after[:, :3, :3], after[:, :3, 3]))
    return moved


def level_centres(surface: Surface, count: int) -> Float[np.ndarray, "l 3"]:
    """Middle of each level's surface, mm, model frame.

    Args:
      surface: of all levels.
      count: of the levels.
    """
    levels, points = np.asarray(surface.levels), np.asarray(surface.points, np.float64)
    number = np.maximum(np.bincount(levels, minlength=count), 1)[:count]
    sums = [np.bincount(levels, axis, minlength=count)[:count] for axis in points.T]
    return np.stack(sums, axis=1) / number[:, None]


def _matrices(several: Pose) -> np.ndarray:
    """Poses as matrices, (L, 4, 4)."""
    return np.stack([poses.to_matrix(Pose(*one)) for one in zip(*several, strict=True)])


def _turn(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The smallest rotation from one direction to another."""
    a, b = (one / max(np.linalg.norm(one), 1e-9) for one in (first, second))
    axis, cosine = np.cross(a, b), float(a @ b)
    skew = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + skew + skew @ skew / max(1.0 + cosine, 1e-3)
