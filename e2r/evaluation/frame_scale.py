"""How large a frame is for its model: a fit of pose and scales, beside the rigid registration.

A rigid registration forgives a model or a frame of a wrong size: at 10 % it ends millimetres off.
The same points tell the size across the optical axis within one or two per cent. Along it, noise
makes the fitted size some per cent too large.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from e2r.geometry.closest_points import near_planes
from e2r.pipeline import CasePredictions
from e2r.runtime.timing import timed
from e2r.types import Array, Float, Pose, Surface

KERNEL_MM = 2.0
"""Width of the robust kernel."""
STEPS = 10
"""Gauss-Newton steps."""
MIN_POINTS, MAX_POINTS = 20, 600
"""Fewer points tell no size; of more, these are fitted, evenly drawn."""
MAX_DEVIATION = 0.06
"""Largest logarithm of the lateral scale of an accepted pose.

Of 36 right poses in rendered frames, 7 lie beyond 0.03 and one beyond this; frames of 0.9 and 1.1
do."""


class FrameScale(NamedTuple):
    """The size of a frame over the size of its model, across and along the optical axis."""

    lateral: float
    depth: float
    lateral_sd: float  # standard errors of the logarithms
    depth_sd: float
    share: float = 1.0  # mean weight of the points after the fit, 0 to 1: those on the model

    @property
    def plausible(self) -> bool:
        """Whether frame and model may have one size; true where the points do not tell."""
        return not abs(np.log(self.lateral)) > MAX_DEVIATION


def fit_frame_scale(points: Float[np.ndarray, "n 3"], surface: Surface, pose: Pose) -> FrameScale:
    """Fits pose, lateral scale and depth scale of a registered frame.

    Gauss-Newton on distances to tangent planes (Chen and Medioni, 1992), with Welsch weights. A
    wrong depth scale or model size changes both scales; wrong focal lengths change the lateral one.

    Args:
      points: of the mask, mm, camera frame.
      surface: the model.
      pose: camera from model, as registered.

    Returns:
      the scales; NaN where there are too few points.
    """
    if len(points) < MIN_POINTS:
        return FrameScale(np.nan, np.nan, np.nan, np.nan, np.nan)
    scene = np.asarray(points, np.float64)[:: max(1, len(points) // MAX_POINTS)]
    rotation, translation = (np.asarray(leaf, np.float64) for leaf in pose)
    centre, logs = scene.mean(0), np.zeros(2)
    for _ in range(STEPS):
        lever = (scene - centre) * np.exp(-logs[[0, 0, 1]])
        placed = (lever + centre - translation) @ rotation
        near = near_planes(surface, placed)
        apart = ((placed - near.centres) * near.normals).sum(1)
        across = near.normals @ rotation.T  # camera frame
        stretch = -across * lever
        rows = np.column_stack(
            [np.cross(lever, across), across, stretch[:, :2].sum(1), stretch[:, 2]]
        )
        weight = np.exp(-np.square(apart / KERNEL_MM))
        inverse = np.linalg.inv((rows * weight[:, None]).T @ rows + 1e-6 * np.eye(8))
        step = -inverse @ (rows.T @ (weight * apart))
        # The step moves the scene; so the model takes the opposite motion.
        turn = Rotation.from_rotvec(step[:3]).as_matrix().T
        rotation = turn @ rotation
        translation = centre + turn @ (translation - centre - step[3:6])
        logs = np.clip(logs + step[6:], -0.5, 0.5)
    variance = float((weight * apart**2).sum() / max(weight.sum() - 8.0, 1.0))
    spread = np.sqrt(variance * np.diag(inverse)[6:])
    (lateral, depth), (lateral_sd, depth_sd) = np.exp(logs).tolist(), spread.tolist()
    return FrameScale(lateral, depth, lateral_sd, depth_sd, float(weight.mean()))


def fit_frame_scales(
    predictions: CasePredictions, surface: Surface, points: Float[Array, "p 3"]
) -> dict[str, FrameScale]:
    """Mask name -> the frame's size by the points that the mask keeps.

    Args:
      predictions: of one case, on the host.
      surface: of its model.
      points: of all samples, mm, camera frame.
    """
    with timed("frame scale"):
        return {
            mask: fit_frame_scale(
                np.asarray(points)[np.asarray(weights) > 0.5],
                surface,
                predictions.registrations[mask].pose,
            )
            for mask, weights in predictions.weights.items()
        }
