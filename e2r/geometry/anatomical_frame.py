"""The canonical frame of a preoperative model, estimated from its surfaces alone, on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import igl
import numpy as np
import trimesh

from e2r.types import Pose

LEVEL_ORDER = (
    *(f"C{i}" for i in range(1, 8)),
    *(f"T{i}" for i in range(1, 14)),
    *(f"L{i}" for i in range(1, 7)),
    "S1",
)
"""Level names from head to tail."""
GRID_NODES = 16_000
"""Grid nodes around a level; those inside its surface represent its volume."""
MAX_ELONGATION = 1.3
"""A body whose length over width exceeds this holds more than one level."""
LEVEL_HEIGHT_MM = 36.0
"""About the height of a lumbar vertebra and its disc."""


def sort_levels(names: Sequence[str]) -> list[str]:
    """Level names from head to tail. Unknown names keep their order, at the end."""
    rank = {name: i for i, name in enumerate(LEVEL_ORDER)}
    return sorted(names, key=lambda name: rank.get(name.upper(), len(rank)))


def estimate_frame(meshes: Mapping[str, trimesh.Trimesh]) -> Pose:
    """The pose canonical from model: x to the patient's left, y posterior, z cranial, in mm.

    - The deciding levels are the lumbar ones if there are two, else all known levels, else all.
    - Cranial runs along the centres of these levels, from tail to head by their names. Where the
      names are unknown, the given order counts, head first.
    - Posterior is the direction in which a vertebra's volume thins out: its third moment.
      Left-right symmetry puts that into the sagittal plane.
    - The cranial axis of a single level is its thinnest axis.
    - A single surface of an unknown name may hold several levels, and is split first.
    - In a single surface, the spinous processes point towards the tail.
    - The origin is the mean of the deciding levels' centroids.

    Args:
      meshes: level name -> mesh, mm, closed or nearly so.
    """
    names = sort_levels(list(meshes))
    if len(names) == 1 and names[0].upper() not in LEVEL_ORDER:
        volumes = _split_levels(meshes[names[0]])
        names = list(volumes)
    else:
        volumes = {name: _volume_points(meshes[name]) for name in names}
    known = [name for name in names if name.upper() in LEVEL_ORDER]
    lumbar = [name for name in known if name.upper().startswith("L")]
    chosen = next((some for some in (lumbar, known) if len(some) >= 2), names)
    origin = np.mean([volumes[name].mean(0) for name in chosen], axis=0)
    axis = volumes[chosen[0]].mean(0) - volumes[chosen[-1]].mean(0)
    if len(chosen) < 2 or np.linalg.norm(axis) < 1e-6:
        points = volumes[chosen[0]]
        axis = np.linalg.svd(np.cov((points - points.mean(0)).T))[0][:, -1]
    cranial = axis / np.linalg.norm(axis)
    skewness = np.zeros(3)
    for name in chosen:
        r = volumes[name] - volumes[name].mean(0)
        r = r - np.outer(r @ cranial, cranial)
        skewness += (np.sum(r * r, 1)[:, None] * r).mean(0)
    skewness -= (skewness @ cranial) * cranial
    if np.linalg.norm(skewness) < 1e-6:  # as symmetric as a ball: any direction is as good
        skewness = np.cross(cranial, np.eye(3)[np.argmin(np.abs(cranial))])
    posterior = skewness / np.linalg.norm(skewness)
    if len(meshes) == 1 and np.mean([_rise(volumes[n], posterior, cranial) for n in chosen]) > 0:
        cranial = -cranial
    rotation = np.stack([np.cross(posterior, cranial), posterior, cranial])
    return Pose(rotation.astype(np.float32), (-rotation @ origin).astype(np.float32))


def _rise(points: np.ndarray, posterior: np.ndarray, cranial: np.ndarray) -> float:
    """Height of a volume's posterior tenth (its spinous process), in standard deviations."""
    height = (points - points.mean(0)) @ cranial
    depth = points @ posterior
    return float(height[depth >= np.quantile(depth, 0.9)].mean() / np.maximum(height.std(), 1e-6))


def _split_levels(mesh: trimesh.Trimesh) -> dict[str, np.ndarray]:
    """The volumes of the levels that one surface holds, in order from one end.

    They are its connected parts. If there is only one part and it is long, it is cut into slices.
    """
    parts = [
        _volume_points(part) for part in mesh.split(only_watertight=False) if len(part.faces) > 50
    ]
    spans = [float(np.prod(np.ptp(part, axis=0))) for part in parts]
    parts = [part for part, span in zip(parts, spans, strict=True) if span > 0.3 * max(spans)]
    if len(parts) < 2:
        points = _volume_points(mesh)
        variances, axes = np.linalg.eigh(np.cov((points - points.mean(0)).T))
        if variances[2] < MAX_ELONGATION**2 * variances[1]:
            return {"one": points}
        along = points @ axes[:, 2]
        slices = max(2, round(np.ptp(along) / LEVEL_HEIGHT_MM))
        cuts = np.linspace(along.min(), along.max(), slices + 1)
        within = [(along >= a) & (along <= b) for a, b in pairwise(cuts)]
        parts = [points[some] for some in within if some.sum() >= 50]
    centres = np.array([part.mean(0) for part in parts])
    axis = np.linalg.svd(centres - centres.mean(0))[2][0]
    return {f"part {rank}": parts[i] for rank, i in enumerate(np.argsort(centres @ axis))}


def _volume_points(mesh: trimesh.Trimesh) -> np.ndarray:
    """Grid points (N, 3) inside a surface, by its winding number; its vertices if there are few."""
    vertices = np.ascontiguousarray(mesh.vertices, np.float64)
    faces = np.ascontiguousarray(mesh.faces, np.int64)
    faces = faces[np.isfinite(vertices[faces]).all((1, 2))]
    low, high = vertices[faces].min((0, 1)), vertices[faces].max((0, 1))
    size = np.maximum(high - low, 1e-6)
    spacing = np.maximum(np.cbrt(np.prod(size) / GRID_NODES), size.max() / 200)
    axes = [np.arange(low[a], high[a] + spacing, spacing) for a in range(3)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    inside = points[np.asarray(igl.fast_winding_number(vertices, faces, points)).ravel() > 0.5]
    return inside if len(inside) >= 50 else vertices[faces].reshape(-1, 3)
