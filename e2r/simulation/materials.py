"""What each pixel of a simulated frame shows, and its colour without light."""

from __future__ import annotations

import jax.numpy as jnp

from e2r.simulation.tissue import smoothstep
from e2r.simulation.tracing import SceneDistances
from e2r.simulation.wound import WoundScene
from e2r.types import Array, Float, Int

BONE, TISSUE, SKIN, DRAPE, INSTRUMENT = range(5)
"""The materials, by their number in an image."""


def classify_points(
    scene: WoundScene, points: Float[Array, "n 3"], distances: SceneDistances
) -> Int[Array, "n"]:
    """The material of points on the scene's surface.

    Args:
      scene: all that can be seen.
      points: mm, canonical frame.
      distances: from the points to the scene.
    """
    bounds, maps = jnp.asarray(distances.bounds), distances.maps
    # A ray that gets stuck beside a steep wall has met soft tissue.
    bounds = bounds.at[:, ::2].add(jnp.where(bounds[:, ::2] > 0.5, 1e3, 0.0))
    nearest = jnp.argmin(bounds, axis=1)
    offset = points[:, ::2] - scene.tissue.middle[None]
    draped = jnp.any(jnp.abs(offset) > scene.tissue.drape[None], axis=1)
    soft = jnp.where(draped, DRAPE, jnp.where(maps[:, 2] > 1.03, SKIN, TISSUE))
    bone = jnp.where(maps[:, 1] > 0.35, TISSUE, BONE)
    return jnp.where(nearest == 0, bone, jnp.where(nearest == 1, soft, INSTRUMENT))


def paint_points(
    scene: WoundScene,
    points: Float[Array, "n 3"],
    *,
    material: Int[Array, "n"],
    maps: Float[Array, "n 5"],
    instrument_color: Float[Array, "n 3"],
) -> Float[Array, "n 3"]:
    """Colours without light. Blood on bone and pale tissue keep colour alone from telling bone.

    Args:
      scene: with its base colours.
      points: mm, canonical frame.
      material: of each point.
      maps: channels of the tissue's maps under each point.
      instrument_color: of the nearest instrument.
    """
    paint = scene.paint
    bone, muscle, fat, skin, drape, blood = paint.base[:, None]

    def wave(vector: list[float], length: float) -> Array:
        return jnp.sin(points @ jnp.asarray(vector) / length)

    texture = 0.5 * wave([1.0, 0.7, 0.4], 2.1) + 0.5 * wave([-0.3, 0.6, 1.1], 3.7)
    level = paint.pale_level
    pale = wave([0.5, 1.2, 0.8], 7.0) + wave([1.1, -0.2, 0.6], 11.0)
    pale = smoothstep(pale, level, level + 0.6)
    wall = smoothstep(maps[:, 2], 0.93, 1.0)[:, None]
    bloody = smoothstep(maps[:, 3], paint.stain_level, paint.stain_level + 1.5)[:, None]
    meat = muscle + (fat - muscle) * jnp.maximum(wall, paint.pale_share * pale[:, None])
    meat = meat + 0.5 * bloody * (blood - meat)
    stained_bone = bone + paint.bone_stain * bloody * (blood - bone)
    stained_skin = skin + 0.4 * bloody * (blood - skin)
    plain = jnp.select(
        [(material == kind)[:, None] for kind in (BONE, TISSUE, SKIN, DRAPE)],
        [stained_bone, meat, stained_skin, drape + 0.0 * meat],
        instrument_color,
    )
    return plain * (1.0 + paint.texture * texture[:, None])
