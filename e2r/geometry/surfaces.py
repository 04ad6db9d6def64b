"""A preoperative model as a :class:`~e2r.types.Surface`, built on the host once a patient.

A lattice of nodes around the model remembers the triangle nearest to each node;
:mod:`e2r.geometry.correspondences` looks it up.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import igl
import jax
import numpy as np
import scipy.sparse
import trimesh
from scipy.ndimage import distance_transform_edt

from e2r.geometry import anatomical_frame
from e2r.runtime.atomic_files import atomic_write
from e2r.types import Array, Pose, Surface

NODES = 2**22
"""Default lattice nodes: 1 mm apart around a five-level spine, for exact search."""
COARSE = 2**19
"""Lattice nodes, 2 mm apart, that :func:`project` gets along with."""
MARGIN = 20.0
"""mm of lattice around the model; farther queries ask the nearest node of the border."""
RING = 16
"""Neighbours remembered of each triangle; 99 % of the triangles of a real model have no more."""
SAMPLES = 4096
"""Samples of a whole model."""
ROOM = 2**14
"""Triangles by which a stacked model's room grows."""
BLOCK = 200_000
"""Nodes searched at a time, which bounds the memory."""
FORMAT = 2
"""Of a saved surface; another one is built again."""


def build(
    meshes: Mapping[str, trimesh.Trimesh],
    *,
    seed: int,
    nodes: int = NODES,
    samples: int = SAMPLES,
    exact: bool = True,
) -> Surface:
    """Finds the nearest triangle of every lattice node, for all levels at once.

    Nothing is asked of the meshes but triangles: open, non-manifold and noisy ones work.

    Args:
      meshes: level name -> surface, mm, all in the model frame.
      seed: fixes the samples.
      nodes: size M of the padded lattice; its spacing is chosen so that the model fits.
      samples: number of samples S.
      exact: also keep what :func:`closest` needs.

    Raises:
      ValueError: no mesh, or one with no area.
    """
    if not meshes:
        raise ValueError("the model has no level; give at least one mesh")
    corners, levels, dropped = _triangles(meshes)
    edges = corners[:, 1:] - corners[:, :1]
    normals = np.cross(edges[:, 0], edges[:, 1])
    areas = 0.5 * np.linalg.norm(normals, axis=1)
    normals /= 2.0 * areas[:, None]
    centres = corners.mean(1)
    radii = np.linalg.norm(corners - centres[:, None], axis=2).max(1)
    low, high = corners.min((0, 1)) - MARGIN, corners.max((0, 1)) + MARGIN
    origin, spacing, shape = _lattice(low, high, nodes)
    flat = np.zeros(nodes, np.int32)
    found = _nearest_triangles(corners, origin, spacing, shape)
    flat[: found.size] = found.ravel()
    rng = np.random.default_rng(seed)
    pick, places = _sample(corners, areas, samples, rng)
    f32 = np.float32
    bends, rings = np.zeros((0, 9)), np.zeros((0, RING), np.int32)
    if exact:
        vertex = _vertices(corners)
        bends, rings = _corner_normals(vertex, areas[:, None] * normals), _rings(vertex)
    return Surface(
        planes=np.column_stack([centres, normals, radii, levels]).astype(f32),
        corners=corners.reshape(-1, 9).astype(f32) if exact else np.zeros((0, 9), f32),
        corner_normals=bends.reshape(-1, 9).astype(f32),
        rings=rings,
        nodes=flat,
        origin=origin.astype(f32),
        spacing=f32(spacing),
        shape=shape.astype(np.int32),
        points=places.astype(f32),
        normals=normals[pick].astype(f32),
        levels=levels[pick],
        canonical_from_model=anatomical_frame.estimate_frame(meshes),
        num_degenerate=np.int32(dropped),
    )


