"""Renders a wound scene as an RGB-D frame by sphere tracing."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.geometry import poses
from e2r.simulation import anatomy, wound
from e2r.simulation.anatomy import Bones
from e2r.simulation.camera import Camera, rays, sample_camera, sense_color, sense_depth
from e2r.simulation.instruments import distance_to_instruments
from e2r.simulation.wound import WoundScene
from e2r.types import Array, Pose

BONE, TISSUE, SKIN, DRAPE, TOOL = range(5)
CONE = 4
"""Pixels along each side of the cones that are traced first."""


class RenderedFrame(NamedTuple):
    """One simulated RGB-D picture with what only a simulator knows."""

    color: Array  # (H, W, 3) in [0, 1]
    depth: Array  # (H, W) mm, 0 where unseen
    focal: Array  # () pixels
    kind: Array  # (H, W) int32: BONE, TISSUE, SKIN, DRAPE or TOOL
    level: Array  # (H, W) int32: nearest level
    clean: Array  # (H, W) mm, depth without the sensor
    exposed: Array  # (L,) bool
    pose: Pose  # camera from canonical
    posture: Pose  # (L, ...) what moved each level since the scan, canonical frame


def _distances(scene: WoundScene, points: Array) -> tuple[Array, Array, Array]:
    """Distance bounds (N, 3) to bone with its remnants, soft tissue, tools; maps (N, 5); level."""
    maps = wound.tissue_at(scene.tissue, points)
    bone, level = anatomy.distance_to_bone(scene.bones, points)
    soft = maps[:, 4] * (points[:, 1] - maps[:, 0])
    tools = jnp.min(distance_to_instruments(scene.tools, points), axis=1)
    return jnp.stack([bone - maps[:, 1], soft, tools], -1), maps, level


def _normals(points: Array) -> Array:
    """Unit normals (H, W, 3) of an organised picture of points, by central differences."""
    padded = jnp.pad(points, ((1, 1), (1, 1), (0, 0)), mode="edge")
    across = padded[1:-1, 2:] - padded[1:-1, :-2]
    down = padded[2:, 1:-1] - padded[:-2, 1:-1]
    normal = jnp.cross(down, across)
    return normal / (jnp.linalg.norm(normal, axis=-1, keepdims=True) + 1e-9)


def render(
    key: Array, scene: WoundScene, camera: Camera, posture: Pose, *, width: int, height: int
) -> RenderedFrame:
    """Photographs a scene: sphere tracing, a head light, then the sensor.

    Args:
      key: consumed by the sensor.
      scene: from :func:`sample_scene`.
      camera: from :func:`e2r.simulation.camera.sample_camera`.
      posture: what moved each level, kept beside the picture.
      width, height: pixels, multiples of ``CONE``.
    """
    k_depth, k_color = jax.random.split(key)
    origin, directions = rays(camera, width, height)
    length = jnp.linalg.norm(directions, axis=1)

    aim = poses.apply(camera.pose, scene.look_at)[2]

    def march(rays_: Array, depth: Array, steps: int, spread: Array) -> Array:
        """Walks along rays until nearer than the cone of half width ``spread * depth``."""
        scale = 0.9 / jnp.linalg.norm(rays_, axis=1)

        def step(_: int, depth: Array) -> Array:
            d = jnp.min(_distances(scene, origin + depth[:, None] * rays_)[0], axis=1)
            free = jnp.where(spread > 0, jnp.maximum(d - spread * depth, 0.0), d)
            return jnp.minimum(depth + scale * free, 1500.0)

        return jax.lax.fori_loop(0, steps, step, depth)

    # A few wide cones first: each clears the way for the pixels inside it.
    cells = directions.reshape(height // CONE, CONE, width // CONE, CONE, 3)
    axes = cells.mean((1, 3)).reshape(-1, 3)
    near = jnp.full(axes.shape[0], 0.4) * aim
    near = march(axes, near, 16, 0.75 * CONE / camera.focal)
    near = near.reshape(height // CONE, 1, width // CONE, 1)
    near = jnp.broadcast_to(near, cells.shape[:4]).reshape(-1)
    depth = march(directions, near, 36, jnp.zeros(()))
    points = origin + depth[:, None] * directions
    normals = _normals(points.reshape(height, width, 3)).reshape(-1, 3)

    apart, maps, level = _distances(scene, points)
    apart = apart.at[:, ::2].add(jnp.where(apart[:, ::2] > 0.5, 1e3, 0.0))  # stuck at a wall: soft
    nearest = jnp.argmin(apart, axis=1)
    offset = points[:, ::2] - scene.tissue.middle
    draped = jnp.any(jnp.abs(offset) > scene.tissue.drape, axis=1)
    soft = jnp.where(draped, DRAPE, jnp.where(maps[:, 2] > 1.03, SKIN, TISSUE))
    bone = jnp.where(maps[:, 1] > 0.35, TISSUE, BONE)
    kind = jnp.where(nearest == 0, bone, jnp.where(nearest == 1, soft, TOOL))

    which = jnp.argmin(distance_to_instruments(scene.tools, points), axis=1)
    shiny = (kind == TOOL) & scene.tools.metal[which]
    color = _paint(scene, kind, maps, points, scene.tools.color[which])
    facing = -jnp.sum(normals * directions, 1) / length
    light = 0.25 + 0.75 * jnp.clip(facing, 0.0, 1.0)
    gloss = jnp.clip(facing, 0.0, 1.0) ** 40 * jnp.where(shiny, 0.9, 0.2)
    color = color * light[:, None] + gloss[:, None]
    shape = (height, width)
    depth = depth.reshape(shape)
    return RenderedFrame(
        color=sense_color(k_color, jnp.clip(color, 0.0, 1.0).reshape(*shape, 3)),
        depth=sense_depth(k_depth, depth, shiny.reshape(shape)),
        focal=camera.focal,
        kind=kind.reshape(shape),
        level=level.reshape(shape),
        clean=depth,
        exposed=scene.exposed,
        pose=camera.pose,
        posture=posture,
    )


def _paint(scene: WoundScene, kind: Array, maps: Array, points: Array, tool: Array) -> Array:
    """Colour (N, 3) without light. Blood on bone and pale tissue keep colour from sufficing."""
    bone, muscle, fat, skin, drape, blood = scene.paint
    wave = lambda v, s: jnp.sin(points @ jnp.asarray(v) / s)  # noqa: E731
    texture = 0.5 * wave([1.0, 0.7, 0.4], 2.1) + 0.5 * wave([-0.3, 0.6, 1.1], 3.7)
    pale = wound.smoothstep(wave([0.5, 1.2, 0.8], 7.0) + wave([1.1, -0.2, 0.6], 11.0), 0.7, 1.3)
    wall = wound.smoothstep(maps[:, 2], 0.93, 1.0)[:, None]
    bloody = wound.smoothstep(maps[:, 3], -0.3, 1.2)[:, None]
    meat = muscle + (fat - muscle) * jnp.maximum(wall, 0.8 * pale[:, None])
    meat = meat + 0.5 * bloody * (blood - meat)
    osseous = bone + 0.85 * bloody * (blood - bone)
    plain = jnp.select(
        [(kind == BONE)[:, None], (kind == TISSUE)[:, None], (kind == SKIN)[:, None],
         (kind == DRAPE)[:, None]],
        [osseous, meat, skin + 0.4 * bloody * (blood - skin), drape + 0.0 * meat],
        tool,
    )  # fmt: skip
    return plain * (1.0 + 0.08 * texture[:, None])


def photograph(
    key: Array,
    bones: Bones,
    *,
    width: int,
    height: int,
    wound_fraction: tuple[float, float],
    degrees: float = 0.0,
    mm: float = 0.0,
    unbent_fraction: float = 0.0,
) -> RenderedFrame:
    """One simulated frame of a spine: a fresh scene, a fresh camera, a fresh sensor.

    Args:
      key: consumed.
      bones: the spine.
      width, height: pixels.
      fill: range of the wound's share of the picture.
      degrees, mm: how far each level has moved since the scan, standard deviations per axis.
      still: chance that none has.
    """
    k_scene, k_camera, k_render = jax.random.split(key, 3)
    moves = (jax.random.uniform(jax.random.fold_in(key, 4)) >= unbent_fraction).astype(jnp.float32)
    bones, posture = anatomy.bend_spine(
        jax.random.fold_in(key, 3), bones, degrees=moves * degrees, mm=moves * mm
    )
    scene = wound.sample_scene(k_scene, bones)
    camera = sample_camera(
        k_camera,
        scene.look_at,
        scene.opening,
        width=width,
        height=height,
        wound_fraction=wound_fraction,
    )
    return render(k_render, scene, camera, posture, width=width, height=height)
