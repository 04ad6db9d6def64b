"""Light on a simulated scene: a lamp at the camera, or theatre lamps that cast shadows."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.simulation.tracing import distances_to_scene
from e2r.simulation.uniform_draws import UniformDraws
from e2r.simulation.wound import WoundScene
from e2r.types import Array, Bool, Float, PRNGKey

SHADOW_STEPS = 14
"""Steps from a point towards a lamp."""
PENUMBRA = 8.0
"""Distance from a lamp's ray, times this, over the way along the ray: share of its light."""


class LitPoints(NamedTuple):
    """What the light needs to know of the visible points; canonical frame."""

    points: Float[Array, "h w 3"]  # mm
    normals: Float[Array, "h w 3"]  # unit
    to_camera: Float[Array, "h w 3"]  # unit
    shiny: Bool[Array, "h w"]  # metal


def head_light(
    color: Float[Array, "n 3"], facing: Float[Array, "n"], shiny: Bool[Array, "n"]
) -> Float[Array, "n 3"]:
    """Colours under a light at the camera, with a highlight that is stronger on metal.

    Args:
      color: without light.
      facing: cosine between the surface's normal and the way to the camera.
      shiny: metal.
    """
    light = 0.25 + 0.75 * jnp.clip(facing, 0.0, 1.0)
    gloss = jnp.clip(facing, 0.0, 1.0) ** 40 * jnp.where(shiny, 0.9, 0.2)
    return color * light[:, None] + gloss[:, None]


def theatre_light(
    key: PRNGKey, scene: WoundScene, lit: LitPoints, color: Float[Array, "h w 3"]
) -> Float[Array, "h w 3"]:
    """Colours under ambient light, a head light and two lamps above; the first casts shadows.

    Args:
      key: consumed.
      scene: all that can be between a point and a lamp.
      lit: the visible points; height and width are even.
      color: without light.
    """
    k_draws, k_way, k_tint = jax.random.split(key, 3)
    uniform = UniformDraws(k_draws, 8)
    ambient, head, gloss = uniform(0.1, 0.45), uniform(0.0, 0.7), uniform(0.02, 0.5)
    share = uniform(0.3, 1.0)
    ways = jnp.array([[0.0, 1.0, 0.0]]) + 0.55 * jax.random.normal(k_way, (2, 3))
    ways = ways.at[:, 1].set(jnp.maximum(ways[:, 1], 0.35))
    ways = ways / jnp.linalg.norm(ways, axis=1, keepdims=True)
    tint = jnp.exp(0.06 * jax.random.normal(k_tint, (2, 3)))
    strength = (1.05 - ambient - 0.6 * head) * jnp.stack([share, 1.0 - share])
    free = jnp.stack([_unshadowed(scene, lit, ways[0]), jnp.ones(lit.shiny.shape)])
    facing = jnp.clip(jnp.sum(lit.normals * lit.to_camera, -1), 0.0, 1.0)
    total = (ambient + head * facing)[..., None] * jnp.ones(3)[None, None]
    shine = head * facing**40
    for lamp in range(2):
        way = ways[lamp][None, None]
        diffuse = free[lamp] * jnp.clip(jnp.sum(lit.normals * way, -1), 0.0, 1.0)
        total = total + strength[lamp] * diffuse[..., None] * tint[lamp][None, None]
        half = lit.to_camera + way
        half = half / (jnp.linalg.norm(half, axis=-1, keepdims=True) + 1e-6)
        mirrored = jnp.clip(jnp.sum(lit.normals * half, -1), 0.0, 1.0) ** 40
        shine = shine + strength[lamp] * free[lamp] * mirrored
    return color * total + (shine * jnp.where(lit.shiny, 0.9, gloss))[..., None]


def _unshadowed(
    scene: WoundScene, lit: LitPoints, way: Float[Array, "3"]
) -> Float[jax.Array, "h w"]:
    """Share of a lamp's light that reaches each point, found at every second row and column.

    Soft shadows by sphere tracing: the smallest ratio of distance and way along the ray.
    """
    height, width, _ = lit.points.shape
    points = (lit.points + 2.0 * lit.normals)[::2, ::2].reshape(-1, 3)

    def step(_: Array, walk: tuple[Array, Array]) -> tuple[Array, Array]:
        along, share = walk
        here = points + along[:, None] * way[None]
        free = jnp.min(distances_to_scene(scene, here).bounds, axis=1)
        share = jnp.minimum(share, jnp.clip(PENUMBRA * free / along, 0.0, 1.0))
        return along + jnp.clip(free, 2.0, 30.0), share

    start = (jnp.full(len(points), 3.0), jnp.ones(len(points)))
    _, share = jax.lax.fori_loop(0, SHADOW_STEPS, step, start)
    return jax.image.resize(share.reshape(height // 2, width // 2), (height, width), "linear")