def _triangles(meshes: Mapping[str, trimesh.Trimesh]) -> tuple[np.ndarray, np.ndarray, int]:
    """Corners (F, 3, 3) and level (F,) of all triangles that have an area; how many have none."""
    corners, levels, dropped = [], [], 0
    for index, (name, mesh) in enumerate(meshes.items()):
        triangles = np.asarray(mesh.vertices, np.float64)[np.asarray(mesh.faces)]
        edges = triangles[:, 1:] - triangles[:, :1]
        area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
        longest = np.sum(np.square(edges), axis=2).max(1, initial=0.0)
        # A sliver thinner than a millionth of its length has no normal in single precision.
        good = np.isfinite(area) & (area > 1e-6 * longest) & (area > 1e-12)
        if not good.any():
            raise ValueError(f"model {name}: the surface has no area; export it again")
        corners.append(triangles[good])
        levels.append(np.full(good.sum(), index, np.int32))
        dropped += int((~good).sum())
    return np.concatenate(corners), np.concatenate(levels), dropped


def _lattice(low: np.ndarray, high: np.ndarray, nodes: int) -> tuple[np.ndarray, float, np.ndarray]:
    """The finest lattice of at most ``nodes`` nodes over a box: origin, spacing, shape."""
    extent = high - low
    spacing = float(np.cbrt(np.prod(extent) / nodes))
    while True:
        shape = np.ceil(extent / spacing).astype(np.int64) + 1
        if np.prod(shape) <= nodes:
            return low, spacing, shape
        spacing *= 1.005


def _nearest_triangles(
    corners: np.ndarray, origin: np.ndarray, spacing: float, shape: np.ndarray
) -> np.ndarray:
    """Index of the triangle nearest to each node.

    Exact within the margin. Farther out, where no registration can begin, the triangle of the
    nearest node within it.
    """
    vertices = np.ascontiguousarray(corners.reshape(-1, 3))
    faces = np.arange(len(vertices)).reshape(-1, 3)
    tree = igl.AABB()
    tree.init(vertices, faces)
    empty = np.ones(shape, bool)
    empty[tuple(np.round((corners.mean(1) - origin) / spacing).astype(np.int64).T)] = False
    near = distance_transform_edt(empty, sampling=spacing) <= MARGIN + 2 * spacing
    places = np.argwhere(near)
    found = np.concatenate([
        tree.squared_distance(vertices, faces, origin + spacing * places[i : i + BLOCK])[1]
        for i in range(0, len(places), BLOCK)
    ])  # fmt: skip
    nearest = np.zeros(shape, np.int32)
    nearest[near] = found
    away = distance_transform_edt(~near, return_distances=False, return_indices=True)
    filled: np.ndarray = nearest[tuple(away)]
    return filled


def _vertices(corners: np.ndarray) -> np.ndarray:
    """Number (F, 3) of each corner's place: the same for corners that share one."""
    places = np.round(corners.reshape(-1, 3), 6) + 0.0
    _, vertex = np.unique(places, axis=0, return_inverse=True)
    return vertex.reshape(-1, 3)


def _corner_normals(vertex: np.ndarray, weighted: np.ndarray) -> np.ndarray:
    """Normals (F, 3, 3) at the corners: the mean of the triangles around, by area.

    Between them a normal bends without a jump, also where the closest point lies on an edge and it
    is rounding that says on which of its two triangles. Where the mean vanishes (a sheet with two
    sides in one place), the triangle's own.
    """
    total = np.zeros((vertex.max() + 1, 3))
    np.add.at(total, vertex.ravel(), np.repeat(weighted, 3, axis=0))
    around = total[vertex]
    length = np.linalg.norm(around, axis=2, keepdims=True)
    own = weighted / np.linalg.norm(weighted, axis=1, keepdims=True)
    size = np.linalg.norm(weighted, axis=1)[:, None, None]
    kept: np.ndarray = np.where(
        length > 1e-3 * size, around / np.maximum(length, 1e-12), own[:, None]
    )
    return kept


