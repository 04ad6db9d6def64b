"""One vertebra, or a sacrum, as a signed distance function with a random shape."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.geometry import poses
from e2r.types import Array, Float, PRNGKey, ScalarLike

PARTS = (
    "pedicle",
    "lamina",
    "superior articular process",
    "inferior articular process",
    "transverse process",
)
"""Paired posterior parts, left side; the body and the spinous process lie on the midline."""


class Vertebra(NamedTuple):
    """One procedural vertebra in its own LPS frame, origin at the centre of the body.

    The posterior parts are tapered rounded boxes. Their first axis is the long one. Five left
    parts come first, in the order of :data:`PARTS`, then five right ones, then the spinous
    process. A sacrum has as many parts, see :func:`sample_sacrum`.
    """

    body: Float[Array, "3"]  # half width, half depth, half height, mm
    canal: Float[Array, "3"]  # half width, half depth, y of the centre, mm
    centre: Float[Array, "11 3"]  # mm
    axes: Float[Array, "11 3 3"]  # columns are the part's axes
    half_size: Float[Array, "11 3"]  # mm, along the part's axes
    taper: Float[Array, "11"]  # relative growth of the section towards the far end
    waves: Float[Array, "w 3"]  # wave vectors of the surface's unevenness, rad/mm
    phases: Float[Array, "w"]
    amplitude: Float[Array, ""]  # mm


class _Parts(NamedTuple):
    """Posterior parts before they vary: the five left ones, or the single one on the midline."""

    centre: Float[Array, "*p 3"]  # mm
    along: Float[Array, "*p 3"]  # direction of the long axis, any length
    up: Float[Array, "*p 3"]  # third axis, roughly
    half_size: Float[Array, "*p 3"]  # mm
    taper: Float[Array, "*p"]


def sample_vertebra(key: PRNGKey, position: Float[Array, ""], scale: Float[Array, ""]) -> Vertebra:
    """Draws one vertebra's shape.

    Sizes follow published lumbar morphometry (Panjabi et al., Spine 17, 1992). From L1 to L5
    bodies and canals widen, pedicles thicken, and spinous processes shorten.

    Args:
      key: consumed.
      position: 0 at L1 to 1 at L5; negative at T12, whose transverse processes are stubs.
      scale: the specimen's size, 1 on average.
    """
    keys = jax.random.split(key, 8)
    body = _between([21.0, 16.0, 13.0], [25.5, 17.5, 13.0], position) * _vary(keys[0], (3,), 0.06)
    canal_half = _between([11.0, 8.0], [13.0, 8.5], position) * _vary(keys[1], (2,), 0.08)
    pedicle = _between(4.2, 7.0, position) * _vary(keys[2], (), 0.12)  # half width
    left = _left_parts(position, width=canal_half[0], back=body[1], pedicle=pedicle)
    spinous = _spinous_process(position, back=body[1])
    canal = jnp.append(canal_half, body[1] + 0.95 * canal_half[1])
    return _assemble(keys[3:], left, spinous, body=body, canal=canal, scale=scale, place_noise=1.1)


def _left_parts(
    position: Float[Array, ""],
    *,
    width: Float[Array, ""],
    back: Float[Array, ""],
    pedicle: Float[Array, ""],
) -> _Parts:
    """The left parts of a lumbar vertebra, in the order of :data:`PARTS`.

    Args:
      position: along the lumbar spine, as in :func:`sample_vertebra`.
      width: half width of the canal, mm.
      back: half depth of the body, mm.
      pedicle: half width of a pedicle, mm.
    """
    transverse = jnp.where(position < 0, 4.0, _between(14.0, 15.0, position))  # half length
    centre = jnp.stack(
        [
            _vector(width + pedicle, back + 5.0, 5.0),
            _vector(0.62 * width, back + 18.0, -3.0),
            _vector(width + pedicle + 1.5, back + 10.5, 13.0),
            _vector(width + 1.5, back + 19.0, -16.0),
            _vector(width + pedicle + 1.0 + transverse, back + 10.0, 4.0),
        ]
    )
    along = jnp.stack(
        [
            _vector(0.15, 1.0, 0.0),
            _vector(-0.80, 0.55, -0.05),
            _vector(0.05, 0.10, 1.0),
            _vector(0.10, 0.05, -1.0),
            _vector(1.0, _between(0.25, 0.10, position), 0.10),
        ]
    )
    up = jnp.array([[0, 0, 1], [0, -0.28, 1], [1, 0.4, 0], [1, 0.3, 0], [0, 0, 1]], jnp.float32)
    half_size = jnp.stack(
        [
            _vector(10.0, pedicle, 7.2),
            _vector(9.5, 3.3, _between(10.5, 8.5, position)),
            _vector(9.5, 3.6, _between(5.0, 6.0, position)),
            _vector(10.0, 3.5, _between(4.6, 5.5, position)),
            _vector(transverse, 3.6, _between(5.0, 6.5, position)),
        ]
    )
    return _Parts(centre, along, up, half_size, jnp.array([0.0, 0.0, -0.15, -0.1, -0.2]))


def _spinous_process(position: Float[Array, ""], *, back: Float[Array, ""]) -> _Parts:
    """The spinous process of a lumbar vertebra whose body has the half depth ``back``, mm."""
    half_length = _between(16.5, 12.0, position)
    return _Parts(
        _vector(0.0, back + 18.0 + half_length, -7.0),
        _vector(0.0, 1.0, -0.22),
        jnp.array([0.0, 0.1, 1.0]),
        _vector(half_length, 3.2, _between(10.5, 8.0, position)),
        jnp.array(0.18),
    )


def age_vertebra(key: PRNGKey, shape: Vertebra) -> Vertebra:
    """A vertebra with rougher bone and swollen joints, as arthrosis leaves it, or nearly none.

    Args:
      key: consumed.
      shape: a vertebra or a sacrum.
    """
    k_rough, k_swell, k_parts = jax.random.split(key, 3)
    rough = jnp.exp(jax.random.uniform(k_rough, (), maxval=1.2))
    swell = jax.random.uniform(k_swell, (2,), maxval=0.35)  # left and right
    joints = jnp.array([0, 0, 1, 1, 0], jnp.float32)
    grown = 1.0 + jnp.append(swell[:, None] * joints[None], 0.0)
    half_size = shape.half_size * grown[:, None] * _vary(k_parts, shape.half_size.shape, 0.06)
    return shape._replace(half_size=half_size, amplitude=rough * shape.amplitude)


def sample_sacrum(key: PRNGKey, scale: Float[Array, ""]) -> Vertebra:
    """Draws a sacrum, made of the same kind of parts.

    Its origin is the centre of the first sacral body. Its paired parts are wing, upper back wall,
    superior articular process, lateral mass and lower back wall. The single part is the median
    crest. Sizes are those of an adult, to a centimetre.

    Args:
      key: consumed.
      scale: the specimen's size, 1 on average.
    """
    k_size, *keys = jax.random.split(key, 6)
    size = jnp.exp(0.08 * jnp.clip(jax.random.normal(k_size, (3,)), -2.0, 2.0))
    rows = (
        [[36, 8, -8], [11, 32, -16], [20, 22, 6], [22, 27, -40], [9, 45, -50]],
        [[4, 1.4, -1], [-1.7, 1, 0], [0.05, 0.1, 1], [-0.7, 1, -2.8], [-1.9, 1, 0]],
        [[0, 0, 1], [0, -0.5, 1], [1, 0.4, 0], [1, 0, 0], [0, -0.3, 1]],
        [[18, 11, 15], [13, 4.5, 22], [13, 7, 8], [36, 10, 14], [12, 4.5, 24]],
        [-0.1, 0.0, -0.15, -0.35, -0.2],
    )  # fmt: skip
    crest_rows = ([0, 41, -28], [0, 0.45, -1], [0, 1, 0.45], [28, 3, 7], -0.3)
    left = _Parts(*(jnp.array(row, jnp.float32) for row in rows))
    crest = _Parts(*(jnp.array(row, jnp.float32) for row in crest_rows))
    body, canal = jnp.array([25.0, 16.0, 14.0]) * size, jnp.array([9.0, 4.5, 22.0])
    return _assemble(
        jnp.stack(keys), left, crest, body=body, canal=canal, scale=scale, place_noise=2.0
    )


def _between(
    first: list[float] | float, last: list[float] | float, position: Float[Array, ""]
) -> Float[jax.Array, "..."]:
    """A size between its values at L1 and at L5, linear along the spine."""
    return jnp.asarray(first) + position * (jnp.asarray(last) - jnp.asarray(first))


def _vary(key: PRNGKey, shape: tuple[int, ...], sigma: float) -> Float[jax.Array, "..."]:
    """Log-normal factors whose logarithm ends at two standard deviations."""
    return jnp.exp(sigma * jnp.clip(jax.random.normal(key, shape), -2.0, 2.0))


def _vector(x: ScalarLike, y: ScalarLike, z: ScalarLike) -> Float[jax.Array, "3"]:
    return jnp.stack([jnp.asarray(v, jnp.float32) for v in (x, y, z)])


def _assemble(
    keys: Array,
    left: _Parts,
    single: _Parts,
    *,
    body: Float[Array, "3"],
    canal: Float[Array, "3"],
    scale: Float[Array, ""],
    place_noise: float,
) -> Vertebra:
    """Mirrors the left parts, adds the single one, and varies each part.

    Args:
      keys: five, consumed.
      left: the paired parts of the left side.
      single: the part on the midline.
      body: half sizes of the body, mm.
      canal: as in :class:`Vertebra`, mm.
      scale: of all lengths.
      place_noise: standard deviation of a part's place, mm.
    """
    mirror = jnp.array([[-1.0, 1.0, 1.0]])
    flips: tuple[Array | float, ...] = (mirror, mirror, mirror, 1.0, 1.0)
    centre, along, up, half_size, taper = (
        jnp.concatenate([rows, rows * flip, row[None]])
        for rows, row, flip in zip(left, single, flips, strict=True)
    )
    half_size = half_size * _vary(keys[0], half_size.shape, 0.09)
    centre = centre + place_noise * jax.random.normal(keys[1], centre.shape)
    taper = taper + 0.08 * jax.random.normal(keys[2], taper.shape)
    turn = 0.09 * jax.random.normal(keys[3], centre.shape)
    axes = jax.vmap(lambda a, u, w: poses.exp_rotation(w) @ _part_axes(a, u))(along, up, turn)
    k_direction, k_length, k_phase, k_amplitude = jax.random.split(keys[4], 4)
    direction = jax.random.normal(k_direction, (6, 3))
    direction = direction / jnp.linalg.norm(direction, axis=1, keepdims=True)
    length = jax.random.uniform(k_length, (6, 1), minval=9.0, maxval=28.0)
    return Vertebra(
        body=scale * body,
        canal=scale * canal,
        centre=scale * centre,
        axes=axes,
        half_size=scale * half_size,
        taper=taper,
        waves=2 * jnp.pi / length * direction,
        phases=jax.random.uniform(k_phase, (6,), maxval=2 * jnp.pi),
        amplitude=jax.random.uniform(k_amplitude, (), minval=0.1, maxval=0.45),
    )


def _part_axes(along: Float[Array, "3"], up: Float[Array, "3"]) -> Float[jax.Array, "3 3"]:
    """Right-handed axes as columns: the first along ``along``, the third nearly along ``up``."""
    x = along / jnp.linalg.norm(along)
    y = jnp.cross(up, x)
    y = y / jnp.linalg.norm(y)
    return jnp.stack([x, y, jnp.cross(x, y)], axis=1)
