"""Correspondences: the surface point that each query point is compared with, inside jit.

Every function here has the type :data:`e2r.types.CorrespondenceFn`, and takes the same time for
every query and every model.

- :func:`project` reads one lattice node, and slides on the plane of its triangle. It is quick, for
  the steps of a registration.
- :func:`closest` reads the eight nodes around the query, and compares all neighbours of the best
  triangle. It finds the closest point on the triangles, with rare misses.
- :func:`nearest` and :func:`soft` are for studies.

To add one without editing e2r, use :func:`e2r.plugin`; e2r's own are listed in
:data:`CORRESPONDENCES`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from e2r.geometry import vectors
from e2r.geometry.vectors import Columns
from e2r.runtime.registry import Registry
from e2r.types import Array, Correspondence, CorrespondenceFn, Float, Surface


def _gather(table: Array, index: Array) -> jax.Array:
    """Rows of a table. The gather clips each index, so a negative one does not wrap."""
    return jnp.take(jnp.asarray(table), index, axis=0, mode="clip")


def _node_triangle(surface: Surface, place: Columns) -> jax.Array:
    """The triangle that the lattice node at ``place`` (in units of the spacing) names."""
    i, j, k = (
        jnp.clip(axis, 0.0, jnp.asarray(surface.shape[n] - 1, axis.dtype)).astype(jnp.int32)
        for n, axis in enumerate(place)
    )
    return _gather(surface.nodes, (i * surface.shape[1] + j) * surface.shape[2] + k)


def _lattice_coordinates(surface: Surface, queries: Array) -> Columns:
    """Coordinates of queries (N, 3) on the lattice, in units of its spacing."""
    over = 1.0 / surface.spacing
    x, y, z = vectors.columns(jax.lax.stop_gradient(jnp.asarray(queries)))
    o = surface.origin
    return (x - o[0]) * over, (y - o[1]) * over, (z - o[2]) * over


def _nearest_plane(surface: Surface, queries: Array) -> jax.Array:
    """The row of ``planes`` (N, 8) of the triangle that the node nearest to each query names."""
    x, y, z = _lattice_coordinates(surface, queries)
    triangle = _node_triangle(surface, (jnp.round(x), jnp.round(y), jnp.round(z)))
    return _gather(surface.planes, triangle)


def project(surface: Surface, queries: Float[Array, "n 3"]) -> Correspondence:
    """The closest point on the plane of the nearest node's triangle; quick and smooth.

    The point stays within one lattice spacing of the triangle. So neighbours overlap, and a far
    query still ends near its triangle. Within that reach the distance is exact wherever the surface
    is flat.

    Args:
      surface: the model.
      queries: mm, model frame.
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


def nearest(surface: Surface, queries: Float[Array, "n 3"]) -> Correspondence:
    """The centre of the nearest node's triangle: a hard match without gradient to the query.

    Args:
      surface: the model.
      queries: mm, model frame.
    """
    rows = _nearest_plane(surface, queries)
    return Correspondence(rows[:, :3], rows[:, 3:6], rows[:, 7].astype(jnp.int32))


def soft(
    surface: Surface, queries: Float[Array, "n 3"], *, spread_mm: float = 3.0
) -> Correspondence:
    """The mean of all samples, weighted by ``exp(-d^2 / 2 spread^2)``.

    It is differentiable in the query everywhere, but inexact: the mean lies inside a curved
    surface. It compares each query with each sample, so it is slow.

    Args:
      surface: the model.
      queries: mm, model frame.
      spread_mm: standard deviation of the weights.
    """
    points = jnp.asarray(surface.points)
    query_square = jnp.sum(jnp.square(queries), axis=1)[:, None]
    square = query_square + jnp.sum(jnp.square(points), axis=1)[None]
    square = square - 2.0 * jnp.matmul(queries, points.T, precision="highest")
    share = jax.nn.softmax(-0.5 * square / spread_mm**2, axis=1)
    mean = jnp.matmul(
        share, jnp.concatenate([points, surface.normals], axis=1), precision="highest"
    )
    normals = mean[:, 3:]
    length = jnp.sum(jnp.square(normals), axis=1, keepdims=True)
    normals = jnp.where(length > 1e-6, normals * jax.lax.rsqrt(jnp.maximum(length, 1e-6)), 0.0)
    return Correspondence(
        mean[:, :3], normals, jnp.asarray(surface.levels)[jnp.argmax(share, axis=1)]
    )


