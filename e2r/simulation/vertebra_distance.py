"""The signed distance to a procedural vertebra: a smooth union of its parts, less the canal."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from e2r.simulation.vertebra import Vertebra
from e2r.types import Array, Float, ScalarLike

BLEND = 1.2
"""mm: width of the smooth unions."""


def signed_distance(vertebra: Vertebra, points: Float[Array, "*n 3"]) -> Float[jax.Array, "*n"]:
    """Signed distance bounds, mm, negative inside.

    Args:
      vertebra: its shape.
      points: mm, in the level's own frame.
    """
    x, y = points[..., 0], points[..., 1]
    total = jnp.exp(-_body_distance(vertebra.body, points) / BLEND)
    parts = (vertebra.centre, vertebra.axes, vertebra.half_size, vertebra.taper)
    total, _ = jax.lax.scan(  # part by part: no (N, parts) array in memory
        lambda sum_, part: (sum_ + jnp.exp(-_part_distance(points, *part) / BLEND), None),
        total,
        parts,
    )
    solid = -BLEND * jnp.log(total + 1e-30)
    canal = vertebra.canal
    hole = jnp.sqrt((x / canal[0]) ** 2 + ((y - canal[2]) / canal[1]) ** 2 + 1e-9) - 1.0
    solid = BLEND * jnp.logaddexp(solid / BLEND, -hole * canal[1] / BLEND)
    angle = jnp.einsum("...i,wi->...w", points, vertebra.waves)
    wave = jnp.sin(angle + jnp.broadcast_to(vertebra.phases, angle.shape))
    return solid + vertebra.amplitude * jnp.mean(wave, axis=-1) * 2.0


def _body_distance(body: Float[Array, "3"], points: Float[Array, "*n 3"]) -> Float[Array, "*n"]:
    """Distance to the vertebral body: a waisted cylinder with concave end plates."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    width, depth, height = body[0], body[1], body[2]
    waist = 1.0 - 0.09 * (1.0 - jnp.clip(z / height, -1.0, 1.0) ** 2)
    radius = (jnp.abs(x / (width * waist)) ** 2.4 + jnp.abs(y / (depth * waist)) ** 2.4 + 1e-9) ** (
        1 / 2.4
    )
    side = (radius - 1.0) * depth + 2.0
    dish = 1.5 * jnp.clip(1.0 - radius * radius, 0.0, 1.0)  # depth of the end plates
    end = jnp.abs(z) - height + dish + 2.0
    return _rounded_corner(side, end, 2.0)


def _part_distance(
    points: Float[Array, "*n 3"],
    centre: Float[Array, "3"],
    axes: Float[Array, "3 3"],
    half_size: Float[Array, "3"],
    taper: Float[Array, ""],
) -> Float[Array, "*n"]:
    """Distance to one part: a tapered plate with round corners and rounded edges."""
    local = jnp.matmul(points - jnp.broadcast_to(centre, points.shape), axes, precision="highest")
    growth = 1.0 + taper * jnp.clip(local[..., 0] / half_size[0], -1.0, 1.0)
    corner = 0.75 * jnp.minimum(half_size[0], half_size[2])
    edge = 0.8 * jnp.minimum(half_size[1], half_size[2])
    outline = _rounded_corner(
        jnp.abs(local[..., 0]) - half_size[0] + corner,
        jnp.abs(local[..., 2]) - half_size[2] * growth + corner,
        corner,
    )
    thickness = jnp.abs(local[..., 1]) - half_size[1] * growth + edge
    return _rounded_corner(outline + edge, thickness, edge)


def _rounded_corner(
    a: Float[Array, "*n"], b: Float[Array, "*n"], radius: ScalarLike
) -> Float[Array, "*n"]:
    """Distance to a quadrant whose corner is rounded; both ``a`` and ``b`` are negative inside."""
    outside = jnp.sqrt(jnp.maximum(a, 0.0) ** 2 + jnp.maximum(b, 0.0) ** 2 + 1e-9)
    return outside + jnp.minimum(jnp.maximum(a, b), 0.0) - radius
