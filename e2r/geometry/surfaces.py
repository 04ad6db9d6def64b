"""A preoperative model as a :class:`~e2r.types.Surface`: built on the host, looked up in jit.

A lattice of nodes around the model remembers the triangle nearest to each node. :func:`project`
asks one node and slides on that triangle's plane: quick, for the steps of a registration.
:func:`closest` asks the eight nodes around the query, then all neighbours of the best triangle: the
closest point on the triangles, exactly but for a few queries in ten thousand. Both take the same
time for every query and every model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import igl
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import trimesh
from scipy.ndimage import distance_transform_edt

from e2r.geometry import vectors
from e2r.geometry.vectors import Columns
from e2r.types import Array, Match, Surface

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
        dropped=np.int32(dropped),
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


def save(path: Path, surface: Surface) -> None:
    """Writes a surface as ``.npz``; replaces the file only once the new one is whole."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez(file, **surface._asdict())
    part.replace(path)


def load(path: Path) -> Surface:
    """Reads what :func:`save` wrote.

    Raises:
      ValueError: the file is not there, or holds no surface.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Surface(**{name: arrays[name] for name in Surface._fields})
    except Exception as error:  # a zip file breaks in many ways; all mean the same to the reader
        raise ValueError(
            f"{path}: holds no surface ({type(error).__name__}); delete it and build it again"
        ) from None


# Look-up ------------------------------------------------------------------------------------------


def _gather(table: Array, index: Array) -> jax.Array:
    """Rows of a table; the gather itself clips an index, so nothing wraps negative ones."""
    return jnp.take(jnp.asarray(table), index, axis=0, mode="clip")


def _node(surface: Surface, place: Columns) -> jax.Array:
    """The triangle of the lattice node at a place in units of the spacing."""
    i, j, k = (
        jnp.clip(axis, 0.0, surface.shape[n] - 1).astype(jnp.int32) for n, axis in enumerate(place)
    )
    return _gather(surface.nodes, (i * surface.shape[1] + j) * surface.shape[2] + k)


def _place(surface: Surface, queries: Array) -> Columns:
    """Where queries (N, 3) are on the lattice, in units of its spacing."""
    over = 1.0 / surface.spacing
    x, y, z = vectors.columns(jax.lax.stop_gradient(jnp.asarray(queries)))
    o = surface.origin
    return (x - o[0]) * over, (y - o[1]) * over, (z - o[2]) * over


def _nearest_plane(surface: Surface, queries: Array) -> jax.Array:
    """The row of `planes` (N, 8) of the triangle that the node nearest to each query names."""
    x, y, z = _place(surface, queries)
    return _gather(surface.planes, _node(surface, (jnp.round(x), jnp.round(y), jnp.round(z))))


def project(surface: Surface, queries: Array) -> Match:
    """The closest point on the plane of the nearest node's triangle: quick; smooth in the query.

    The slide on the plane ends one spacing outside the triangle, so that neighbours overlap and a
    far query still ends near its triangle. Within that reach the distance to the plane is exact
    wherever the surface is flat.

    Args:
      surface: the model.
      queries: (N, 3) mm, model frame.
    """
    rows = _nearest_plane(surface, queries)
    centre, normal = vectors.columns(rows[:, :3]), vectors.columns(rows[:, 3:6])
    offset = vectors.subtract(vectors.columns(jnp.asarray(queries)), centre)
    slide = vectors.subtract(offset, vectors.scale(vectors.dot(offset, normal), normal))
    square = vectors.dot(slide, slide)
    limit = rows[:, 6] + surface.spacing
    outside = square > limit * limit
    shrink = jnp.where(outside, limit * jax.lax.rsqrt(jnp.where(outside, square, 1.0)), 1.0)
    points = vectors.add(centre, vectors.scale(shrink, slide))
    return Match(vectors.join(points), vectors.join(normal), rows[:, 7].astype(jnp.int32))


def nearest(surface: Surface, queries: Array) -> Match:
    """The centre of the nearest node's triangle: a hard match, no gradient to the query."""
    rows = _nearest_plane(surface, queries)
    return Match(rows[:, :3], rows[:, 3:6], rows[:, 7].astype(jnp.int32))


def soft(surface: Surface, queries: Array, *, spread: float = 3.0) -> Match:
    """Soft correspondences: the mean of the samples, each by ``exp(-d^2 / 2 spread^2)``.

    Differentiable in the query everywhere, and never exact: the mean lies inside a curved surface.
    Compares each query with each sample; for studies, not for speed.

    Args:
      surface: the model.
      queries: (N, 3) mm, model frame.
      spread: mm.
    """
    points = jnp.asarray(surface.points)
    square = jnp.sum(jnp.square(queries), axis=1)[:, None] + jnp.sum(jnp.square(points), axis=1)
    square = square - 2.0 * jnp.matmul(queries, points.T, precision="highest")
    share = jax.nn.softmax(-0.5 * square / spread**2, axis=1)
    mean = jnp.matmul(
        share, jnp.concatenate([points, surface.normals], axis=1), precision="highest"
    )
    normals = mean[:, 3:]
    length = jnp.sum(jnp.square(normals), axis=1, keepdims=True)
    normals = jnp.where(length > 1e-6, normals * jax.lax.rsqrt(jnp.maximum(length, 1e-6)), 0.0)
    return Match(mean[:, :3], normals, jnp.asarray(surface.levels)[jnp.argmax(share, axis=1)])


