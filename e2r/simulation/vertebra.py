"""One vertebra, or a sacrum, as a signed distance function with random shape."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.geometry import poses
from e2r.types import Array

SHAPE = (69, 60, 49)
LOW = (-59.5, -27.0, -45.0)
SACRUM_SPACING = 2.5
SACRUM_LOW = (-86.0, -22.0, -100.0)
"""Grid of a procedural level in its own frame: mm between nodes, nodes, first node. The sacrum has
as many nodes, farther apart."""
PARTS = (
    "pedicle", "lamina", "superior articular process", "inferior articular process",
    "transverse process",
)  # fmt: skip
"""Paired posterior parts, left side; the body and the spinous process lie on the midline."""


class Vertebra(NamedTuple):
    """One procedural vertebra in its own LPS frame, origin at the centre of the body.

    The posterior parts are tapered rounded boxes, whose long axis is their own first axis:
    5 left, 5 right (in the order of ``PARTS``), then the spinous process. A sacrum is made of as
    many parts, see :func:`sample_sacrum`.
    """

    body: Array  # (3,) half width, half depth, half height
    canal: Array  # (3,) half width, half depth, y of the centre
    centre: Array  # (11, 3)
    axes: Array  # (11, 3, 3), columns are the part's axes
    half: Array  # (11, 3) half extents
    taper: Array  # (11,) relative growth of the section towards the far end
    waves: Array  # (W, 3) wave vectors of the surface's unevenness, rad/mm
    phases: Array  # (W,)
    amplitude: Array  # () mm


def sample_vertebra(key: Array, rank: Array, scale: Array) -> Vertebra:
    """Draws one vertebra's shape.

    Sizes follow published lumbar morphometry (Panjabi et al., Spine 17, 1992): from L1 to L5
    bodies and canals widen, pedicles thicken, spinous processes shorten.

    Args:
      key: consumed.
      rank: () 0 at L1 to 1 at L5; less at T12, whose transverse processes are stubs.
      scale: () the specimen's size, 1 on average.
    """
    keys = jax.random.split(key, 8)
    mix = lambda first, last: jnp.asarray(first) + rank * (jnp.asarray(last) - jnp.asarray(first))  # noqa: E731
    wobble = lambda k, shape, sigma: jnp.exp(  # noqa: E731
        sigma * jnp.clip(jax.random.normal(k, shape), -2.0, 2.0)
    )
    body = mix([21.0, 16.0, 13.0], [25.5, 17.5, 13.0]) * wobble(keys[0], (3,), 0.06)
    canal_half = mix([11.0, 8.0], [13.0, 8.5]) * wobble(keys[1], (2,), 0.08)
    wide, back = canal_half[0], body[1]
    thick = mix(4.2, 7.0) * wobble(keys[2], (), 0.12)  # half width of a pedicle
    transverse = jnp.where(rank < 0, 4.0, mix(14.0, 15.0))  # half length
    vec = _vector
    # Left parts: centre, direction of the long axis, roughly cranial axis, half extents.
    centre = jnp.stack(
        [
            vec(wide + thick, back + 5.0, 5.0),
            vec(0.62 * wide, back + 18.0, -3.0),
            vec(wide + thick + 1.5, back + 10.5, 13.0),
            vec(wide + 1.5, back + 19.0, -16.0),
            vec(wide + thick + 1.0 + transverse, back + 10.0, 4.0),
        ]
    )
    along = jnp.stack(
        [
            vec(0.15, 1.0, 0.0),
            vec(-0.80, 0.55, -0.05),
            vec(0.05, 0.10, 1.0),
            vec(0.10, 0.05, -1.0),
            vec(1.0, mix(0.25, 0.10), 0.10),
        ]
    )
    up = jnp.array([[0, 0, 1], [0, -0.28, 1], [1, 0.4, 0], [1, 0.3, 0], [0, 0, 1]], jnp.float32)
    half = jnp.stack(
        [
            vec(10.0, thick, 7.2),
            vec(9.5, 3.3, mix(10.5, 8.5)),
            vec(9.5, 3.6, mix(5.0, 6.0)),
            vec(10.0, 3.5, mix(4.6, 5.5)),
            vec(transverse, 3.6, mix(5.0, 6.5)),
        ]
    )
    taper = jnp.array([0.0, 0.0, -0.15, -0.1, -0.2])
    long = mix(16.5, 12.0)
    tip = (vec(0.0, back + 18.0 + long, -7.0), vec(0.0, 1.0, -0.22), jnp.array([0.0, 0.1, 1.0]),
           vec(long, 3.2, mix(10.5, 8.0)), jnp.array(0.18))  # fmt: skip
    left = (centre, along, up, half, taper)
    canal = jnp.append(canal_half, back + 0.95 * canal_half[1])
    return _paired(keys[3:], left, tip, body, canal, scale, loose=1.1)


def sample_sacrum(key: Array, scale: Array) -> Vertebra:
    """Draws a sacrum of the same kind of parts, origin at the centre of the first sacral body.

    Its paired parts are wing, upper back wall, superior articular process, lateral mass and lower
    back wall; the single one is the median crest. Sizes are those of an adult's, to a centimetre.

    Args:
      key, scale: as in :func:`sample_vertebra`.
    """
    k_size, *keys = jax.random.split(key, 6)
    size = jnp.exp(0.08 * jnp.clip(jax.random.normal(k_size, (3,)), -2.0, 2.0))
    left = tuple(
        jnp.array(rows, jnp.float32)
        for rows in (
            [[36, 8, -8], [11, 32, -16], [20, 22, 6], [22, 27, -40], [9, 45, -50]],
            [[4, 1.4, -1], [-1.7, 1, 0], [0.05, 0.1, 1], [-0.7, 1, -2.8], [-1.9, 1, 0]],
            [[0, 0, 1], [0, -0.5, 1], [1, 0.4, 0], [1, 0, 0], [0, -0.3, 1]],
            [[18, 11, 15], [13, 4.5, 22], [13, 7, 8], [36, 10, 14], [12, 4.5, 24]],
            [-0.1, 0.0, -0.15, -0.35, -0.2],
        )
    )  # fmt: skip
    tip = tuple(
        jnp.array(row, jnp.float32)
        for row in ([0, 41, -28], [0, 0.45, -1], [0, 1, 0.45], [28, 3, 7], -0.3)
    )
    body, canal = jnp.array([25.0, 16.0, 14.0]) * size, jnp.array([9.0, 4.5, 22.0])
    return _paired(jnp.stack(keys), left, tip, body, canal, scale, loose=2.0)


def _vector(x: Array | float, y: Array | float, z: Array | float) -> Array:
    return jnp.stack([jnp.asarray(v, jnp.float32) for v in (x, y, z)])


def _paired(
    keys: Array, left: tuple, tip: tuple, body: Array, canal: Array, scale: Array, *, loose: float
) -> Vertebra:
    """A vertebra of its left parts (5, ...), mirrored, and its single one; then each part wobbles.

    Args:
      keys: five, consumed.
      left, tip: centre, direction of the long axis, third axis, half extents, taper.
      body, canal: as in :class:`Vertebra`.
      scale: of all lengths.
      loose: mm, standard deviation of a part's place.
    """
    # The right side mirrors the left, then each side goes its own way.
    mirror = jnp.array([-1.0, 1.0, 1.0])
    flips = (mirror, mirror, mirror, 1.0, 1.0)
    centre, along, up, half, taper = (
        jnp.concatenate([rows, rows * flip, row[None]])
        for rows, row, flip in zip(left, tip, flips, strict=True)
    )
    half = half * jnp.exp(0.09 * jnp.clip(jax.random.normal(keys[0], half.shape), -2.0, 2.0))
    centre = centre + loose * jax.random.normal(keys[1], centre.shape)
    taper = taper + 0.08 * jax.random.normal(keys[2], taper.shape)
    turn = 0.09 * jax.random.normal(keys[3], centre.shape)
    axes = jax.vmap(lambda a, u, w: poses.exp_rotation(w) @ _frame(a, u))(along, up, turn)
    k_direction, k_length, k_phase, k_amplitude = jax.random.split(keys[4], 4)
    direction = jax.random.normal(k_direction, (6, 3))
    direction = direction / jnp.linalg.norm(direction, axis=1, keepdims=True)
    length = jax.random.uniform(k_length, (6, 1), minval=9.0, maxval=28.0)
    return Vertebra(
        body=scale * body,
        canal=scale * canal,
        centre=scale * centre,
        axes=axes,
        half=scale * half,
        taper=taper,
        waves=2 * jnp.pi / length * direction,
        phases=jax.random.uniform(k_phase, (6,), maxval=2 * jnp.pi),
        amplitude=jax.random.uniform(k_amplitude, (), minval=0.1, maxval=0.45),
    )


def _frame(along: Array, up: Array) -> Array:
    """Right-handed axes (as columns): first along, third as near `up` as can be."""
    x = along / jnp.linalg.norm(along)
    y = jnp.cross(up, x)
    y = y / jnp.linalg.norm(y)
    return jnp.stack([x, y, jnp.cross(x, y)], axis=1)


def signed_distance(vertebra: Vertebra, points: Array) -> jax.Array:
    """Signed distance bound (mm, negative inside) of ``points (..., 3)`` in the level's frame."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    a, b, h = vertebra.body[0], vertebra.body[1], vertebra.body[2]
    waist = 1.0 - 0.09 * (1.0 - jnp.clip(z / h, -1.0, 1.0) ** 2)
    radius = (jnp.abs(x / (a * waist)) ** 2.4 + jnp.abs(y / (b * waist)) ** 2.4 + 1e-9) ** (1 / 2.4)
    side = (radius - 1.0) * b + 2.0
    dish = 1.5 * jnp.clip(1.0 - radius * radius, 0.0, 1.0)  # concave end plates
    end = jnp.abs(z) - h + dish + 2.0
    outside = jnp.sqrt(jnp.maximum(side, 0.0) ** 2 + jnp.maximum(end, 0.0) ** 2 + 1e-9)
    total = jnp.exp(-(outside + jnp.minimum(jnp.maximum(side, end), 0.0) - 2.0) / _BLEND)
    parts = (vertebra.centre, vertebra.axes, vertebra.half, vertebra.taper)
    total, _ = jax.lax.scan(  # part by part: no (N, parts) array in memory
        lambda sum_, part: (sum_ + jnp.exp(-_part_distance(points, *part) / _BLEND), None),
        total,
        parts,
    )
    solid = -_BLEND * jnp.log(total + 1e-30)
    canal = vertebra.canal
    hole = jnp.sqrt((x / canal[0]) ** 2 + ((y - canal[2]) / canal[1]) ** 2 + 1e-9) - 1.0
    solid = _BLEND * jnp.logaddexp(solid / _BLEND, -hole * canal[1] / _BLEND)
    wave = jnp.sin(jnp.einsum("...i,wi->...w", points, vertebra.waves) + vertebra.phases)
    return solid + vertebra.amplitude * jnp.mean(wave, axis=-1) * 2.0


_BLEND = 1.2
"""mm: width of the smooth unions."""


def _part_distance(points: Array, centre: Array, axes: Array, half: Array, taper: Array) -> Array:
    local = jnp.matmul(points - centre, axes, precision="highest")
    grow = 1.0 + taper * jnp.clip(local[..., 0] / half[0], -1.0, 1.0)
    # A plate whose outline (first and third axis) has round corners, then rounded edges.
    corner = 0.75 * jnp.minimum(half[0], half[2])
    edge = 0.8 * jnp.minimum(half[1], half[2])
    outline = _rounded(
        jnp.abs(local[..., 0]) - half[0] + corner,
        jnp.abs(local[..., 2]) - half[2] * grow + corner,
        corner,
    )
    return _rounded(outline + edge, jnp.abs(local[..., 1]) - half[1] * grow + edge, edge)


def _rounded(a: Array, b: Array, radius: Array) -> Array:
    """Distance to a quadrant's corner rounded by ``radius``: inside where both are negative."""
    outside = jnp.sqrt(jnp.maximum(a, 0.0) ** 2 + jnp.maximum(b, 0.0) ** 2 + 1e-9)
    return outside + jnp.minimum(jnp.maximum(a, b), 0.0) - radius
