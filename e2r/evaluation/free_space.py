"""Whether a posed model agrees with what the camera saw: nothing may stick out before it.

The camera looked through free space until the first surface. A model that reaches into that space
is not where its pose says, however well its other parts fit.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from e2r.geometry import poses
from e2r.types import Cloud, Float, Pose, Surface

MARGIN_MM = 4.0
"""A sample this much nearer to the camera than the scene sticks out; one within it lies on it."""
REACH_MM = 4.0
"""Farthest scene point from a sample's ray that tells the depth there."""
NEIGHBOURS = 3
"""Scene points about a sample's ray that must lie behind it all: an outline has one of two."""
MAX_SAMPLES = 1500
"""So many samples of the model are looked at, about."""
HELD_SAMPLES = 20.0
"""Samples on the scene that are counted beside the model's own, so that a few do not decide."""


def sticking_out(cloud: Cloud, surface: Surface, several: Pose) -> Float[np.ndarray, "k"]:
    """The share of each posed model that sticks out before the scene.

    Of the samples that face the camera, those before the scene or on it count.

    Args:
      cloud: the scene points that were registered, mm, camera frame.
      surface: the model.
      several: camera from model, leading axis K.
    """
    points = np.asarray(cloud.points, np.float64)
    points = points[np.asarray(cloud.valid) & (points[:, 2] > 0)]
    count = len(several.translation)
    if not len(points):
        return np.zeros(count)
    rays = cKDTree(points[:, :2] / points[:, 2:])
    stride = max(1, len(surface.points) // MAX_SAMPLES)
    samples = np.asarray(surface.points, np.float64)[::stride]
    normals = np.asarray(surface.normals, np.float64)[::stride]
    shares = []
    for k in range(count):
        pose = Pose(np.asarray(several.rotation)[k], np.asarray(several.translation)[k])
        placed, outward = poses.apply_host(pose, samples), normals @ pose.rotation.T
        facing = placed[(placed[:, 2] > 0) & ((placed * outward).sum(1) < 0)]
        before = _depth_before(facing, points, rays)
        out, on = (before > MARGIN_MM).sum(), (np.abs(before) <= MARGIN_MM).sum()
        shares.append(out / (out + on + HELD_SAMPLES))
    return np.array(shares, np.float64)


def _depth_before(samples: np.ndarray, points: np.ndarray, rays: cKDTree) -> np.ndarray:
    """How far samples lie before the scene, mm, where its depth is known; negative: behind it."""
    count = min(NEIGHBOURS, len(points))
    apart, nearest = rays.query(samples[:, :2] / samples[:, 2:], k=[*range(1, count + 1)])
    known = apart * samples[:, 2:] < REACH_MM
    before = np.where(known, points[nearest, 2] - samples[:, 2:], np.inf).min(1)
    depths: np.ndarray = before[known[:, 0]]
    return depths
