"""Lenses that bend: where a real camera puts a ray, and pictures without that."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

COEFFICIENTS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")


class Lens(NamedTuple):
    """Intrinsics in pixels, Brown-Conrady or rational distortion, and steps of depth a mm."""

    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = (0.0,) * 8  # in the order of COEFFICIENTS
    depth_scale: float = 1.0
    size: tuple[int, int] | None = None  # width and height, where the file says them


def distort(x: np.ndarray, y: np.ndarray, distortion: tuple[float, ...]) -> tuple[Any, Any]:
    """Where a lens puts the ray (x, y, 1): Brown-Conrady, rational where k4 to k6 are not 0.

    The model of OpenCV and of Azure Kinect. What it turns inside out comes as NaN.

    Args:
      x, y: any shape, on the plane z = 1.
      distortion: in the order of :data:`COEFFICIENTS`.
    """
    k1, k2, p1, p2, k3, k4, k5, k6 = distortion
    r = x * x + y * y
    below = 1.0 + r * (k4 + r * (k5 + r * k6))
    radial = (1.0 + r * (k1 + r * (k2 + r * k3))) / np.where(below > 0, below, np.nan)
    radial = np.where(radial > 0, radial, np.nan)
    cross = 2.0 * x * y
    return (
        x * radial + p1 * cross + p2 * (r + 2.0 * x * x),
        y * radial + p1 * (r + 2.0 * y * y) + p2 * cross,
    )


def undistort(
    x: np.ndarray, y: np.ndarray, distortion: tuple[float, ...], *, rounds: int = 30
) -> tuple[Any, Any]:
    """The inverse of :func:`distort`, by fixed-point iteration."""
    a, b = x, y
    for _ in range(rounds):
        u, v = distort(a, b, distortion)
        a, b = a + (x - u), b + (y - v)
    return a, b


def remap(color: np.ndarray, depth: np.ndarray, lens: Lens, where: Any) -> tuple[Any, Any]:
    """The pictures whose pixel (u, v) is taken from where a function puts its ray.

    Colours are interpolated; a depth is that of the nearest pixel, never a mean of two surfaces.

    Args:
      color: (H, W, 3) uint8.
      depth: (H, W) mm along the optical axis, 0 where unseen.
      lens: of both.
      where: :func:`distort` takes the distortion out, :func:`undistort` puts it in.
    """
    v, u = np.mgrid[: depth.shape[0], : depth.shape[1]]
    x, y = where((u - lens.cx) / lens.fx, (v - lens.cy) / lens.fy, lens.distortion)
    rows, columns = y * lens.fy + lens.cy, x * lens.fx + lens.cx
    inside = (rows > -0.5) & (rows < depth.shape[0] - 0.5)
    inside &= (columns > -0.5) & (columns < depth.shape[1] - 0.5)  # NaN compares as False
    rows, columns = np.where(inside, rows, 0.0), np.where(inside, columns, 0.0)
    near = depth[np.rint(rows).astype(int), np.rint(columns).astype(int)]
    channels = [
        ndimage.map_coordinates(
            color[..., i].astype(np.float32), (rows, columns), order=1, mode="nearest"
        )
        for i in range(3)
    ]
    moved = np.where(inside[..., None], np.rint(np.stack(channels, -1)), 0).astype(np.uint8)
    return moved, np.where(inside, near, 0).astype(np.float32)
