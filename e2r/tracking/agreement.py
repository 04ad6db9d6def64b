"""How far a registration is from a track, level by level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter

import numpy as np

from e2r.evaluation.metrics import distances_apart
from e2r.evaluation.predictions import LevelEstimate
from e2r.tracking.finder import Found
from e2r.types import Float, Pose, Surface


def bone_weights(found: Found, count: int) -> Float[np.ndarray, "l"]:
    """Weight of each level's remembered bone.

    Args:
      found: a registration.
      count: of the levels.
    """
    bone = found.bone
    return np.bincount(np.asarray(bone.levels), np.asarray(bone.weights), minlength=count)


def over_bone(found: Found, apart: Float[np.ndarray, "l"]) -> float:
    """Mean of the levels' distances over the bone that a registration saw, mm.

    Args:
      found: the registration.
      apart: of each level, mm.
    """
    weights = bone_weights(found, len(apart))
    return float(np.sum(weights * apart) / max(weights.sum(), 1e-6))


def expected(found: Found, names: Sequence[str]) -> Float[np.ndarray, "l"]:
    """Expected TRE of each level, mm; NaN of a level that is not seen.

    Args:
      found: a registration.
      names: of the levels.
    """
    return _of_levels(found, names, attrgetter("expected_tre_mm"))


def bounds(found: Found, names: Sequence[str]) -> Float[np.ndarray, "l"]:
    """The TRE that each level exceeds with a chance of 5 %, mm; NaN of a level that is not seen.

    Args:
      found: a registration.
      names: of the levels.
    """
    return _of_levels(found, names, attrgetter("bound95_mm"))


def _of_levels(
    found: Found, names: Sequence[str], figure: Callable[[LevelEstimate], float | None]
) -> np.ndarray:
    """A figure of each level's estimate; NaN where there is none."""
    estimates = [found.prediction.levels.get(name) for name in names]
    values = [None if one is None else figure(one) for one in estimates]
    return np.array([np.nan if value is None else value for value in values])


def distances(first: Pose, second: Pose, surface: Surface) -> Float[np.ndarray, "l"]:
    """Mean distance of each level's surface under two poses, mm.

    Args:
      first: of each level, leading axis L, camera from model.
      second: the same levels elsewhere.
      surface: of all levels.
    """
    levels, points = np.asarray(surface.levels), np.asarray(surface.points)
    first, second = (Pose(*map(np.asarray, one)) for one in (first, second))  # compiles nothing
    apart = [
        distances_apart(Pose(*one), Pose(*other), points[levels == level])
        for level, (one, other) in enumerate(
            zip(zip(*first, strict=True), zip(*second, strict=True), strict=True)
        )
    ]
    return np.array([one.mean() if len(one) else 0.0 for one in apart])
