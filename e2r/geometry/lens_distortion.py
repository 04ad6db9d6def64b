"""Lens distortion: where a real lens projects a ray, and images without that distortion."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy import ndimage

from e2r.types import Float, Shaped

COEFFICIENTS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
"""Names of the distortion coefficients, in OpenCV's order."""

Coordinates: TypeAlias = tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]
"""x and y of points on the plane z = 1."""
RayMap: TypeAlias = Callable[
    [Float[np.ndarray, "..."], Float[np.ndarray, "..."], tuple[float, ...]], Coordinates
]
"""(x, y, distortion coefficients) -> another x and y: :func:`distort` or :func:`undistort`."""


class Lens(NamedTuple):
    """Intrinsics and distortion of one camera."""

    fx: float  # pixels
    fy: float  # pixels
    cx: float  # pixels; integer pixel (u, v) is the pixel's centre
    cy: float  # pixels
    distortion: tuple[float, ...] = (0.0,) * 8  # in the order of COEFFICIENTS; missing ones are 0
    depth_scale: float = 1.0  # stored depth units per mm
    size: tuple[int, int] | None = None  # width and height in pixels, if the file names them


def distort(
    x: Float[np.ndarray, "..."], y: Float[np.ndarray, "..."], distortion: tuple[float, ...]
) -> Coordinates:
    """Applies lens distortion to the ray (x, y, 1): Brown-Conrady, or rational with k4 to k6.

    This is the model of OpenCV and of Azure Kinect. The result is NaN where the model folds the
    image over itself.

    Args:
      x: on the plane z = 1, any shape.
      y: on the plane z = 1, the same shape.
      distortion: coefficients in the order of :data:`COEFFICIENTS`; missing ones are 0.
    """
    missing = len(COEFFICIENTS) - len(distortion)
    k1, k2, p1, p2, k3, k4, k5, k6 = (*distortion, *(0.0,) * missing)
    square = x * x + y * y
    denominator = 1.0 + square * (k4 + square * (k5 + square * k6))
    radial = (1.0 + square * (k1 + square * (k2 + square * k3))) / np.where(
        denominator > 0, denominator, np.nan
    )
    radial = np.where(radial > 0, radial, np.nan)
    cross = 2.0 * x * y
    return (
        np.asarray(x * radial + p1 * cross + p2 * (square + 2.0 * x * x)),
        np.asarray(y * radial + p1 * (square + 2.0 * y * y) + p2 * cross),
    )


def undistort(
    x: Float[np.ndarray, "..."],
    y: Float[np.ndarray, "..."],
    distortion: tuple[float, ...],
    *,
    iterations: int = 30,
) -> Coordinates:
    """The inverse of :func:`distort`, by fixed-point iteration.

    Args:
      x: distorted, on the plane z = 1, any shape.
      y: distorted, on the plane z = 1, the same shape.
      distortion: as for :func:`distort`.
      iterations: of the fixed-point iteration.
    """
    ray_x, ray_y = x, y
    for _ in range(iterations):
        u, v = distort(ray_x, ray_y, distortion)
        ray_x, ray_y = ray_x + (x - u), ray_y + (y - v)
    return ray_x, ray_y


def remap(
    color: Shaped[np.ndarray, "h w 3"],
    depth: Shaped[np.ndarray, "h w"],
    lens: Lens,
    *,
    ray_map: RayMap,
) -> tuple[Shaped[np.ndarray, "h w 3"], Shaped[np.ndarray, "h w"]]:
    """Resamples an RGB-D image: each new pixel is read where ``ray_map`` sends its ray.

    Colours are interpolated. A depth is that of the nearest pixel, never a mean of two surfaces.

    Args:
      color: uint8.
      depth: mm along the optical axis, 0 where unseen.
      lens: of both images.
      ray_map: :func:`distort` removes the distortion, :func:`undistort` adds it.

    Returns:
      Colour (uint8) and depth (float32, mm); both are 0 where the ray leaves the given image.
    """
    v, u = np.mgrid[: depth.shape[0], : depth.shape[1]]
    x, y = ray_map((u - lens.cx) / lens.fx, (v - lens.cy) / lens.fy, lens.distortion)
    rows, columns = y * lens.fy + lens.cy, x * lens.fx + lens.cx
    inside = (rows > -0.5) & (rows < depth.shape[0] - 0.5)
    inside &= (columns > -0.5) & (columns < depth.shape[1] - 0.5)  # NaN compares as False
    rows, columns = np.where(inside, rows, 0.0), np.where(inside, columns, 0.0)
    nearest = depth[np.rint(rows).astype(int), np.rint(columns).astype(int)]
    channels = [
        ndimage.map_coordinates(
            color[..., i].astype(np.float32), (rows, columns), order=1, mode="nearest"
        )
        for i in range(3)
    ]
    colors = np.where(inside[..., None], np.rint(np.stack(channels, -1)), 0).astype(np.uint8)
    return colors, np.where(inside, nearest, 0).astype(np.float32)
