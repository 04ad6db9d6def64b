"""The mask overlay: the mask in red over the colour image of a case."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

from e2r.datasets.case import Case
from e2r.types import Array, Float, Int
from e2r.visualisation.colors import MASK_RGB


def mask_overlay(
    case: Case, weights: Float[Array, "n"], rows: Int[Array, "n"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Tints the colour image red where the mask keeps points.

    The network samples only some pixels. Any other pixel takes the weight of the nearest sampled
    one, unless that is farther than sampled pixels are from each other.

    Args:
      case: a case with an RGB-D image.
      weights: mask weights, 0 to 1.
      rows: the row of each point in the case's points, -1 where padded.

    Raises:
      ValueError: the case has no image.
    """
    if case.image is None:
        raise ValueError(
            f"{case.id}: is a cloud and has no image; draw it with figures.scene_figure"
        )
    color, depth = case.image.color, case.image.depth
    rows, weights = np.asarray(rows), np.asarray(weights, np.float64)
    pixels = np.flatnonzero(depth.ravel() > 0)[rows[rows >= 0]]
    if not len(pixels):
        return color.copy()
    sampled = np.zeros(depth.size)
    sampled[pixels] = weights[rows >= 0]
    free = np.ones(depth.size, bool)
    free[pixels] = False
    distance, nearest = ndimage.distance_transform_edt(
        free.reshape(depth.shape), return_indices=True
    )
    extent = np.ptp(np.stack(np.unravel_index(pixels, depth.shape)), axis=1) + 1.0
    spacing = max(1.0, float(np.sqrt(np.prod(extent) / len(pixels))))  # in pixels
    weight = sampled.reshape(depth.shape)[tuple(nearest)]
    alpha = 0.65 * np.where((distance <= spacing) & (depth > 0), weight, 0.0)[..., None]
    mixed: np.ndarray = (1.0 - alpha) * color + alpha * np.asarray(MASK_RGB, np.float64)
    return mixed.round().astype(np.uint8)
