"""Makes a :class:`~e2r.types.Cloud` and its :class:`~e2r.types.Pyramid`, on the host.

The points of a cloud are in random order, so every prefix is an even subsample. The network's
coarser levels are such prefixes: they have static shapes, and need no search on the device.
"""

from __future__ import annotations

import jax
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from e2r.types import Cloud, Float, Int, Pyramid

NORMAL_NEIGHBOURS = 16
"""Nearest points that a normal is fitted to."""
WINDOW_PIXELS = 7
"""Width of the pixel window that an organised cloud's normal is fitted in."""
EDGE_JUMP_MM = 15.0
"""Depth range in that window from which it spans an edge."""


def back_project(
    depth: Float[np.ndarray, "h w"], *, fx: float, fy: float, cx: float, cy: float
) -> tuple[Float[np.ndarray, "n 3"], Int[np.ndarray, "n"]]:
    """Back-projects the pixels that have a depth.

    Args:
      depth: mm, 0 where unseen. Integer pixel (u, v) is the pixel's centre.
      fx: focal length along the rows, pixels.
      fy: focal length along the columns, pixels.
      cx: column of the principal point, pixels.
      cy: row of the principal point, pixels.

    Returns:
      Points in mm, camera frame, and the flat index of each point's pixel.
    """
    v, u = np.nonzero(depth > 0)
    z = depth[v, u].astype(np.float64)
    points = np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z], axis=1)
    return points, v * depth.shape[1] + u


def make_cloud(
    points: Float[np.ndarray, "p 3"],
    colors: Float[np.ndarray, "p 3"],
    normals: Float[np.ndarray, "p 3"],
    *,
    count: int,
) -> Cloud:
    """A cloud of points in random order, padded to a static size.

    Args:
      points: mm, camera frame, finite; at most ``count``.
      colors: 0 to 1.
      normals: unit, towards the camera.
      count: static size of the cloud.
    """
    size = len(points)

    def padded(rows: np.ndarray) -> np.ndarray:
        out = np.zeros((count, 3), np.float32)
        out[:size] = rows
        if size:
            out[size:] = out[0]
        return out

    valid = np.arange(count) < size
    return Cloud(padded(points), padded(colors), padded(normals), valid)


def estimate_normals(
    points: Float[np.ndarray, "m 3"], queries: Float[np.ndarray, "q 3"]
) -> Float[np.ndarray, "q 3"]:
    """Unit normals towards the camera, by principal components of the nearest points.

    Args:
      points: mm, camera frame.
      queries: points at which the normals are estimated, mm, camera frame.
    """
    k = min(NORMAL_NEIGHBOURS, len(points))
    _, index = cKDTree(points).query(queries, k=k, workers=-1)
    near = points[np.reshape(index, (len(queries), k))]
    near = near - near.mean(axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(np.einsum("qki,qkj->qij", near, near))
    normals = vectors[:, :, 0]
    away = np.sum(normals * queries, axis=1, keepdims=True) > 0
    return np.where(away, -normals, normals)


def organised_normals(grid: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
    """Unit normals towards the camera, of an organised cloud: one point a pixel.

    A plane is fitted to each pixel's window by its moments. Where the window spans an edge or is
    nearly empty, it is fitted to the nearest points in space, as in :func:`estimate_normals`.

    Args:
      grid: mm, camera frame; NaN where unseen, where the normals are NaN as well.
    """
    seen = np.isfinite(grid).all(-1)
    middle = grid[seen].mean(0)
    p = np.where(seen[..., None], grid - middle, 0.0)

    def mean(values: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(values, (WINDOW_PIXELS, WINDOW_PIXELS), mode="constant")

    count = mean(seen.astype(np.float64))
    share = np.maximum(count, 1e-9)
    first = np.stack([mean(p[..., i]) / share for i in range(3)], -1)
    second = np.zeros((*seen.shape, 3, 3))
    for i in range(3):
        for j in range(i, 3):
            moment = mean(p[..., i] * p[..., j]) / share - first[..., i] * first[..., j]
            second[..., i, j] = second[..., j, i] = moment
    z = grid[..., 2]
    high = ndimage.maximum_filter(np.where(seen, z, -np.inf), WINDOW_PIXELS)
    low = ndimage.minimum_filter(np.where(seen, z, np.inf), WINDOW_PIXELS)
    normals = np.full(grid.shape, np.nan)
    flat = seen & (high - low < EDGE_JUMP_MM) & (count > 0.3)
    normals[flat] = np.linalg.eigh(second[flat])[1][:, :, 0]
    rest = seen & ~flat
    if rest.any():
        normals[rest] = estimate_normals(grid[seen], grid[rest])
    away = (normals * grid).sum(-1, keepdims=True) > 0
    return np.where(away, -normals, normals)


def build_pyramid(cloud: Cloud, *, levels: int, neighbours: int) -> Pyramid:
    """Neighbour indices of the cloud and of its prefixes, each a quarter of the one before.

    Args:
      cloud: valid points first; their number is a multiple of 4^(levels - 1), padding included.
      levels: number of prefixes, the whole cloud included.
      neighbours: number of neighbours of each point.
    """
    size = len(cloud.points)
    sizes = [size // 4**level for level in range(levels)]
    counts = [max(1, min(n, int(cloud.valid.sum()))) for n in sizes]
    points = np.asarray(cloud.points, np.float64)
    trees = [cKDTree(points[:count]) for count in counts]

    def search(level: int, queries: int, k: int) -> np.ndarray:
        found = min(k, counts[level])
        _, index = trees[level].query(points[:queries], k=found)
        index = np.reshape(index, (queries, found))
        return np.pad(index, ((0, 0), (0, k - found)), mode="edge").astype(np.int32)

    within = tuple(search(i, sizes[i], neighbours) for i in range(levels))
    return Pyramid(
        within=within,
        down=tuple(within[i][: sizes[i + 1]] for i in range(levels - 1)),  # a prefix's points
        up=tuple(search(i + 1, sizes[i], 3) for i in range(levels - 1)),
    )


def flatten_samples(cloud: Cloud) -> Cloud:
    """Joins all samples of a scene (leading axis V) to one cloud of V * N points."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), cloud)
