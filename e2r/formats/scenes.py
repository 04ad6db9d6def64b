"""A scene as a camera or a file gives it: a cloud, or an RGB-D image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from e2r.types import Float


class ScenePoints(NamedTuple):
    """A cloud as a camera or a file gives it."""

    points: Float[np.ndarray, "m 3"]  # mm, camera frame
    colors: Float[np.ndarray, "m 3"]  # 0 to 1
    normals: Float[np.ndarray, "m 3"] | None = None  # unit, towards the camera


class RgbdImage(NamedTuple):
    """An RGB-D image without lens distortion. Integer pixel (u, v) is the pixel's centre."""

    color: UInt8[np.ndarray, "h w 3"]
    depth: Float[np.ndarray, "h w"]  # mm along the optical axis, 0 where unseen
    fx: float  # pixels
    fy: float
    cx: float
    cy: float
