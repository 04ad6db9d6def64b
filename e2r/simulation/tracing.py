"""Sphere tracing: how far each pixel's ray goes before it meets the scene."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.geometry import poses
from e2r.simulation.bone_grids import distance_to_bone
from e2r.simulation.camera import Camera
from e2r.simulation.instruments import distance_to_instruments
from e2r.simulation.tissue import tissue_at
from e2r.simulation.wound import WoundScene
from e2r.types import Array, Float, Int, ScalarLike

CONE = 4
"""Pixels along each side of the cones that are traced first."""
CONE_STEPS = 16
"""Steps along a cone."""
FIRST_STEPS = 8
"""Steps along each pixel's ray: most rays arrive."""
LATER_STEPS = ((12, 0.5), (16, 0.35))
"""More steps, and the share of the rays that take them: those that moved most. Along a wall, even
36 steps are too few."""
FAR = 1500.0
"""mm: largest depth."""


class SceneDistances(NamedTuple):
    """How far N points are from each part of a scene."""

    bounds: Float[Array, "n 3"]  # mm: to bone with its remnants, to soft tissue, to instruments
    maps: Float[Array, "n 5"]  # channels of the tissue's maps
    level: Int[Array, "n"]  # nearest level


def distances_to_scene(scene: WoundScene, points: Float[Array, "n 3"]) -> SceneDistances:
    """Distance bounds from points in the canonical frame, mm, to the parts of a scene."""
    maps = tissue_at(scene.tissue, points)
    bone, level = distance_to_bone(scene.bones, points)
    soft = maps[:, 4] * (points[:, 1] - maps[:, 0])
    instruments = jnp.min(distance_to_instruments(scene.instruments, points), axis=1)
    return SceneDistances(jnp.stack([bone - maps[:, 1], soft, instruments], -1), maps, level)


def trace_depth(
    scene: WoundScene,
    camera: Camera,
    origin: Float[Array, "3"],
    directions: Float[Array, "hw 3"],
    *,
    width: int,
    height: int,
) -> Float[Array, "hw"]:
    """Depth of each pixel, mm. A few wide cones go first and clear the way for their pixels.

    Args:
      scene: all that can be met.
      camera: of the rays.
      origin: of the rays, mm, canonical frame.
      directions: of the rays; one unit is 1 mm of depth.
      width: pixels, a multiple of :data:`CONE`.
      height: pixels, a multiple of :data:`CONE`.
    """
    aim = poses.apply(camera.pose, scene.look_at)[2]

    def march(
        rays: Array, depth: Array, steps: int, spread: ScalarLike = 0.0
    ) -> tuple[jax.Array, jax.Array]:
        """Walks along rays until the scene is nearer than a cone's half width, spread * depth.

        Returns depths, and the size of the last step.
        """
        scale = 0.9 / jnp.linalg.norm(rays, axis=1)

        def step(_: Array, walk: tuple[Array, Array]) -> tuple[Array, Array]:
            depth, _ = walk
            points = origin[None] + depth[:, None] * rays
            d = jnp.min(distances_to_scene(scene, points).bounds, axis=1)
            free = jnp.where(spread > 0, jnp.maximum(d - spread * depth, 0.0), d)
            farther = jnp.minimum(depth + scale * free, FAR)
            return farther, jnp.abs(farther - depth)

        return jax.lax.fori_loop(0, steps, step, (depth, depth))

    cells = directions.reshape(height // CONE, CONE, width // CONE, CONE, 3)
    axes = cells.mean((1, 3)).reshape(-1, 3)
    begin = jnp.full(axes.shape[0], 0.4) * aim
    cones, _ = march(axes, begin, CONE_STEPS, 0.75 * CONE / camera.focal)
    near = cones.reshape(height // CONE, 1, width // CONE, 1)
    depth = jnp.broadcast_to(near, cells.shape[:4]).reshape(-1)
    depth, moved = march(directions, depth, FIRST_STEPS)
    for steps, share in LATER_STEPS:
        _, rows = jax.lax.top_k(moved, round(share * len(depth)))
        farther, step = march(directions[rows], depth[rows], steps)
        depth, moved = depth.at[rows].set(farther), moved.at[rows].set(step)
    return depth


def image_normals(points: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """Unit normals of an image of points, by central differences."""
    padded = jnp.pad(points, ((1, 1), (1, 1), (0, 0)), mode="edge")
    across = padded[1:-1, 2:] - padded[1:-1, :-2]
    down = padded[2:, 1:-1] - padded[:-2, 1:-1]
    normal = jnp.cross(down, across)
    return normal / (jnp.linalg.norm(normal, axis=-1, keepdims=True) + 1e-9)