def _rings(vertex: np.ndarray) -> np.ndarray:
    """Triangles (F, RING) that share a corner's place, most shared first, padded with itself."""
    count = len(vertex)
    face = np.repeat(np.arange(count), 3)
    touches = scipy.sparse.csr_matrix((np.ones(3 * count, np.int32), (face, vertex.ravel())))
    shared = (touches @ touches.T).tocoo()
    other = shared.row != shared.col
    row, column, times = shared.row[other], shared.col[other], shared.data[other]
    order = np.lexsort((column, -times, row))
    row, column = row[order], column[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    rings = np.repeat(np.arange(count, dtype=np.int32)[:, None], RING, axis=1)
    kept = place < RING
    rings[row[kept], place[kept]] = column[kept]
    return rings


def _sample(
    corners: np.ndarray, areas: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Triangle (count,) and place (count, 3) of points spread by area (stratified)."""
    cumulative = np.cumsum(areas)
    picks = (np.arange(count) + rng.random(count)) / count * cumulative[-1]
    faces = np.minimum(np.searchsorted(cumulative, picks), len(cumulative) - 1)
    u, v = rng.random((2, count))
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    share = np.stack([1 - u - v, u, v], -1)
    return faces, np.einsum("nk,nkd->nd", share, corners[faces])


def stack(models: Sequence[Surface]) -> Surface:
    """One pytree with a leading axis of models of any number of levels and triangles.

    The room for triangles is a multiple of :data:`ROOM`, so that batches share compiled programs.
    """
    most = max(len(model.planes) for model in models)
    most += -most % ROOM

    def more(rows: Array) -> np.ndarray:
        return np.pad(rows, ((0, most - len(rows) if len(rows) else 0), (0, 0)))

    padded = [
        model._replace(
            planes=more(model.planes),
            corners=more(model.corners),
            corner_normals=more(model.corner_normals),
            rings=more(model.rings),
        )
        for model in models
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *padded)


def remembered(path: Path, meshes: Mapping[str, trimesh.Trimesh], **options: Any) -> Surface:
    """The surface of ``meshes``, read from ``path`` if it was made of them, else built and saved.

    A folder that cannot be written to costs time, nothing else.

    Args:
      path: an ``.npz`` file, beside the model.
      meshes, options: as in :func:`build`.
    """
    made_of = fingerprint(meshes, **options)
    try:
        return load(path, made_of)
    except ValueError:
        surface = build(meshes, **options)
    with contextlib.suppress(OSError):
        save(path, surface, made_of)
    return surface


def fingerprint(meshes: Mapping[str, trimesh.Trimesh], **options: Any) -> str:
    """What a surface is made of, as a digest: another one, another surface."""
    digest = hashlib.sha256(repr((FORMAT, sorted(options.items()))).encode())
    for name, mesh in meshes.items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(mesh.vertices, np.float64).tobytes())
        digest.update(np.ascontiguousarray(mesh.faces, np.int64).tobytes())
    return digest.hexdigest()


def save(path: Path, surface: Surface, made_of: str = "") -> None:
    """Writes a surface as ``.npz``; replaces the file only once the new one is whole."""
    with atomic_write(path) as part, part.open("wb") as file:
        leaves = {**surface._asdict(), "upright": np.column_stack(surface.canonical_from_model)}
        np.savez(file, made_of=np.array(made_of), **leaves)


def load(path: Path, made_of: str | None = None) -> Surface:
    """Reads what :func:`save` wrote.

    Raises:
      ValueError: the file is not there, holds no surface, or one that is not ``made_of`` this.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            leaves: dict[str, Any] = {name: arrays[name] for name in Surface._fields}
            upright = leaves.pop("upright")
            surface = Surface(canonical_from_model=Pose(upright[:, :3], upright[:, 3]), **leaves)
            other = str(arrays["made_of"])
    except Exception as error:  # a zip file breaks in many ways; all mean the same to the reader
        raise ValueError(
            f"{path}: holds no surface ({type(error).__name__}); delete it and build it again"
        ) from None
    if made_of not in (None, other):
        raise ValueError(f"{path}: holds the surface of another model; build it again")
    return surface
