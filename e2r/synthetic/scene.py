"""An open posterior wound: bone in soft tissue, blood, retractors, instruments, drapes.

Everything is in the canonical frame of the spine (x left, y posterior, z cranial, mm). Soft
tissue is a height over the coronal plane (x, z); tools are capsules; bone is a distance grid.
A picture is made by sphere tracing their union.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.geometry import poses
from e2r.synthetic import anatomy
from e2r.synthetic.anatomy import Bones
from e2r.synthetic.camera import Camera, rays, sample_camera, sense_color, sense_depth
from e2r.synthetic.tools import Draws, Tools, sample_tools, tool_distance
from e2r.types import Array, Pose

MAP = 144
STEP = 2.5
"""Nodes along each side of the tissue map, and mm between them: 360 mm."""
BONE, TISSUE, SKIN, DRAPE, TOOL = range(5)
CONE = 4
"""Pixels along each side of the cones that are traced first."""


class Tissue(NamedTuple):
    """Soft tissue as maps over (x, z); the last axis holds the channels."""

    maps: Array  # (MAP, MAP, 5): height, remnant thickness, wound coordinate, stain, caution
    middle: Array  # (2,) x and z of the map's middle
    drape: Array  # (2,) half size of the drape's window


class Scene(NamedTuple):
    """All that can be photographed."""

    bones: Bones
    tissue: Tissue
    tools: Tools
    exposed: Array  # (L,) bool: levels inside the incision
    look_at: Array  # (3,)
    opening: Array  # () mm^2
    paint: Array  # (6, 3) base colours: bone, muscle, fat, skin, drape, blood


class Frame(NamedTuple):
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


def _noise(key: Array, coarse: int) -> Array:
    """Four smooth random maps of about unit variance, (4, MAP, MAP)."""
    return jax.image.resize(jax.random.normal(key, (4, coarse, coarse)), (4, MAP, MAP), "cubic")


def _caution(height: Array) -> Array:
    """Share of the height above a place that is surely free: the cosine of the steepest slope
    nearby (within four nodes)."""
    padded = jnp.pad(height, 1, mode="edge")
    across = padded[2:, 1:-1] - padded[:-2, 1:-1]
    along = padded[1:-1, 2:] - padded[1:-1, :-2]
    slope = (across**2 + along**2) / (2.0 * STEP) ** 2
    steep = jax.lax.reduce_window(slope, 0.0, jax.lax.max, (9, 9), (1, 1), "SAME")
    return jax.lax.rsqrt(1.0 + steep)


def _smoothstep(x: Array, low: Array, high: Array) -> Array:
    t = jnp.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _profile(bones: Bones) -> tuple[Array, Array, Array]:
    """Along the spine: z nodes (96,), height of the laminae there, height of the spinous tips.

    Far enough tailwards for a sacrum.
    """
    z_low, z_high = jnp.min(bones.centre[:, 2]) - 100.0, jnp.max(bones.centre[:, 2]) + 30.0
    z = jnp.linspace(z_low, z_high, 96)
    order = jnp.argsort(bones.centre[:, 2])
    middle = jnp.interp(z, bones.centre[order, 2], bones.centre[order, 0])
    lateral = jnp.array([-12.0, -8.0, 8.0, 12.0, -2.0, 0.0, 2.0])
    top = jnp.max(bones.centre[:, 1]) + 90.0
    x = middle[:, None] + lateral
    start = jnp.stack([x, jnp.full_like(x, top), jnp.broadcast_to(z[:, None], x.shape)], -1)
    start = start.reshape(-1, 3)

    def fall(_: Array, height: Array) -> Array:
        return height - 0.9 * anatomy.distance(bones, start.at[:, 1].set(height))[0]

    height = jax.lax.fori_loop(0, 40, fall, start[:, 1])
    body = jnp.interp(z, bones.centre[order, 2], bones.centre[order, 1])
    height = height.reshape(x.shape)
    hit = (height > body[:, None] - 5.0).astype(jnp.float32)
    near = jnp.exp(-0.5 * ((z[:, None] - z) / 12.0) ** 2)
    share = jnp.sum(hit[:, :4], 1)
    lamina = (near @ jnp.sum(hit[:, :4] * height[:, :4], 1)) / (near @ share + 1e-3)
    tip = jnp.max(jnp.where(hit[:, 4:] > 0, height[:, 4:], body[:, None]), 1)
    return z, lamina, tip


def sample_scene(key: Array, bones: Bones) -> Scene:
    """Opens the back of a spine: an incision over a random run of two to five levels.

    Args:
      key: consumed.
      bones: the spine, L levels from head to tail.
    """
    k_draws, k_maps, k_paint, k_tools = jax.random.split(key, 4)
    uniform = Draws(k_draws, 64)
    count = bones.centre.shape[0]
    run = jnp.floor(uniform(2.0, min(5, count) + 1.0)).astype(jnp.int32)
    first = jnp.floor(uniform(0.0, 1.0) * (count - run + 1)).astype(jnp.int32)
    level = jnp.arange(count)
    exposed = (level >= first) & (level < first + run)
    profile_z, lamina, tip = _profile(bones)
    z_top = jnp.max(jnp.where(exposed, bones.centre[:, 2], -jnp.inf)) + uniform(6.0, 20.0)
    z_end = jnp.min(jnp.where(exposed, bones.centre[:, 2], jnp.inf)) - uniform(16.0, 32.0)
    z_mid, half_z = 0.5 * (z_top + z_end), 0.5 * (z_top - z_end)
    order = jnp.argsort(bones.centre[:, 2])
    x_mid = jnp.interp(z_mid, bones.centre[order, 2], bones.centre[order, 0]) + uniform(-4.0, 4.0)
    half_x = uniform(20.0, 40.0)

    grid = STEP * (jnp.arange(MAP) - 0.5 * (MAP - 1))
    x, z = x_mid + grid[:, None], z_mid + grid[None, :]
    dx = x - jnp.interp(z[0], bones.centre[order, 2], bones.centre[order, 0])
    k_rough, k_fine = jax.random.split(k_maps)
    rough, fine = _noise(k_rough, 12), _noise(k_fine, 40)
    # Floor: a little in front of the laminae, falling off to the sides, with lumps of muscle.
    fall = uniform(0.1, 0.6) * jnp.maximum(jnp.abs(dx) - 12.0, 0.0)
    uneven = uniform(-4.0, 4.0) * jnp.tanh(dx / 15.0)  # one side may be cleared less
    lumps = uniform(0.5, 3.0) * rough[0] + uniform(0.3, 1.0) * fine[0]
    floor = jnp.interp(z[0], profile_z, lamina) - uniform(0.5, 6.0) - fall + uneven + lumps
    inside_z = (profile_z > z_end) & (profile_z < z_top)
    skin = jnp.max(jnp.where(inside_z, tip, -jnp.inf)) + uniform(2.0, 28.0)
    # Skin covers what is not opened, the sacrum behind the wound's plane too.
    cover = jnp.max(tip - 0.3 * jnp.abs(z[0][:, None] - profile_z), axis=1) + 6.0
    skin = jnp.maximum(skin, cover) - 0.0012 * dx**2 + 0.6 * rough[1]
    u = (jnp.abs(dx / half_x) ** 3.5 + jnp.abs((z - z_mid) / half_z) ** 3.5) ** (1 / 3.5)
    u = u + 0.06 * rough[2] + 0.02 * fine[1]
    steep = uniform(0.10, 0.35)
    height = floor + (skin - floor) * _smoothstep(u - 1.0, -0.5 * steep, 0.5 * steep)
    drape = jnp.stack([half_x + uniform(8.0, 60.0), half_z + uniform(8.0, 60.0)])
    out = jnp.maximum(jnp.abs(dx) - drape[0], jnp.abs(z - z_mid) - drape[1])
    folds = 2.5 + uniform(0.5, 4.0) * rough[3]
    height = height + _smoothstep(out, -1.0, 3.0) * folds
    height = height - 2.0 * jnp.maximum(jnp.abs(dx) - uniform(120.0, 170.0), 0.0)
    remnant = uniform(0.5, 4.0) * jnp.maximum(fine[2] + 0.5 * rough[1] - uniform(0.3, 1.6), 0.0)
    stain = fine[3] + rough[0]
    tissue = Tissue(
        jnp.stack([height, jnp.minimum(remnant, 5.0), u, stain, _caution(height)], -1),
        jnp.stack([x_mid, z_mid]),
        drape,
    )
    rim = jnp.interp(z_mid, profile_z, lamina)
    top = jnp.max(jnp.where(inside_z, tip, -jnp.inf))
    tools = sample_tools(k_tools, x_mid, z_mid, half_x, half_z, rim, top)
    base = jnp.array(
        [
            [0.86, 0.78, 0.62], [0.55, 0.16, 0.13], [0.88, 0.70, 0.40],
            [0.78, 0.56, 0.44], [0.18, 0.42, 0.50], [0.36, 0.04, 0.04],
        ]
    )  # fmt: skip
    light, hue = jnp.split(jax.random.normal(k_paint, (6, 4)), [1], axis=1)
    green, iodine = jnp.array([0.15, 0.45, 0.30]), jnp.array([0.55, 0.30, 0.12])
    base = base.at[4].set(jnp.where(uniform(0.0, 1.0) < 0.4, green, base[4]))
    base = base.at[3].set(jnp.where(uniform(0.0, 1.0) < 0.3, iodine, base[3]))
    paint = base * jnp.exp(0.12 * light + 0.08 * hue)
    return Scene(
        bones=bones,
        tissue=tissue,
        tools=tools,
        exposed=exposed,
        look_at=jnp.stack([x_mid, rim, z_mid]),
        opening=3.5 * half_x * half_z,
        paint=paint,
    )


def _tissue_at(tissue: Tissue, points: Array) -> Array:
    """The map channels (N, 5) under points, bilinear."""
    where = (points[:, ::2] - tissue.middle) / STEP + 0.5 * (MAP - 1)
    where = jnp.clip(where, 0.0, MAP - 1.001)
    base = where.astype(jnp.int32)
    f = (where - base)[:, :, None]
    flat = tissue.maps.reshape(MAP * MAP, -1)
    index = base[:, 0] * MAP + base[:, 1]
    low = flat[index] + f[:, 1] * (flat[index + 1] - flat[index])
    high = flat[index + MAP] + f[:, 1] * (flat[index + MAP + 1] - flat[index + MAP])
    return low + f[:, 0] * (high - low)


def _distances(scene: Scene, points: Array) -> tuple[Array, Array, Array]:
    """Distance bounds (N, 3) to bone with its remnants, soft tissue, tools; maps (N, 5); level."""
    maps = _tissue_at(scene.tissue, points)
    bone, level = anatomy.distance(scene.bones, points)
    soft = maps[:, 4] * (points[:, 1] - maps[:, 0])
    tools = jnp.min(tool_distance(scene.tools, points), axis=1)
    return jnp.stack([bone - maps[:, 1], soft, tools], -1), maps, level


def _normals(points: Array) -> Array:
    """Unit normals (H, W, 3) of an organised picture of points, by central differences."""
    padded = jnp.pad(points, ((1, 1), (1, 1), (0, 0)), mode="edge")
    across = padded[1:-1, 2:] - padded[1:-1, :-2]
    down = padded[2:, 1:-1] - padded[:-2, 1:-1]
    normal = jnp.cross(down, across)
    return normal / (jnp.linalg.norm(normal, axis=-1, keepdims=True) + 1e-9)


def render(
    key: Array, scene: Scene, camera: Camera, posture: Pose, *, width: int, height: int
) -> Frame:
    """Photographs a scene: sphere tracing, a head light, then the sensor.

    Args:
      key: consumed by the sensor.
      scene: from :func:`sample_scene`.
      camera: from :func:`e2r.synthetic.camera.sample_camera`.
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

    which = jnp.argmin(tool_distance(scene.tools, points), axis=1)
    shiny = (kind == TOOL) & scene.tools.metal[which]
    color = _paint(scene, kind, maps, points, scene.tools.color[which])
    facing = -jnp.sum(normals * directions, 1) / length
    light = 0.25 + 0.75 * jnp.clip(facing, 0.0, 1.0)
    gloss = jnp.clip(facing, 0.0, 1.0) ** 40 * jnp.where(shiny, 0.9, 0.2)
    color = color * light[:, None] + gloss[:, None]
    shape = (height, width)
    depth = depth.reshape(shape)
    return Frame(
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


def _paint(scene: Scene, kind: Array, maps: Array, points: Array, tool: Array) -> Array:
    """Colour (N, 3) without light. Blood on bone and pale tissue keep colour from sufficing."""
    bone, muscle, fat, skin, drape, blood = scene.paint
    wave = lambda v, s: jnp.sin(points @ jnp.asarray(v) / s)  # noqa: E731
    texture = 0.5 * wave([1.0, 0.7, 0.4], 2.1) + 0.5 * wave([-0.3, 0.6, 1.1], 3.7)
    pale = _smoothstep(wave([0.5, 1.2, 0.8], 7.0) + wave([1.1, -0.2, 0.6], 11.0), 0.7, 1.3)
    wall = _smoothstep(maps[:, 2], 0.93, 1.0)[:, None]
    bloody = _smoothstep(maps[:, 3], -0.3, 1.2)[:, None]
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
    fill: tuple[float, float],
    degrees: float = 0.0,
    mm: float = 0.0,
    still: float = 0.0,
) -> Frame:
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
    moves = (jax.random.uniform(jax.random.fold_in(key, 4)) >= still).astype(jnp.float32)
    bones, posture = anatomy.bend(
        jax.random.fold_in(key, 3), bones, degrees=moves * degrees, mm=moves * mm
    )
    scene = sample_scene(k_scene, bones)
    camera = sample_camera(
        k_camera, scene.look_at, scene.opening, width=width, height=height, fill=fill
    )
    return render(k_render, scene, camera, posture, width=width, height=height)
