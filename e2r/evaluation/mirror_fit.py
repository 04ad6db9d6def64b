"""Whether the mirror image of a model fits a registered frame better than the model.

Vertebrae are nearly symmetric, so a mirrored model registers too, with left and right exchanged.
The points of the frame are mirrored in the model's sagittal plane, and fitted again from there.
The little that is not symmetric tells which of the two is the patient.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from e2r.evaluation.frame_scale import MAX_POINTS, MIN_POINTS
from e2r.geometry.closest_points import near_planes
from e2r.pipeline import CasePredictions
from e2r.runtime.timing import timed
from e2r.types import Array, Float, Pose, Surface

WIDTHS_MM = (6.0,) * 3 + (5.0,) * 2 + (4.0,) * 2 + (3.0,) * 2 + (2.0,) * 6
"""Widths of the robust kernel, one a step: the sagittal plane is known to some millimetres."""
NEAR_MM = 1.0
"""Width of the kernel that judges a fit."""
MAX_GAIN = 0.05
"""Largest gain of the mirror image of an accepted pose.

Of right models it was -0.2 and less in simulated frames, and -0.02 to -0.18 in eleven rendered ones
whose levels had moved. No right pose of these was refused by it."""


def mirror_gain(
    points: Float[np.ndarray, "n 3"], surface: Surface, *, pose: Pose, canonical: Pose
) -> float:
    """How much better the mirrored points fit the model: the difference of two shares, -1 to 1.

    Both fits are Gauss-Newton on distances to tangent planes (Chen and Medioni, 1992), with Welsch
    weights. The share is the mean weight of the points at the end.

    Args:
      points: of the mask, mm, camera frame.
      surface: the model.
      pose: camera from model, as registered.
      canonical: canonical frame from model; its x is the axis that is mirrored.

    Returns:
      the gain; 0 where there are too few points.
    """
    if len(points) < MIN_POINTS:
        return 0.0
    scene = np.asarray(points, np.float64)[:: max(1, len(points) // MAX_POINTS)]
    rotation, translation = (np.asarray(leaf, np.float64) for leaf in pose)
    placed = (scene - translation) @ rotation
    turn, shift = (np.asarray(leaf, np.float64) for leaf in canonical)
    mirrored = ((placed @ turn.T + shift) * [-1.0, 1.0, 1.0] - shift) @ turn
    return _fitted_share(mirrored, surface) - _fitted_share(placed, surface)


def _fitted_share(points: Float[np.ndarray, "n 3"], surface: Surface) -> float:
    """The share of the points that lie on the model after a rigid fit."""
    for width in WIDTHS_MM:
        distances, apart, across = _offsets(points, surface)
        weight = np.exp(-np.square(apart / width)) * (distances < 3.0 * width + 4.0)
        centre = points.mean(0)
        rows = np.column_stack([np.cross(points - centre, across), across])
        normal = (rows * weight[:, None]).T @ rows + 1e-6 * np.eye(6)
        step = -np.linalg.solve(normal, rows.T @ (weight * apart))
        turn = Rotation.from_rotvec(step[:3]).as_matrix()
        points = (points - centre) @ turn.T + centre + step[3:]
    return float(np.exp(-np.square(_offsets(points, surface)[1] / NEAR_MM)).mean())


def _offsets(
    points: Float[np.ndarray, "n 3"], surface: Surface
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"], Float[np.ndarray, "n 3"]]:
    """Distance from the near triangle's centre, from its plane, and its normal."""
    near = near_planes(surface, points)
    away = points - near.centres
    return np.linalg.norm(away, axis=1), (away * near.normals).sum(1), near.normals


def fit_mirror_gains(
    predictions: CasePredictions, surface: Surface, points: Float[Array, "p 3"], *, canonical: Pose
) -> dict[str, float]:
    """Mask name -> the gain of the mirror image, by the points that the mask keeps.

    Args:
      predictions: of one case, on the host.
      surface: of its model.
      points: of all samples, mm, camera frame.
      canonical: canonical frame from model.
    """
    with timed("mirror image"):
        return {
            mask: mirror_gain(
                np.asarray(points)[np.asarray(weights) > 0.5],
                surface,
                pose=predictions.registrations[mask].pose,
                canonical=canonical,
            )
            for mask, weights in predictions.weights.items()
        }
