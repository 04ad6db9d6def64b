"""From a picture or a list of points to a :class:`~e2r.types.Cloud`, on the host, and its pyramid.

The points of a cloud are in random order, so that every prefix is an even subsample: that is how
the network's coarser levels are made, with static shapes and no search on the device.
"""

from __future__ import annotations

import jax
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from e2r.types import Cloud, Pyramid

NORMAL_NEIGHBOURS = 16
WINDOW, JUMP = 7, 15.0
"""Pixels of the window that an organised cloud's normal is fitted in, and mm of depth in it from
which it spans an edge."""


def back_project(
    depth: np.ndarray, fx: float, fy: float, cx: float, cy: float
) -> tuple[np.ndarray, np.ndarray]:
    """Camera points (N, 3) mm of the pixels that have a depth, and their flat indices (N,).

    Args:
      depth: (H, W) mm, 0 where unseen. Integer pixel (u, v) is the pixel's centre.
      fx, fy, cx, cy: pinhole intrinsics, pixels.
    """
    v, u = np.nonzero(depth > 0)
    z = depth[v, u].astype(np.float64)
    points = np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z], axis=1)
    return points, v * depth.shape[1] + u


def make_cloud(
    points: np.ndarray,
    colors: np.ndarray,
    normals: np.ndarray | None = None,
    *,
    pick: np.ndarray,
    count: int,
) -> Cloud:
    """The cloud of the picked points, padded to a static size.

    Args:
      points: (M, 3) mm, camera frame, finite.
      colors: (M, 3) in [0, 1].
      normals: (M, 3), or None: then estimated from all neighbours, towards the camera.
      pick: (P,) rows to take, in random order, at most ``count``.
      count: static size N of the cloud.
    """
    size = len(pick)
    chosen = estimate_normals(points, points[pick]) if normals is None else normals[pick]

    def padded(rows: np.ndarray) -> np.ndarray:
        out = np.zeros((count, 3), np.float32)
        out[:size] = rows
        if size:
            out[size:] = out[0]
        return out

    valid = np.arange(count) < size
    return Cloud(padded(points[pick]), padded(colors[pick]), padded(chosen), valid)


def estimate_normals(points: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Unit normals (Q, 3) by principal components of the nearest points, facing the origin."""
    k = min(NORMAL_NEIGHBOURS, len(points))
    _, index = cKDTree(points).query(queries, k=k, workers=-1)
    near = points[np.reshape(index, (len(queries), k))]
    near = near - near.mean(axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(np.einsum("qki,qkj->qij", near, near))
    normals = vectors[:, :, 0]
    away = np.sum(normals * queries, axis=1, keepdims=True) > 0
    return np.where(away, -normals, normals)


def organised_normals(grid: np.ndarray) -> np.ndarray:
    """Unit normals (H, W, 3), towards the camera, of a cloud whose rows are a camera's pixels.

    A plane through each pixel's window, by its moments; where the window spans an edge or is nearly
    empty, through the nearest points in space (:func:`estimate_normals`).

    Args:
      grid: (H, W, 3) mm, NaN where unseen; so are the normals there.
    """
    seen = np.isfinite(grid).all(-1)
    middle = grid[seen].mean(0)
    p = np.where(seen[..., None], grid - middle, 0.0)

    def mean(values: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(values, (WINDOW, WINDOW), mode="constant")

    count = mean(seen.astype(np.float64))
    share = np.maximum(count, 1e-9)
    first = np.stack([mean(p[..., i]) / share for i in range(3)], -1)
    second = np.zeros((*seen.shape, 3, 3))
    for i in range(3):
        for j in range(i, 3):
            moment = mean(p[..., i] * p[..., j]) / share - first[..., i] * first[..., j]
            second[..., i, j] = second[..., j, i] = moment
    z = grid[..., 2]
    high = ndimage.maximum_filter(np.where(seen, z, -np.inf), WINDOW)
    low = ndimage.minimum_filter(np.where(seen, z, np.inf), WINDOW)
    normals = np.full(grid.shape, np.nan)
    flat = seen & (high - low < JUMP) & (count > 0.3)
    normals[flat] = np.linalg.eigh(second[flat])[1][:, :, 0]
    rest = seen & ~flat
    if rest.any():
        normals[rest] = estimate_normals(grid[seen], grid[rest])
    away = (normals * grid).sum(-1, keepdims=True) > 0
    return np.where(away, -normals, normals)


def build_pyramid(cloud: Cloud, *, levels: int, neighbours: int) -> Pyramid:
    """Neighbour indices of the cloud and of its prefixes, each a quarter of the one before.

    Args:
      cloud: N points, valid ones first.
      levels: number of levels; N is a multiple of 4^(levels - 1).
      neighbours: k.
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

    return Pyramid(
        within=tuple(search(i, sizes[i], neighbours) for i in range(levels)),
        down=tuple(search(i, sizes[i + 1], neighbours) for i in range(levels - 1)),
        up=tuple(search(i + 1, sizes[i], 3) for i in range(levels - 1)),
    )


def flatten_samples(cloud: Cloud) -> Cloud:
    """The points of all views in one cloud (V * N), view by view."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), cloud)
