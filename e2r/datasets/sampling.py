"""Samples of a case's scene points, as the networks take them; on the host."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from e2r.datasets.case import Case
from e2r.geometry import point_clouds
from e2r.networks.build import NetworkConfig
from e2r.types import Cloud, Float, Int, Pyramid

POOL_FACTOR = 6
"""Size of the pool that normals are estimated in, in samples: the same density for any image."""


class SampledScene(NamedTuple):
    """Disjoint random samples of a scene: S samples of N points each."""

    cloud: Cloud  # leading axis S
    pyramid: Pyramid  # leading axis S
    rows: Int[np.ndarray, "s n"]  # each point's row in the case; -1 where padded


def sample_scene_points(
    case: Case,
    settings: NetworkConfig,
    *,
    seed: int,
    num_samples: int = 1,
    within: Int[np.ndarray, "w"] | None = None,
) -> SampledScene:
    """Draws samples of a case's scene points, and finds each point's neighbours.

    The networks work near the density they were trained at. So a dense scene fills more samples,
    not larger ones. A sparse scene fills as many samples as its points suggest; the others are
    empty.

    Args:
      case: only its scene is used.
      settings: the sizes of the networks.
      seed: of the draw.
      num_samples: S.
      within: rows of the case to draw from; all by default.
    """
    rows_within = np.arange(len(case.points)) if within is None else within
    filled = int(np.clip(round(len(rows_within) / settings.points), 1, num_samples))
    pool = np.random.default_rng(seed).permutation(rows_within)[: POOL_FACTOR * settings.points]
    order = pool[: filled * settings.points]
    points, colors = case.points[order], case.colors[order]
    if case.normals is None:
        normals = point_clouds.estimate_normals(case.points[pool], points)
    else:
        normals = case.normals[order]
    clouds, pyramids = [], []
    rows = np.full((num_samples, settings.points), -1)
    for sample in range(num_samples):
        pick = slice(sample, None, filled) if sample < filled else slice(0)
        rows[sample, : len(order[pick])] = order[pick]
        cloud = point_clouds.make_cloud(
            points[pick], colors[pick], normals[pick], count=settings.points
        )
        clouds.append(cloud)
        pyramids.append(
            point_clouds.build_pyramid(
                cloud, levels=len(settings.widths), neighbours=settings.neighbours
            )
        )
    cloud = jax.tree.map(lambda *leaves: np.stack(leaves), *clouds)
    pyramid = jax.tree.map(lambda *leaves: np.stack(leaves), *pyramids)
    return SampledScene(cloud, pyramid, rows)


def oracle_weights(case: Case, rows: Int[np.ndarray, "s n"]) -> Float[np.ndarray, "s n"]:
    """The oracle mask: 1 on true bone, 0 elsewhere. For comparison only; no training uses it.

    Args:
      case: a simulated case.
      rows: each point's row in the case; -1 where padded.

    Raises:
      ValueError: the case does not know its bone.
    """
    if case.bone is None:
        raise ValueError(f"{case.id}: the oracle mask needs bone.png, which only simulation knows")
    return np.where(rows >= 0, case.bone[rows], False).astype(np.float32)
