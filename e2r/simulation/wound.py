"""An open posterior wound: bone in soft tissue, blood, retractors, instruments, drapes.

Everything is in the canonical frame of the spine (x left, y posterior, z cranial, mm). Soft
tissue is a height over the coronal plane (x, z); tools are capsules; bone is a distance grid.
A picture is made by sphere tracing their union.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.simulation import anatomy
from e2r.simulation.anatomy import Bones
from e2r.simulation.instruments import Draws, Instruments, sample_instruments
from e2r.types import Array

MAP = 144
STEP = 2.5
"""Nodes along each side of the tissue map, and mm between them: 360 mm."""


class Tissue(NamedTuple):
    """Soft tissue as maps over (x, z); the last axis holds the channels."""

    maps: Array  # (MAP, MAP, 5): height, remnant thickness, wound coordinate, stain, caution
    middle: Array  # (2,) x and z of the map's middle
    drape: Array  # (2,) half size of the drape's window


class WoundScene(NamedTuple):
    """All that can be photographed."""

    bones: Bones
    tissue: Tissue
    tools: Instruments
    exposed: Array  # (L,) bool: levels inside the incision
    look_at: Array  # (3,)
    opening: Array  # () mm^2
    paint: Array  # (6, 3) base colours: bone, muscle, fat, skin, drape, blood


def smooth_maps(key: Array, coarse: int) -> Array:
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


def smoothstep(x: Array, low: Array, high: Array) -> Array:
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
        return height - 0.9 * anatomy.distance_to_bone(bones, start.at[:, 1].set(height))[0]

    height = jax.lax.fori_loop(0, 40, fall, start[:, 1])
    body = jnp.interp(z, bones.centre[order, 2], bones.centre[order, 1])
    height = height.reshape(x.shape)
    hit = (height > body[:, None] - 5.0).astype(jnp.float32)
    near = jnp.exp(-0.5 * ((z[:, None] - z) / 12.0) ** 2)
    share = jnp.sum(hit[:, :4], 1)
    lamina = (near @ jnp.sum(hit[:, :4] * height[:, :4], 1)) / (near @ share + 1e-3)
    tip = jnp.max(jnp.where(hit[:, 4:] > 0, height[:, 4:], body[:, None]), 1)
    return z, lamina, tip


def sample_scene(key: Array, bones: Bones) -> WoundScene:
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
    rough, fine = smooth_maps(k_rough, 12), smooth_maps(k_fine, 40)
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
    height = floor + (skin - floor) * smoothstep(u - 1.0, -0.5 * steep, 0.5 * steep)
    drape = jnp.stack([half_x + uniform(8.0, 60.0), half_z + uniform(8.0, 60.0)])
    out = jnp.maximum(jnp.abs(dx) - drape[0], jnp.abs(z - z_mid) - drape[1])
    folds = 2.5 + uniform(0.5, 4.0) * rough[3]
    height = height + smoothstep(out, -1.0, 3.0) * folds
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
    tools = sample_instruments(k_tools, x_mid, z_mid, half_x, half_z, rim, top)
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
    return WoundScene(
        bones=bones,
        tissue=tissue,
        tools=tools,
        exposed=exposed,
        look_at=jnp.stack([x_mid, rim, z_mid]),
        opening=3.5 * half_x * half_z,
        paint=paint,
    )


def tissue_at(tissue: Tissue, points: Array) -> Array:
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
