"""Renders a wound scene as an RGB-D frame: tracing, light, then the sensor."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.simulation.bone_grids import BoneGrids, bend_spine
from e2r.simulation.camera import Camera, rays, sample_camera
from e2r.simulation.instruments import distance_to_instruments
from e2r.simulation.lighting import LitPoints, head_light, theatre_light
from e2r.simulation.materials import INSTRUMENT, classify_points, paint_points
from e2r.simulation.sensor import degrade_color, sense_any_depth, sense_color, sense_depth
from e2r.simulation.tracing import distances_to_scene, image_normals, trace_depth
from e2r.simulation.variety import Variety
from e2r.simulation.wound import WoundScene, sample_scene
from e2r.types import Array, Bool, Float, Int, Pose, PRNGKey


class RenderedFrame(NamedTuple):
    """One simulated RGB-D frame, with the facts that only a simulator knows."""

    color: Float[Array, "h w 3"]  # 0 to 1
    depth: Float[Array, "h w"]  # mm, 0 where unseen
    focal: Float[Array, ""]  # pixels
    material: Int[Array, "h w"]  # one of those in e2r.simulation.materials
    level: Int[Array, "h w"]  # nearest level
    clean: Float[Array, "h w"]  # mm, depth without the sensor's errors
    exposed: Bool[Array, "l"]  # levels in the incision
    pose: Pose  # camera from canonical
    posture: Pose  # (L, ...) motion of each level since the scan, canonical frame


def render(
    key: PRNGKey,
    scene: WoundScene,
    camera: Camera,
    *,
    posture: Pose,
    width: int,
    height: int,
    variety: Collection[Variety] = (),
) -> RenderedFrame:
    """Renders a scene.

    Args:
      key: consumed by the sensor.
      scene: from :func:`e2r.simulation.wound.sample_scene`.
      camera: from :func:`e2r.simulation.camera.sample_camera`.
      posture: motion of each level since the scan; it is only copied into the frame.
      width: pixels, a multiple of :data:`e2r.simulation.tracing.CONE`.
      height: pixels, a multiple of the same.
      variety: kinds of light, colour and sensor beyond the plain ones.
    """
    k_depth, k_color = jax.random.split(key)
    origin, directions = rays(camera, width, height)
    length = jnp.linalg.norm(directions, axis=1)
    depth = trace_depth(scene, camera, origin, directions, width=width, height=height)
    points = origin[None] + depth[:, None] * directions
    normals = image_normals(points.reshape(height, width, 3)).reshape(-1, 3)
    distances = distances_to_scene(scene, points)
    material = classify_points(scene, points, distances)
    instrument = jnp.argmin(distance_to_instruments(scene.instruments, points), axis=1)
    shiny = (material == INSTRUMENT) & scene.instruments.metal[instrument]
    color = paint_points(
        scene,
        points,
        material=material,
        maps=distances.maps,
        instrument_color=scene.instruments.color[instrument],
    )
    shape = (height, width)
    facing = -jnp.sum(normals * directions, 1) / length
    if "light" in variety:
        lit = LitPoints(points, normals, -directions / length[:, None], shiny)
        lit = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), lit)
        k_light = jax.random.fold_in(key, 2)
        color = theatre_light(k_light, scene, lit, color.reshape(*shape, 3)).reshape(-1, 3)
    else:
        color = head_light(color, facing, shiny)
    depth, shiny = depth.reshape(shape), shiny.reshape(shape)
    if "sensor" in variety:
        seen = sense_any_depth(k_depth, depth, shiny, facing.reshape(shape))
    else:
        seen = sense_depth(k_depth, depth, shiny)
    color = sense_color(k_color, jnp.clip(color, 0.0, 1.0).reshape(*shape, 3))
    if "optics" in variety:
        color = degrade_color(jax.random.fold_in(key, 3), color)
    return RenderedFrame(
        color=color,
        depth=seen,
        focal=camera.focal,
        material=material.reshape(shape),
        level=distances.level.reshape(shape),
        clean=depth,
        exposed=scene.exposed,
        pose=camera.pose,
        posture=posture,
    )


def photograph(
    key: PRNGKey,
    bones: BoneGrids,
    *,
    width: int,
    height: int,
    wound_fraction: tuple[float, float],
    posture_degrees: float = 0.0,
    posture_mm: float = 0.0,
    unbent_fraction: float = 0.0,
    variety: Collection[Variety] = (),
    focal_to_width: float = 0.0,
    exposed: Sequence[bool] = (),
) -> RenderedFrame:
    """One simulated frame of a spine: a fresh wound, a fresh camera, a fresh sensor.

    Args:
      key: consumed.
      bones: the spine.
      width: pixels, a multiple of :data:`e2r.simulation.tracing.CONE`.
      height: pixels, a multiple of the same.
      wound_fraction: range of the wound's share of the frame.
      posture_degrees: turn of each level since the scan, standard deviation per axis.
      posture_mm: shift of each level since the scan, standard deviation per axis.
      unbent_fraction: probability that no level has moved.
      variety: kinds of frames beyond the plain one.
      focal_to_width: focal length over the width; 0: the wound's share tells it.
      exposed: whether each level lies in the wound; drawn at random where it is empty.
    """
    k_scene, k_camera, k_render = jax.random.split(key, 3)
    bent = jax.random.uniform(jax.random.fold_in(key, 4)) >= unbent_fraction
    amount = bent.astype(jnp.float32)
    bones, posture = bend_spine(
        jax.random.fold_in(key, 3), bones, degrees=amount * posture_degrees, mm=amount * posture_mm
    )
    scene = sample_scene(k_scene, bones, variety=variety, exposed=exposed)
    camera = sample_camera(
        k_camera,
        scene.look_at,
        scene.opening,
        width=width,
        height=height,
        wound_fraction=wound_fraction,
        focal_to_width=focal_to_width,
    )
    return render(
        k_render, scene, camera, posture=posture, width=width, height=height, variety=variety
    )