_CELL_CORNERS = [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]


def closest(surface: Surface, queries: Float[Array, "n 3"]) -> Correspondence:
    """The closest point on the triangles; differentiable in the query.

    The eight nodes around a query name up to eight triangles. The best of them and all its
    neighbours are compared. A triangle that none of these names is missed: fewer than 0.1 % of the
    queries within 20 mm of a real spine, at the default spacing.

    Args:
      surface: the model, built with ``exact=True``.
      queries: mm, model frame.

    Raises:
      ValueError: the surface was built with ``exact=False``.
    """
    if len(surface.corners) == 0:
        raise ValueError("the surface was built for projection only; build it with exact=True")
    constant = jax.lax.stop_gradient(jnp.asarray(queries))
    x, y, z = (jnp.floor(axis) for axis in _lattice_coordinates(surface, constant))
    named = [_node_triangle(surface, (x + i, y + j, z + k)) for i, j, k in _CELL_CORNERS]
    first = _nearest_candidate(surface, constant, jnp.stack(named))
    ring = _gather(surface.rings, first)
    triangle = _nearest_candidate(surface, constant, jnp.concatenate([first[None], ring.T]))
    corners = _gather(surface.corners, triangle)
    foot, (beta, gamma), _ = _closest_on_triangle(vectors.columns(jnp.asarray(queries)), corners)
    corner_normals = _gather(surface.corner_normals, triangle)
    parts = [vectors.columns(corner_normals[:, 3 * i : 3 * i + 3]) for i in range(3)]
    mean = vectors.add(
        vectors.scale(1.0 - beta - gamma, parts[0]),
        vectors.add(vectors.scale(beta, parts[1]), vectors.scale(gamma, parts[2])),
    )
    square = vectors.dot(mean, mean)  # zero only where the corner normals cancel
    normal = vectors.scale(jax.lax.rsqrt(jnp.maximum(square, 1e-6)), mean)
    levels = _gather(surface.planes, triangle)[:, 7].astype(jnp.int32)
    return Correspondence(vectors.join(foot), vectors.join(normal), levels)


CORRESPONDENCES: Registry[CorrespondenceFn] = Registry(
    "correspondence", {"project": project, "closest": closest, "nearest": nearest, "soft": soft}
)
"""All correspondence functions, by the name that a schedule gives."""


LEAST_SQUARE_SINE = 1e-6
"""Squared sine of a triangle's angle below which it is a sliver: single precision knows no area."""


def _nearest_candidate(surface: Surface, queries: Array, candidates: Array) -> jax.Array:
    """The nearest of the candidate triangles (K, N) of each query, (N,)."""
    rows = _gather(surface.corners, candidates)
    points = tuple(column[None] for column in vectors.columns(queries))
    _, _, square = _closest_on_triangle(points, rows)  # type: ignore[arg-type]
    best = jnp.argmin(square, axis=0)
    return jnp.take_along_axis(candidates, best[None], axis=0)[0]


def _closest_on_triangle(
    points: Columns, corners: Array
) -> tuple[Columns, tuple[Array, Array], Array]:
    """The closest point on one triangle (..., 9) for each point.

    Inside the triangle's prism it is the foot of the perpendicular, elsewhere the best point of the
    three edges. Edges have a length, so no denominator vanishes; slivers have edges only.

    Returns:
      The point, the barycentric coordinates of the second and third corner, and the squared
      distance (...).
    """
    a, b, c = (vectors.columns(corners[..., 3 * i : 3 * i + 3]) for i in range(3))
    ab, ac, bc = vectors.subtract(b, a), vectors.subtract(c, a), vectors.subtract(c, b)
    ap, bp = vectors.subtract(points, a), vectors.subtract(points, b)
    dot, scale = vectors.dot, vectors.scale
    bb, cc, mixed, pb, pc = dot(ab, ab), dot(ac, ac), dot(ab, ac), dot(ap, ab), dot(ap, ac)
    square_area = bb * cc - mixed * mixed  # of a sliver it is rounding, and its edges are enough
    broad = square_area > LEAST_SQUARE_SINE * bb * cc
    over = jnp.where(broad, 1.0 / jnp.where(broad, square_area, 1.0), 0.0)
    v, w = over * (cc * pb - mixed * pc), over * (bb * pc - mixed * pb)
    inside = broad & (v >= 0) & (w >= 0) & (v + w <= 1)
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
