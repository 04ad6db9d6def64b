"""Samples a case's scene points for the network, on the host."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from e2r.datasets.case import Case
from e2r.geometry import point_clouds
from e2r.networks.build import NetworkConfig
from e2r.types import Cloud, Pyramid

NORMAL_DENSITY = 6
"""Normals are estimated among so many times the network's points, whatever the picture's size."""


class SampledScene(NamedTuple):
    """A scene as the network sees it: V disjoint random views of N points each."""

    cloud: Cloud  # leading axis V
    pyramid: Pyramid  # leading axis V
    rows: np.ndarray  # (V, N) row of each point in the case, -1 where padded


def sample_scene_points(
    case: Case,
    settings: NetworkConfig,
    *,
    seed: int,
    num_samples: int = 1,
    within: np.ndarray | None = None,
) -> SampledScene:
    """Samples a case's scene on the host, and finds the neighbours.

    The network works near the density it was trained at: more points come as more views, each seen
    on its own, and the registration uses all of them. A scene of fewer points than ``views`` need
    fills as many views as come nearest to N points each; the others stay empty.

    Args:
      case: its scene is used, nothing else.
      settings: sizes.
      seed: draws the sample.
      views: V.
      within: rows of the scene to look at, all without it.
    """
    inside = np.arange(len(case.points)) if within is None else within
    used = int(np.clip(round(len(inside) / settings.points), 1, num_samples))
    pool = np.random.default_rng(seed).permutation(inside)[: NORMAL_DENSITY * settings.points]
    points, colors = case.points[pool], case.colors[pool]
    normals = None if case.normals is None else case.normals[pool]
    order = np.arange(min(len(pool), used * settings.points))
    clouds_, pyramids = [], []
    rows = np.full((num_samples, settings.points), -1)
    for view in range(num_samples):
        pick = order[view::used] if view < used else order[:0]
        rows[view, : len(pick)] = pool[pick]
        cloud = point_clouds.make_cloud(points, colors, normals, pick=pick, count=settings.points)
        clouds_.append(cloud)
        pyramids.append(
            point_clouds.build_pyramid(
                cloud, levels=len(settings.widths), neighbours=settings.neighbours
            )
        )
    cloud = jax.tree.map(lambda *leaves: np.stack(leaves), *clouds_)
    pyramid = jax.tree.map(lambda *leaves: np.stack(leaves), *pyramids)
    return SampledScene(cloud, pyramid, rows)


def oracle_weights(case: Case, rows: np.ndarray) -> np.ndarray:
    """The mask that nobody has, (V, N): one on true bone. For comparison; no training uses it.

    Raises:
      ValueError: the case does not know its bone.
    """
    if case.bone is None:
        raise ValueError(f"{case.id}: the oracle mask needs bone.png, which only simulation knows")
    return np.where(rows >= 0, case.bone[rows], False).astype(np.float32)
