"""The incision of a simulated wound: which levels it exposes, where it lies, how large it is."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.simulation.bone_grids import BoneGrids, distance_to_bone
from e2r.simulation.uniform_draws import UniformDraws
from e2r.simulation.variety import Variety
from e2r.types import Array, Bool, Float

LATERAL = (-12.0, -8.0, 8.0, 12.0, -2.0, 0.0, 2.0)
"""mm from the midline: where the profile is probed. The first four hit laminae, the others
spinous processes."""


class Profile(NamedTuple):
    """Heights (y) of the bone's posterior side along the spine, in the canonical frame, mm."""

    z: Float[Array, "p"]  # nodes along the spine
    lamina: Float[Array, "p"]  # height of the laminae
    tip: Float[Array, "p"]  # height of the tips of the spinous processes


class Incision(NamedTuple):
    """A rectangle in the coronal plane of the canonical frame, mm."""

    x: Float[Array, ""]  # its middle
    z: Float[Array, ""]
    half_x: Float[Array, ""]  # half its size
    half_z: Float[Array, ""]
    caudal: Float[Array, ""]  # its ends along the spine
    cranial: Float[Array, ""]


def draw_exposed(uniform: UniformDraws, count: int) -> Bool[Array, "l"]:
    """Draws a run of two to five neighbouring levels, out of ``count``."""
    run = jnp.floor(uniform(2.0, min(5, count) + 1.0)).astype(jnp.int32)
    places = (count - run + 1).astype(jnp.float32)
    first = jnp.floor(uniform(0.0, 1.0) * places).astype(jnp.int32)
    level = jnp.arange(count)
    return (level >= first) & (level < first + run)


def draw_incision(
    uniform: UniformDraws,
    bones: BoneGrids,
    exposed: Bool[Array, "l"],
    *,
    variety: Collection[Variety] = (),
) -> Incision:
    """Draws an incision over the exposed levels; with the variety ``build``, narrow ones too."""
    heights = bones.centre[:, 2]
    cranial = jnp.max(jnp.where(exposed, heights, -jnp.inf)) + uniform(6.0, 20.0)
    caudal = jnp.min(jnp.where(exposed, heights, jnp.inf)) - uniform(16.0, 32.0)
    z, half_z = 0.5 * (cranial + caudal), 0.5 * (cranial - caudal)
    x = midline(bones, z) + uniform(-4.0, 4.0)
    half_x = uniform(13.0 if "build" in variety else 20.0, 40.0)
    return Incision(x, z, half_x, half_z, caudal, cranial)


def midline(bones: BoneGrids, z: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Lateral position (x) of the vertebrae's middles at heights ``z`` along the spine, mm."""
    order = jnp.argsort(bones.centre[:, 2])
    return jnp.interp(z, bones.centre[order, 2], bones.centre[order, 0])


def probe_profile(bones: BoneGrids) -> Profile:
    """Probes the posterior side of the bone by vertical rays, far enough down for a sacrum."""
    z_low, z_high = jnp.min(bones.centre[:, 2]) - 100.0, jnp.max(bones.centre[:, 2]) + 30.0
    z = jnp.linspace(z_low, z_high, 96)
    order = jnp.argsort(bones.centre[:, 2])
    x = midline(bones, z)[:, None] + jnp.array([LATERAL])
    top = jnp.max(bones.centre[:, 1]) + 90.0
    start = jnp.stack([x, jnp.full_like(x, top), jnp.broadcast_to(z[:, None], x.shape)], -1)
    start = start.reshape(-1, 3)

    def fall(_: Array, height: Array) -> Array:
        return height - 0.9 * distance_to_bone(bones, start.at[:, 1].set(height))[0]

    height = jax.lax.fori_loop(0, 40, fall, start[:, 1])
    body = jnp.interp(z, bones.centre[order, 2], bones.centre[order, 1])
    height = height.reshape(x.shape)
    hit = (height > body[:, None] - 5.0).astype(jnp.float32)
    near = jnp.exp(-0.5 * ((z[:, None] - z[None]) / 12.0) ** 2)
    share = jnp.sum(hit[:, :4], 1)
    lamina = (near @ jnp.sum(hit[:, :4] * height[:, :4], 1)) / (near @ share + 1e-3)
    tip = jnp.max(jnp.where(hit[:, 4:] > 0, height[:, 4:], body[:, None]), 1)
    return Profile(z, lamina, tip)


def highest_tip(profile: Profile, incision: Incision) -> Float[Array, ""]:
    """Height of the highest spinous process in the incision, mm."""
    inside = (profile.z > incision.caudal) & (profile.z < incision.cranial)
    return jnp.max(jnp.where(inside, profile.tip, -jnp.inf))
