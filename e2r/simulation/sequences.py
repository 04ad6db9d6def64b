"""Recordings of one wound by a moving camera, with hands and tools that come and go.

The scene is traced once, from a camera that sees more of it. Each frame is then drawn from the
points of that picture: a point goes to the pixels around its projection, the foremost one wins, and
the pixel's ray is cut with the point's plane. So a frame costs no tracing, and has no rounding.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from e2r.formats.scenes import RgbdImage
from e2r.geometry import poses
from e2r.geometry.depth_pixels import Pinhole, find_pixels
from e2r.runtime.compile_cache import CachedProgram
from e2r.runtime.prefetch import prefetch
from e2r.simulation import intruders, sequence_paths
from e2r.simulation.bone_grids import BoneGrids, bend_spine
from e2r.simulation.camera import Camera, rays, sample_camera
from e2r.simulation.intruders import HAND, TOOL, Intruder, intruder_depth
from e2r.simulation.materials import BONE
from e2r.simulation.rendering import render
from e2r.simulation.sensor import sense_depth
from e2r.simulation.sequence_paths import SequenceConfig
from e2r.simulation.specimens import Specimen
from e2r.simulation.tracing import image_normals
from e2r.simulation.wound import sample_scene
from e2r.types import Array, Bool, Float, Int, Pose, PRNGKey

T = TypeVar("T")
MARGIN = 1.3
"""Width of the traced picture over that of a frame, as angles."""
DENSITY = 1.3
"""Pixels of the traced picture over those of a frame, along each axis, for the same angle."""
COLOUR_NOISE = 0.01
"""Of each frame, standard deviation; the traced picture has its own."""
MIN_SLANT, NEAR_PLANE_MM = 0.05, 3.0
"""A pixel's ray is cut with its point's plane unless it nearly lies in it, or is cut far away."""


class SequenceFrame(NamedTuple):
    """One frame of a recording, on the host, with the facts that only a simulator knows."""

    seconds: float
    color: np.ndarray  # (H, W, 3) uint8
    depth: np.ndarray  # (H, W) mm, 0 where unseen
    pose: Pose  # of each level, leading axis L, camera from model
    visible: float  # share of the wound's bone in the picture that nothing covers, no cut hides

    def image(self, focal: float) -> RgbdImage:
        """The frame as an image.

        Args:
          focal: of the recording, pixels.
        """
        height, width = self.depth.shape
        return RgbdImage(
            self.color, self.depth, focal, focal, 0.5 * (width - 1), 0.5 * (height - 1)
        )

    def level_poses(self, levels: Iterable[str]) -> dict[str, Pose]:
        """Level -> true pose, camera from model.

        Args:
          levels: names, in the order of the specimen.
        """
        return {
            name: jax.tree.map(lambda leaf, i=i: leaf[i], self.pose)
            for i, name in enumerate(levels)
        }


class Sequence(NamedTuple):
    """A recording: its camera, and its frames, drawn when they are asked for."""

    focal: float  # pixels
    levels: tuple[str, ...]
    exposed: tuple[str, ...]
    frames: Iterator[SequenceFrame]


class _Backdrop(NamedTuple):
    """The points of the traced picture, P of them, canonical frame."""

    points: Float[Array, "p 3"]
    normals: Float[Array, "p 3"]
    colors: Float[Array, "p 3"]
    bone: Bool[Array, "p"]  # and in the frame at the first place
    level: Int[Array, "p"]  # of bone, in the frame or not; -1: none


class _Scene(NamedTuple):
    """What the camera looks at."""

    backdrop: _Backdrop
    levels: Pose  # canonical from model, leading axis L


class _Shot(NamedTuple):
    """What changes from frame to frame; leading axis F for all of them."""

    view: Pose  # camera from canonical
    hand: Intruder
    tool: Intruder
    gain: Float[Array, ""]  # of the colours


class _Traced(NamedTuple):
    backdrop: _Backdrop
    camera: Camera  # of a frame at the first place
    posture: Pose  # of each level
    look_at: Float[Array, "3"]
    exposed: Array


def simulate_sequence(key: PRNGKey, specimen: Specimen, config: SequenceConfig) -> Sequence:
    """A recording of one wound of a specimen.

    Args:
      key: consumed.
      specimen: a spine.
      config: length, path, and all that happens.
    """
    k_scene, k_path, k_sensor = jax.random.split(key, 3)
    traced = jax.tree.map(np.asarray, _trace_program(config)(k_scene, specimen.bones))
    names = tuple(specimen.model)
    exposed = tuple(name for name, seen in zip(names, traced.exposed, strict=True) if seen)
    frames = _frames(k_path, k_sensor, specimen, traced, config)
    return Sequence(float(traced.camera.focal), names, exposed, frames)


@cache
def _trace_program(config: SequenceConfig) -> CachedProgram[_Traced]:
    return CachedProgram(partial(_trace, config=config), fast_compile=True)


def _trace(key: PRNGKey, bones: BoneGrids, *, config: SequenceConfig) -> _Traced:
    """The wound as a wide and dense picture shows it."""
    k_scene, k_camera, k_render, k_bend = jax.random.split(key, 4)
    bones, posture = bend_spine(k_bend, bones, degrees=config.posture_degrees, mm=config.posture_mm)
    scene = sample_scene(k_scene, bones)
    camera = sample_camera(
        k_camera,
        scene.look_at,
        scene.opening,
        width=config.width,
        height=config.height,
        wound_fraction=config.wound_fraction,
        tilt=15.0,
    )
    width, height = (4 * math.ceil(MARGIN * DENSITY * n / 4) for n in (config.width, config.height))
    dense = camera._replace(focal=DENSITY * camera.focal)
    frame = render(k_render, scene, dense, posture=posture, width=width, height=height)
    origin, directions = rays(dense, width, height)
    points = origin[None] + frame.clean.reshape(-1, 1) * directions
    normals = image_normals(points.reshape(height, width, 3)).reshape(-1, 3)
    *_, inside = _pixels(
        poses.apply(camera.pose, points), camera.focal, width=config.width, height=config.height
    )
    bone = frame.material.reshape(-1) == BONE
    level = jnp.where(bone, frame.level.reshape(-1), -1)
    backdrop = _Backdrop(points, normals, frame.color.reshape(-1, 3), bone & inside, level)
    return _Traced(backdrop, camera, posture, scene.look_at, scene.exposed)


def _frames(
    k_path: PRNGKey, k_sensor: PRNGKey, specimen: Specimen, traced: _Traced, config: SequenceConfig
) -> Iterator[SequenceFrame]:
    """The frames, one after the other."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(k_path)))
    for_light, for_tools, for_level = rng.spawn(3)
    times = np.arange(config.frames) / config.rate
    cuts, hidden = sequence_paths.draw_cuts(rng, times, config)
    base, look_at = traced.camera.pose, np.asarray(traced.look_at)
    shots = _Shot(
        sequence_paths.camera_path(rng, times, cuts, base=base, look_at=look_at, config=config),
        intruders.hand_path(rng, times, look_at, config),
        intruders.tool_path(for_tools, times, look_at, config),
        sequence_paths.brightness_path(for_light, times, config),
    )
    draw = _draw_program(config)
    steady, fresh = jax.random.split(k_sensor)
    in_levels = [
        poses.compose(_pick(traced.posture, i), specimen.canonical)
        for i in range(len(specimen.model))
    ]
    levels = jax.tree.map(lambda *leaves: jnp.stack(leaves), *in_levels)
    place = jax.jit(jax.vmap(poses.compose, (None, 0)))
    backdrop, focal = jax.device_put((traced.backdrop, traced.camera.focal))
    shape = config.height, config.width
    nothing = np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.float32), 0.0
    scene_at = _scene_path(for_level, _Scene(backdrop, levels), times, (specimen, traced), config)

    def one(number: int) -> SequenceFrame:
        shot = _pick(shots, number)
        scene = scene_at(number)
        color, depth, visible = nothing
        if not hidden[number]:
            key = jax.random.fold_in(fresh, number)
            color, depth, visible = draw(key, steady, scene.backdrop, focal, shot)
        return SequenceFrame(
            float(times[number]),
            np.asarray(color),
            np.asarray(depth),
            jax.tree.map(np.asarray, place(shot.view, scene.levels)),
            float(visible),
        )

    return prefetch(one, range(config.frames), workers=os.cpu_count() or 1)