_AROUND = [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]


def closest(surface: Surface, queries: Array) -> Match:
    """The closest point on the triangles; differentiable in the query.

    Eight nodes name up to eight triangles; the best of them and all its neighbours are compared.
    Not found are closest points that no node and no such neighbour names: within 20 mm of a real
    spine, fewer than 0.1 % of the queries at the default spacing.

    Args:
      surface: the model, built with ``exact``.
      queries: (N, 3) mm, model frame.

    Raises:
      ValueError: the surface was built without ``exact``.
    """
    if len(surface.corners) == 0:
        raise ValueError("the surface was built for projection only; build it with exact=True")
    still = jax.lax.stop_gradient(jnp.asarray(queries))
    base = [jnp.floor(axis) for axis in _place(surface, still)]
    around = [
        _node(surface, (base[0] + i, base[1] + j, base[2] + k)) for i, j, k in _AROUND
    ]  # fmt: skip
    first = _best(surface, still, jnp.stack(around))
    ring = _gather(surface.rings, first)
    triangle = _best(surface, still, jnp.concatenate([first[None], ring.T]))
    found = _gather(surface.corners, triangle)
    foot, (beta, gamma), _ = _closest_on_triangle(vectors.columns(jnp.asarray(queries)), found)
    bends = _gather(surface.corner_normals, triangle)
    parts = [vectors.columns(bends[:, 3 * i : 3 * i + 3]) for i in range(3)]
    bend = vectors.add(
        vectors.scale(1.0 - beta - gamma, parts[0]),
        vectors.add(vectors.scale(beta, parts[1]), vectors.scale(gamma, parts[2])),
    )
    square = vectors.dot(bend, bend)  # zero only where corners point against each other
    normal = vectors.scale(jax.lax.rsqrt(jnp.maximum(square, 1e-6)), bend)
    levels = _gather(surface.planes, triangle)[:, 7].astype(jnp.int32)
    return Match(vectors.join(foot), vectors.join(normal), levels)


def _best(surface: Surface, queries: Array, candidates: Array) -> jax.Array:
    """Which of the candidate triangles (K, N) is nearest, (N,)."""
    rows = _gather(surface.corners, candidates)
    points = tuple(column[None] for column in vectors.columns(queries))
    _, _, square = _closest_on_triangle(points, rows)  # type: ignore[arg-type]
    best = jnp.argmin(square, axis=0)
    return jnp.take_along_axis(candidates, best[None], axis=0)[0]


def _closest_on_triangle(
    points: Columns, corners: Array
) -> tuple[Columns, tuple[Array, Array], Array]:
    """Closest point on one triangle (..., 9) each, its place, and its squared distance (...).

    Its place is the share of the second and the third corner. Inside the triangle's prism the foot
    of the perpendicular, else the best point of the three edges. Triangles have an area, so no
    denominator vanishes.
    """
    a, b, c = (vectors.columns(corners[..., 3 * i : 3 * i + 3]) for i in range(3))
    ab, ac, bc = vectors.subtract(b, a), vectors.subtract(c, a), vectors.subtract(c, b)
    ap, bp = vectors.subtract(points, a), vectors.subtract(points, b)
    dot, scale = vectors.dot, vectors.scale
    bb, cc, mixed, pb, pc = dot(ab, ab), dot(ac, ac), dot(ab, ac), dot(ap, ab), dot(ap, ac)
    over = 1.0 / (bb * cc - mixed * mixed)
    v, w = over * (cc * pb - mixed * pc), over * (bb * pc - mixed * pb)
    inside = (v >= 0) & (w >= 0) & (v + w <= 1)
    along = jnp.clip(dot(bp, bc) / dot(bc, bc), 0.0, 1.0)
    places = [
        (jnp.where(inside, v, 0.0), jnp.where(inside, w, 0.0)),
        (jnp.clip(pb / bb, 0.0, 1.0), jnp.zeros_like(pb)),
        (jnp.zeros_like(pc), jnp.clip(pc / cc, 0.0, 1.0)),
        (1.0 - along, along),
    ]
    feet = [vectors.add(scale(beta, ab), scale(gamma, ac)) for beta, gamma in places]
    away = [vectors.subtract(ap, foot) for foot in feet]
    squares = [dot(gap, gap) for gap in away]
    (beta, gamma), square = places[0], jnp.where(inside, squares[0], jnp.inf)
    for place, size in zip(places[1:], squares[1:], strict=True):
        closer = size < square
        beta, gamma = jnp.where(closer, place[0], beta), jnp.where(closer, place[1], gamma)
        square = jnp.where(closer, size, square)
    foot = vectors.add(a, vectors.add(scale(beta, ab), scale(gamma, ac)))
    return foot, (beta, gamma), square
