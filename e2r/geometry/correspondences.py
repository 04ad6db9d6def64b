"""What a query is compared with: points of a :class:`~e2r.types.Surface`, looked up inside jit.

All are of type :data:`e2r.types.CorrespondenceFn` and take the same time for every query and every
model. :func:`project` asks one node of the lattice and slides on that triangle's plane: quick, for
the steps of a registration. :func:`closest` asks the eight nodes around the query, then all
neighbours of the best triangle: the closest point on the triangles, exactly but for a few queries
in ten thousand.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from e2r.geometry import vectors
from e2r.geometry.vectors import Columns
from e2r.types import Array, Correspondence, Surface


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


def project(surface: Surface, queries: Array) -> Correspondence:
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
    return Correspondence(vectors.join(points), vectors.join(normal), rows[:, 7].astype(jnp.int32))


def nearest(surface: Surface, queries: Array) -> Correspondence:
    """The centre of the nearest node's triangle: a hard match, no gradient to the query."""
    rows = _nearest_plane(surface, queries)
    return Correspondence(rows[:, :3], rows[:, 3:6], rows[:, 7].astype(jnp.int32))


def soft(surface: Surface, queries: Array, *, spread: float = 3.0) -> Correspondence:
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
    return Correspondence(
        mean[:, :3], normals, jnp.asarray(surface.levels)[jnp.argmax(share, axis=1)]
    )


_AROUND = [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]


def closest(surface: Surface, queries: Array) -> Correspondence:
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
    return Correspondence(vectors.join(foot), vectors.join(normal), levels)


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