def _pick(tree: T, number: int) -> T:
    """One entry of each leaf's leading axis."""
    picked: T = jax.tree.map(lambda leaf: leaf[number], tree)
    return picked


def _scene_path(
    rng: np.random.Generator,
    scene: _Scene,
    times: np.ndarray,
    made_of: tuple[Specimen, _Traced],
    config: SequenceConfig,
) -> Callable[[int], _Scene]:
    """The scene at each frame: half way, one exposed level moves, or none ever does."""
    if not config.moved_level:
        return lambda number: scene
    specimen, traced = made_of
    level = int(rng.choice(np.flatnonzero(traced.exposed)))
    centre = poses.apply(_pick(traced.posture, level), specimen.bones.centre[level])
    motions = sequence_paths.level_path(rng, times, np.asarray(centre))
    move = jax.jit(partial(_move_level, level=level))
    return lambda number: move(scene, _pick(motions, number))


def _move_level(scene: _Scene, motion: Pose, *, level: int) -> _Scene:
    """The scene after a level has moved with its bone.

    What lay behind it was not traced, so gaps as wide as the motion open there.

    Args:
      scene: before.
      motion: of the level, canonical frame.
      level: its number.
    """
    backdrop, levels = scene
    own = (backdrop.level == level)[:, None]
    points = jnp.where(own, poses.apply(motion, backdrop.points), backdrop.points)
    normals = jnp.where(own, poses.rotate(motion, backdrop.normals), backdrop.normals)
    moved = poses.compose(motion, _pick(levels, level))
    levels = jax.tree.map(lambda leaf, new: leaf.at[level].set(new), levels, moved)
    return _Scene(backdrop._replace(points=points, normals=normals), levels)


