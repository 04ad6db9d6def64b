"""Builds the :class:`~e2r.types.Surface` of a preoperative model, on the host, once a patient.

A lattice of nodes around the model stores the triangle nearest to each node.
:mod:`e2r.geometry.correspondences` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import igl
import jax
import numpy as np
import scipy.sparse
import trimesh
from scipy.ndimage import distance_transform_edt

from e2r.geometry import anatomical_frame
from e2r.types import Array, Surface

NODES = 2**22
"""Default number of lattice nodes: 1 mm apart around a five-level spine, for exact search."""
PROJECTION_NODES = 2**19
"""Lattice nodes, 2 mm apart: enough for :func:`e2r.geometry.correspondences.project`."""
MARGIN_MM = 20.0
"""Width of the lattice around the model. A farther query reads the nearest node of the border."""
MAX_NEIGHBOURS = 16
"""Neighbours stored for each triangle; 99 % of a real model's triangles have no more."""
SAMPLES = 4096
"""Default number of samples of a whole model."""
TRIANGLE_PADDING = 2**14
"""The number of triangles of a stacked model is a multiple of this."""
SHARED_TRIANGLES = 2**17
"""Triangles to which models of different patients are padded, so that they share a program."""
QUERY_BLOCK = 200_000
"""Nodes that are searched at a time; this bounds the memory."""


LEAST_NODES = 64
"""Fewer nodes make no lattice."""


def build_surface(
    meshes: Mapping[str, trimesh.Trimesh],
    *,
    seed: int,
    nodes: int = NODES,
    samples: int = SAMPLES,
    exact: bool = True,
) -> Surface:
    """Builds the surface of all levels: triangles, lattice and samples.

    The meshes may be open, non-manifold or noisy.

    Args:
      meshes: level name -> mesh, mm, all in the model frame.
      seed: of the random samples.
      nodes: size of the padded lattice; its spacing is chosen so that the model fits.
      samples: number of samples.
      exact: also store the data of :func:`e2r.geometry.correspondences.closest`.

    Raises:
      ValueError: there is no mesh, one has no area, or there are too few nodes.
    """
    if nodes < LEAST_NODES:
        raise ValueError(f"nodes is {nodes}; use {LEAST_NODES} or more")
    if not meshes:
        raise ValueError("the model has no level; give at least one mesh")
    corners, levels, num_degenerate = _triangles(meshes)
    edges = corners[:, 1:] - corners[:, :1]
    normals = np.cross(edges[:, 0], edges[:, 1])
    areas = 0.5 * np.linalg.norm(normals, axis=1)
    normals /= 2.0 * areas[:, None]
    centres = corners.mean(1)
    radii = np.linalg.norm(corners - centres[:, None], axis=2).max(1)
    low, high = corners.min((0, 1)) - MARGIN_MM, corners.max((0, 1)) + MARGIN_MM
    origin, spacing, shape = _lattice(low, high, nodes)
    flat = np.zeros(nodes, np.int32)
    nearest = _nearest_triangles(corners, origin, spacing, shape)
    flat[: nearest.size] = nearest.ravel()
    rng = np.random.default_rng(seed)
    sampled, points = _sample(corners, areas, samples, rng)
    f32 = np.float32
    corner_normals, rings = np.zeros((0, 9)), np.zeros((0, MAX_NEIGHBOURS), np.int32)
    if exact:
        vertices = _vertex_numbers(corners)
        corner_normals = _corner_normals(vertices, areas[:, None] * normals)
        rings = _rings(vertices)
    return Surface(
        planes=np.column_stack([centres, normals, radii, levels]).astype(f32),
        corners=corners.reshape(-1, 9).astype(f32) if exact else np.zeros((0, 9), f32),
        corner_normals=corner_normals.reshape(-1, 9).astype(f32),
        rings=rings,
        nodes=flat,
        origin=origin.astype(f32),
        spacing=np.asarray(spacing, f32),
        shape=shape.astype(np.int32),
        points=points.astype(f32),
        normals=normals[sampled].astype(f32),
        levels=levels[sampled],
        canonical_from_model=anatomical_frame.estimate_frame(meshes),
        num_degenerate=np.asarray(num_degenerate, np.int32),
    )


