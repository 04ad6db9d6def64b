"""Depth of one camera as another camera, such as that of the colour, would see it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from e2r.geometry import lens_distortion
from e2r.geometry.lens_distortion import Lens
from e2r.types import Float

JUMP = 0.02
"""Depth step between neighbours, as a share of the depth, from which they are two surfaces."""
SAMPLES_PER_PIXEL = 1.5
"""Samples of a surface along a pixel of the new picture; fewer leave it full of holes."""


def register_depth(
    depth: Float[np.ndarray, "h w"],
    color_from_depth: Float[np.ndarray, "4 4"],
    *,
    depth_lens: Lens,
    color_lens: Lens,
    size: tuple[int, int],
) -> Float[np.ndarray, "height width"]:
    """Moves a depth picture to the colour camera.

    Each surface is sampled between its pixels, undistorted, moved, projected and distorted. The
    nearest surface of a pixel wins, by its sample closest to the pixel's centre. Nothing is put
    between two surfaces.

    Args:
      depth: mm along the optical axis of the depth camera, 0 where unseen.
      color_from_depth: rigid motion from the depth camera's frame to the colour camera's, mm.
      depth_lens: of the depth picture.
      color_lens: of the result, whose distortion is applied.
      size: width and height of the result, pixels.

    Returns:
      mm along the optical axis of the colour camera, 0 where unseen.
    """
    width, height = size
    ratio = max(color_lens.fx / depth_lens.fx, color_lens.fy / depth_lens.fy)
    parts = max(1, math.ceil(SAMPLES_PER_PIXEL * ratio))
    pixels, depths, offsets = [], [], []
    for u, v, z in _samples(depth, parts):
        x, y = lens_distortion.undistort(
            (u - depth_lens.cx) / depth_lens.fx,
            (v - depth_lens.cy) / depth_lens.fy,
            depth_lens.distortion,
        )
        moved = np.stack([x * z, y * z, z], 1) @ color_from_depth[:3, :3].T
        moved = moved + color_from_depth[:3, 3]
        ahead = moved[:, 2] > 0
        near = np.where(ahead, moved[:, 2], 1.0)
        x, y = lens_distortion.distort(
            moved[:, 0] / near, moved[:, 1] / near, color_lens.distortion
        )
        columns, rows = x * color_lens.fx + color_lens.cx, y * color_lens.fy + color_lens.cy
        inside = ahead & (rows > -0.5) & (rows < height - 0.5)
        inside &= (columns > -0.5) & (columns < width - 0.5)  # NaN compares as False
        rows, columns, near = rows[inside], columns[inside], near[inside]
        row, column = np.rint(rows).astype(int), np.rint(columns).astype(int)
        pixels.append(row * width + column)
        depths.append(near)
        offsets.append((rows - row) ** 2 + (columns - column) ** 2)
    found = _nearest_surface(
        np.concatenate(pixels),
        np.concatenate(depths),
        np.concatenate(offsets),
        count=height * width,
    )
    return _fill_pinholes(found.reshape(height, width)).astype(np.float32)


def _samples(
    depth: Float[np.ndarray, "h w"], parts: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Columns, rows and depths of parts x parts samples of each seen pixel.

    Between four seen pixels of one surface, 1 / depth is bilinear, which is exact for a plane.
    Elsewhere a pixel's own depth fills its square.
    """
    v, u = np.nonzero(depth > 0)
    inverse = np.zeros(depth.shape)
    inverse[v, u] = 1.0 / depth[v, u]
    padded = np.pad(inverse, 1)
    steps = (np.arange(parts) + 0.5) / parts - 0.5
    for b in steps:
        for a in steps:
            corners = np.stack(
                [
                    padded[v + 1 + down, u + 1 + right]
                    for down in (0, int(np.sign(b)))
                    for right in (0, int(np.sign(a)))
                ]
            )
            low, high = corners.min(0), corners.max(0)
            smooth = (low > 0) & (high - low < JUMP * high)
            s, t = abs(a), abs(b)
            weights = np.array([(1 - s) * (1 - t), s * (1 - t), (1 - s) * t, s * t])
            yield u + a, v + b, 1.0 / np.where(smooth, weights @ corners, corners[0])


def _nearest_surface(
    pixels: np.ndarray, depths: np.ndarray, offsets: np.ndarray, *, count: int
) -> Float[np.ndarray, "count"]:
    """The depth of each pixel: of the nearest surface, its sample closest to the centre."""
    nearest = np.full(count, np.inf)
    np.minimum.at(nearest, pixels, depths)
    front = depths <= nearest[pixels] * (1 + JUMP)
    pixels, depths, offsets = pixels[front], depths[front], offsets[front]
    closest = np.full(count, np.inf)
    np.minimum.at(closest, pixels, offsets)
    chosen = offsets == closest[pixels]
    result = np.zeros(count)
    result[pixels[chosen]] = depths[chosen]
    return result


def _fill_pinholes(depth: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Fills a pixel between two opposite neighbours of one surface.

    A pixel is filled that is unseen, or that shows what lies behind the surface on all sides.
    """
    padded = np.pad(depth, 1)
    height, width = depth.shape

    def shifted(down: int, right: int) -> np.ndarray:
        return padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]

    total, pairs = np.zeros(depth.shape), np.zeros(depth.shape)
    behind = depth > 0
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        a, b = shifted(down, right), shifted(-down, -right)
        agree = (a > 0) & (b > 0) & (np.abs(a - b) < JUMP * np.minimum(a, b))
        middle = np.where(agree, (a + b) / 2, 0.0)
        total, pairs = total + middle, pairs + agree
        behind &= agree & (depth > (1 + JUMP) * middle)
    filled = total / np.maximum(pairs, 1)
    return np.where(behind | ((depth == 0) & (pairs > 0)), filled, depth)