@cache
def _draw_program(config: SequenceConfig) -> CachedProgram:
    return CachedProgram(partial(_draw, width=config.width, height=config.height))


def _draw(
    key: PRNGKey,
    steady: PRNGKey,
    backdrop: _Backdrop,
    focal: Float[Array, ""],
    shot: _Shot,
    *,
    width: int,
    height: int,
) -> tuple[Array, Array, Array]:
    """Colour (uint8), depth (mm) and the visible share of the bone of one frame."""
    clean, owner = _project(backdrop, focal, shot.view, width=width, height=height)
    color = jnp.where((clean > 0)[..., None], backdrop.colors[owner], 0.0)
    origin, directions = rays(Camera(focal, shot.view), width, height)
    held = shiny = jnp.zeros((height, width), bool)
    for body, intruder in ((HAND, shot.hand), (TOOL, shot.tool)):
        depth, shade = (
            image.reshape(height, width)
            for image in intruder_depth(body, intruder, origin, directions)
        )
        nearer = (depth > 0) & ((clean == 0) | (depth < clean))
        clean = jnp.where(nearer, depth, clean)
        color = jnp.where(nearer[..., None], shade[..., None] * jnp.array([[body.color]]), color)
        held, shiny = held | nearer, jnp.where(nearer, body.metal, shiny)
    visible = _visible_share(backdrop, held, focal, shot.view)
    seen = sense_depth(key, clean, shiny, steady=steady)
    # sense_depth splits the key into eight, and child i of a split is fold_in(key, i)
    noise = jax.random.normal(jax.random.fold_in(key, 8), color.shape)
    color = jnp.clip(shot.gain * color + COLOUR_NOISE * noise, 0.0, 1.0)
    return (
        jnp.round(255.0 * color).astype(jnp.uint8),
        jnp.where((clean > 0) & (seen > 0), seen, 0.0),
        visible,
    )


def _visible_share(
    backdrop: _Backdrop, held: Bool[Array, "h w"], focal: Float[Array, ""], view: Pose
) -> jax.Array:
    """Share of the bone that lies in the frame, and behind no hand or tool."""
    height, width = held.shape
    points = poses.apply(view, backdrop.points)
    row, column, inside = _pixels(points, focal, width=width, height=height)
    free = (inside & ~held[row, column] & backdrop.bone).astype(jnp.float32)
    return jnp.sum(free) / jnp.maximum(jnp.sum(backdrop.bone.astype(jnp.float32)), 1.0)


def _pixels(
    points: Float[Array, "p 3"], focal: Float[Array, ""], *, width: int, height: int
) -> tuple[Array, Array, Array]:
    """Row and column of points in the camera's frame, and whether they lie in the picture."""
    middle = (jnp.asarray(0.5 * (n - 1), jnp.float32) for n in (width, height))
    return find_pixels(points, Pinhole(focal, focal, *middle), (height, width))


def _project(
    backdrop: _Backdrop, focal: Float[Array, ""], view: Pose, *, width: int, height: int
) -> tuple[jax.Array, jax.Array]:
    """Depth of each pixel, mm, 0 where no point projects; and the row of its point."""
    points = poses.apply(view, backdrop.points)
    normals = poses.rotate(view, backdrop.normals)
    cx, cy = 0.5 * (width - 1), 0.5 * (height - 1)
    z = jnp.maximum(points[:, 2], 1.0)
    left = jnp.floor(focal * points[:, 0] / z + cx)
    top = jnp.floor(focal * points[:, 1] / z + cy)
    around = ((0, 0), (0, 1), (1, 0), (1, 1))
    columns = jnp.concatenate([left + i for i, _ in around])
    rows = jnp.concatenate([top + j for _, j in around])
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    pixel = jnp.where(inside, rows * width + columns, width * height).astype(jnp.int32)
    normal = jnp.tile(normals, (4, 1))
    slant = normal[:, 0] * (columns - cx) / focal + normal[:, 1] * (rows - cy) / focal
    slant = slant + normal[:, 2]
    exact = jnp.tile(jnp.sum(points * normals, axis=1), 4)
    exact = exact / jnp.where(jnp.abs(slant) > MIN_SLANT, slant, jnp.inf)
    near = jnp.tile(z, 4)
    depth = jnp.where(jnp.abs(exact - near) < NEAR_PLANE_MM, exact, near)
    depth = jnp.where(inside, depth, jnp.inf)
    front = jnp.full(width * height + 1, jnp.inf).at[pixel].min(depth)
    number = jnp.tile(jnp.arange(points.shape[0], dtype=jnp.int32), 4)
    first = jnp.where(inside & (depth <= front[pixel]), number, -1)
    owner = jnp.full(width * height + 1, -1, jnp.int32).at[pixel].max(first)
    found = owner[:-1].reshape(height, width)
    return jnp.where(found >= 0, front[:-1].reshape(height, width), 0.0), found