def _triangles(meshes: Mapping[str, trimesh.Trimesh]) -> tuple[np.ndarray, np.ndarray, int]:
    """Corners (F, 3, 3) and level (F,) of all triangles with an area; the number of the others."""
    corners, levels, num_degenerate = [], [], 0
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
        num_degenerate += int((~good).sum())
    return np.concatenate(corners), np.concatenate(levels), num_degenerate


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
    """Index of the triangle nearest to each node: exact within the margin.

    A node farther out gets the triangle of the nearest node within the margin.
    """
    vertices = np.ascontiguousarray(corners.reshape(-1, 3))
    faces = np.arange(len(vertices)).reshape(-1, 3)
    tree = igl.AABB()
    tree.init(vertices, faces)
    empty = np.ones(shape, bool)
    empty[tuple(np.round((corners.mean(1) - origin) / spacing).astype(np.int64).T)] = False
    near = distance_transform_edt(empty, sampling=spacing) <= MARGIN_MM + 2 * spacing
    places = np.argwhere(near)
    blocks = [places[i : i + QUERY_BLOCK] for i in range(0, len(places), QUERY_BLOCK)]
    nearest = np.zeros(shape, np.int32)
    nearest[near] = np.concatenate(
        [tree.squared_distance(vertices, faces, origin + spacing * block)[1] for block in blocks]
    )
    away = distance_transform_edt(~near, return_distances=False, return_indices=True)
    filled: np.ndarray = nearest[tuple(away)]
    return filled


def _vertex_numbers(corners: np.ndarray) -> np.ndarray:
    """A number (F, 3) for each corner; corners at one place share it."""
    places = np.round(corners.reshape(-1, 3), 6) + 0.0
    _, vertex = np.unique(places, axis=0, return_inverse=True)
    return vertex.reshape(-1, 3)


def _corner_normals(vertices: np.ndarray, weighted: np.ndarray) -> np.ndarray:
    """Normals (F, 3, 3) at the corners: the mean of the triangles around, by area.

    Interpolated between corners, the normal is continuous across edges. There, rounding decides
    which of two triangles is the closest. Where the mean vanishes (both sides of a sheet in one
    place), it is the triangle's own normal.

    Args:
      vertices: numbers (F, 3) of the corners.
      weighted: normal times area (F, 3).
    """
    total = np.zeros((vertices.max() + 1, 3))
    np.add.at(total, vertices.ravel(), np.repeat(weighted, 3, axis=0))
    around = total[vertices]
    length = np.linalg.norm(around, axis=2, keepdims=True)
    own = weighted / np.linalg.norm(weighted, axis=1, keepdims=True)
    size = np.linalg.norm(weighted, axis=1)[:, None, None]
    kept: np.ndarray = np.where(
        length > 1e-3 * size, around / np.maximum(length, 1e-12), own[:, None]
    )
    return kept


def _rings(vertices: np.ndarray) -> np.ndarray:
    """Neighbours (F, MAX_NEIGHBOURS) of each triangle, padded with itself.

    Neighbours share a corner; those that share most come first.
    """
    count = len(vertices)
    face = np.repeat(np.arange(count), 3)
    touches = scipy.sparse.csr_matrix((np.ones(3 * count, np.int32), (face, vertices.ravel())))
    shared = (touches @ touches.T).tocoo()
    other = shared.row != shared.col
    row, column, times = shared.row[other], shared.col[other], shared.data[other]
    order = np.lexsort((column, -times, row))
    row, column = row[order], column[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    rings = np.repeat(np.arange(count, dtype=np.int32)[:, None], MAX_NEIGHBOURS, axis=1)
    kept = place < MAX_NEIGHBOURS
    rings[row[kept], place[kept]] = column[kept]
    return rings


def _sample(
    corners: np.ndarray, areas: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Stratified random points, even by area: their triangles (count,) and places (count, 3)."""
    cumulative = np.cumsum(areas)
    picks = (np.arange(count) + rng.random(count)) / count * cumulative[-1]
    faces = np.minimum(np.searchsorted(cumulative, picks), len(cumulative) - 1)
    u, v = rng.random((2, count))
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    share = np.stack([1 - u - v, u, v], -1)
    return faces, np.einsum("nk,nkd->nd", share, corners[faces])


def stack(models: Sequence[Surface], *, shared: bool = False) -> Surface:
    """Stacks surfaces of any number of levels and triangles along a new leading axis.

    Args:
      models: one or more.
      shared: pad to :data:`SHARED_TRIANGLES`, or to it doubled as often as need be, so that most
        patients share a compiled program; else to a multiple of :data:`TRIANGLE_PADDING`.
    """
    count = max(len(model.planes) for model in models)
    if shared:
        count = max(SHARED_TRIANGLES, 2 ** (count - 1).bit_length())
    count += -count % TRIANGLE_PADDING

    def padded_rows(rows: Array) -> np.ndarray:
        return np.pad(rows, ((0, count - len(rows) if len(rows) else 0), (0, 0)))

    padded = [
        model._replace(
            planes=padded_rows(model.planes),
            corners=padded_rows(model.corners),
            corner_normals=padded_rows(model.corner_normals),
            rings=padded_rows(model.rings),
        )
        for model in models
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *padded)
