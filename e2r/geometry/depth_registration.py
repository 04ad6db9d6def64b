"""Depth of one camera as another camera, such as that of the colour, would see it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from e2r.geometry import lens_distortion
from e2r.geometry.lens_distortion import Coordinates, Lens
from e2r.types import Float

JUMP = 0.02
"""Depth step between neighbours, as a share of the depth, from which they are two surfaces."""
SAMPLES_PER_PIXEL = 1.5
"""Samples of a surface along a pixel of the new picture; fewer leave it full of holes."""
REFINEMENTS = 3
"""Iterations that move a depth from a sample near the pixel's centre to the centre."""


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
    nearest surface of a pixel wins. Its depth is then found at the pixel's centre, by projecting
    that point back into the depth picture. Nothing is put between two surfaces.

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
    inverse = np.divide(1.0, depth, out=np.zeros(depth.shape), where=depth > 0)
    ratio = max(color_lens.fx / depth_lens.fx, color_lens.fy / depth_lens.fy)
    pixels, depths, offsets = [], [], []
    for u, v in _positions(depth, max(1, math.ceil(SAMPLES_PER_PIXEL * ratio))):
        points = _deproject(u, v, 1.0 / _interpolate(inverse, u, v), depth_lens)
        moved = points @ color_from_depth[:3, :3].T + color_from_depth[:3, 3]
        columns, rows = _project(moved, color_lens)
        inside = (rows > -0.5) & (rows < height - 0.5)
        inside &= (columns > -0.5) & (columns < width - 0.5)  # NaN compares as False
        rows, columns = rows[inside], columns[inside]
        row, column = np.rint(rows).astype(int), np.rint(columns).astype(int)
        pixels.append(row * width + column)
        depths.append(moved[inside, 2])
        offsets.append((rows - row) ** 2 + (columns - column) ** 2)
    found = _nearest_surface(*map(np.concatenate, (pixels, depths, offsets)), count=height * width)
    found = _fill_pinholes(found.reshape(height, width))
    v, u = np.nonzero(found)
    rays = _deproject(u, v, np.ones(len(u)), color_lens)
    for _ in range(REFINEMENTS):
        z = found[v, u]
        back = (rays * z[:, None] - color_from_depth[:3, 3]) @ color_from_depth[:3, :3]
        near = _interpolate(inverse, *_project(back, depth_lens))
        seen = near > 0
        surface = back[seen] / (near[seen] * back[seen, 2])[:, None]
        better = surface @ color_from_depth[2, :3] + color_from_depth[2, 3]
        z[seen] = np.where(np.abs(better - z[seen]) < JUMP * z[seen], better, z[seen])
        found[v, u] = z
    return found.astype(np.float32)


def _positions(
    depth: Float[np.ndarray, "h w"], parts: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Columns and rows of parts x parts samples of each seen pixel."""
    v, u = np.nonzero(depth > 0)
    steps = (np.arange(parts) + 0.5) / parts - 0.5
    for down in steps:
        for right in steps:
            yield u + right, v + down


def _interpolate(inverse: Float[np.ndarray, "h w"], u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """1 / depth between the pixels; 0 where unseen or beside the picture.

    Among four seen pixels of one surface it is bilinear, which is exact for a plane. Elsewhere a
    pixel's own depth fills its square.
    """
    height, width = inverse.shape
    inside = (u > -0.5) & (u < width - 0.5) & (v > -0.5) & (v < height - 0.5)
    u, v = np.where(inside, u, 0.0), np.where(inside, v, 0.0)
    padded = np.pad(inverse, 1)
    left, top = np.floor(u).astype(int), np.floor(v).astype(int)
    s, t = u - left, v - top
    corners = [padded[top + 1 + i, left + 1 + j] for i in (0, 1) for j in (0, 1)]
    weights = ((1 - s) * (1 - t), s * (1 - t), (1 - s) * t, s * t)
    # A corner without weight may be anything: it lies beside the picture for a pixel of its rim.
    high = np.maximum.reduce(corners)
    low = np.minimum.reduce(
        [np.where(w > 0, c, high) for c, w in zip(corners, weights, strict=True)]
    )
    smooth = (low > 0) & (high - low < JUMP * high)
    mixed = sum(np.where(w > 0, c * w, 0.0) for c, w in zip(corners, weights, strict=True))
    own = inverse[np.rint(v).astype(int), np.rint(u).astype(int)]
    return np.where(inside, np.where(smooth, mixed, own), 0.0)


def _deproject(u: np.ndarray, v: np.ndarray, z: np.ndarray, lens: Lens) -> np.ndarray:
    """Points (N, 3) of pixels at a depth."""
    x, y = (u - lens.cx) / lens.fx, (v - lens.cy) / lens.fy
    if lens.bends:
        x, y = lens_distortion.undistort(x, y, lens.distortion, model=lens.model)
    return np.stack([x * z, y * z, z], 1)


def _project(points: np.ndarray, lens: Lens) -> Coordinates:
    """Columns and rows of points; NaN where they lie behind the camera."""
    z = np.where(points[:, 2] > 0, points[:, 2], np.nan)
    x, y = points[:, 0] / z, points[:, 1] / z
    if lens.bends:
        x, y = lens_distortion.distort(x, y, lens.distortion, model=lens.model)
    return x * lens.fx + lens.cx, y * lens.fy + lens.cy


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
    """Fills pixels between opposite neighbours of one surface.

    A pixel is filled that is unseen between three of the four pairs, so a gap one pixel wide; or
    that shows what lies behind the surface on all sides.
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
    return np.where(behind | ((depth == 0) & (pairs >= 3)), filled, depth)
