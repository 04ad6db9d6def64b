"""The anatomical frame of a preoperative model, found from its surfaces alone, on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import igl
import numpy as np
import trimesh

from e2r.types import Pose

ORDER = (
    *(f"C{i}" for i in range(1, 8)),
    *(f"T{i}" for i in range(1, 14)),
    *(f"L{i}" for i in range(1, 7)),
    "S1",
)
"""Level names from head to tail."""
NODES = 16_000
"""Grid nodes around a level, of which those inside are its volume."""
LONG = 1.3
"""A body this much longer than wide is more than one level."""
HEIGHT = 36.0
"""mm: about that of a lumbar level and its disc."""


def sort_levels(names: Sequence[str]) -> list[str]:
    """Level names from head to tail; unknown ones keep their order, at the end."""
    rank = {name: i for i, name in enumerate(ORDER)}
    return sorted(names, key=lambda name: rank.get(name.upper(), len(rank)))


def estimate_frame(meshes: Mapping[str, trimesh.Trimesh]) -> Pose:
    """The pose canonical from model: x to the patient's left, y posterior, z cranial, in mm.

    Cranial runs along the levels' centres, from tail to head by their names (where no two are
    vertebrae's, in the given order, head first); posterior is where a vertebra's mass thins out,
    the third moment of its volume, which left-right symmetry puts into the sagittal plane. Lumbar
    levels decide, where there are two. Of a single level cranial is the axis it is thinnest along.
    A single surface of another name may hold several levels, and is taken apart first. The tail of
    a single surface is where spinous processes hang. The origin is the mean of the deciding levels'
    centroids.

    Args:
      meshes: level name -> surface, mm. Closed or nearly so (inside is where it winds around).
    """
    names = sort_levels(list(meshes))
    if len(names) == 1 and names[0].upper() not in ORDER:
        volumes = _apart(meshes[names[0]])
        names = list(volumes)
    else:
        volumes = {name: _inside(meshes[name]) for name in names}
    known = [name for name in names if name.upper() in ORDER]
    lumbar = [name for name in known if name.upper().startswith("L")]
    chosen = next((some for some in (lumbar, known) if len(some) >= 2), names)
    middle = np.mean([volumes[name].mean(0) for name in chosen], axis=0)
    apart = volumes[chosen[0]].mean(0) - volumes[chosen[-1]].mean(0)
    if len(chosen) < 2 or np.linalg.norm(apart) < 1e-6:
        rows = volumes[chosen[0]]
        apart = np.linalg.svd(np.cov((rows - rows.mean(0)).T))[0][:, -1]
    cranial = apart / np.linalg.norm(apart)
    tail = np.zeros(3)
    for name in chosen:
        r = volumes[name] - volumes[name].mean(0)
        r = r - np.outer(r @ cranial, cranial)
        tail += (np.sum(r * r, 1)[:, None] * r).mean(0)
    tail -= (tail @ cranial) * cranial
    if np.linalg.norm(tail) < 1e-6:  # as symmetric as a ball: any direction is as good
        tail = np.cross(cranial, np.eye(3)[np.argmin(np.abs(cranial))])
    posterior = tail / np.linalg.norm(tail)
    if len(meshes) == 1 and np.mean([_rise(volumes[n], posterior, cranial) for n in chosen]) > 0:
        cranial = -cranial
    rotation = np.stack([np.cross(posterior, cranial), posterior, cranial])
    return Pose(rotation.astype(np.float32), (-rotation @ middle).astype(np.float32))


def _rise(rows: np.ndarray, posterior: np.ndarray, cranial: np.ndarray) -> float:
    """How much higher than the rest the posterior tenth of a volume lies: its spinous process."""
    high = (rows - rows.mean(0)) @ cranial
    back = rows @ posterior
    return float(high[back >= np.quantile(back, 0.9)].mean() / np.maximum(high.std(), 1e-6))


def _apart(mesh: trimesh.Trimesh) -> dict[str, np.ndarray]:
    """The volumes of the levels that one surface holds, in order from one end: its connected parts,
    or where they are grown together slices of a body that is long."""
    parts = [_inside(part) for part in mesh.split(only_watertight=False) if len(part.faces) > 50]
    spans = [float(np.prod(np.ptp(part, axis=0))) for part in parts]
    parts = [part for part, span in zip(parts, spans, strict=True) if span > 0.3 * max(spans)]
    if len(parts) < 2:
        rows = _inside(mesh)
        values, axes = np.linalg.eigh(np.cov((rows - rows.mean(0)).T))
        if values[2] < LONG**2 * values[1]:
            return {"one": rows}
        along = rows @ axes[:, 2]
        cuts = np.linspace(along.min(), along.max(), max(2, round(np.ptp(along) / HEIGHT)) + 1)
        inside = [(along >= a) & (along <= b) for a, b in pairwise(cuts)]
        parts = [rows[some] for some in inside if some.sum() >= 50]
    middles = np.array([part.mean(0) for part in parts])
    axis = np.linalg.svd(middles - middles.mean(0))[2][0]
    return {f"part {rank}": parts[i] for rank, i in enumerate(np.argsort(middles @ axis))}


def _inside(mesh: trimesh.Trimesh) -> np.ndarray:
    """Grid points (N, 3) inside a surface, by its winding number; its vertices if there are few."""
    vertices = np.ascontiguousarray(mesh.vertices, np.float64)
    faces = np.ascontiguousarray(mesh.faces, np.int64)
    faces = faces[np.isfinite(vertices[faces]).all((1, 2))]
    low, high = vertices[faces].min((0, 1)), vertices[faces].max((0, 1))
    size = np.maximum(high - low, 1e-6)
    spacing = np.maximum(np.cbrt(np.prod(size) / NODES), size.max() / 200)
    axes = [np.arange(low[a], high[a] + spacing, spacing) for a in range(3)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    inside = points[np.asarray(igl.fast_winding_number(vertices, faces, points)).ravel() > 0.5]
    return inside if len(inside) >= 50 else vertices[faces].reshape(-1, 3)
