"""Soft tissue, skin and drape of a simulated wound, as maps over the coronal plane (x, z)."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.simulation.bone_grids import BoneGrids
from e2r.simulation.incision import Incision, Profile, highest_tip, midline
from e2r.simulation.uniform_draws import UniformDraws
from e2r.simulation.variety import Variety
from e2r.types import Array, Float, PRNGKey, ScalarLike

NODES = 144
"""Nodes along each side of the maps."""
SPACING = 2.5
"""mm between the nodes; a side measures 360 mm."""


class Tissue(NamedTuple):
    """Soft tissue as maps over (x, z); their last axis holds the channels."""

    maps: Float[Array, "x z 5"]  # height, remnant thickness, wound coordinate, stain, free share
    middle: Float[Array, "2"]  # mm, x and z of the maps' middle
    drape: Float[Array, "2"]  # mm, half size of the drape's window


def sample_tissue(
    uniform: UniformDraws,
    key: PRNGKey,
    bones: BoneGrids,
    *,
    profile: Profile,
    incision: Incision,
    variety: Collection[Variety] = (),
) -> Tissue:
    """Draws the tissue around an incision.

    The height runs from the wound's floor up its wall to the skin, and on to the drape. The wound
    coordinate is below 1 inside the wound and above 1 outside.

    Args:
      uniform: gives the next random numbers.
      key: consumed; draws smooth maps.
      bones: the spine.
      profile: its posterior side.
      incision: where the back is open.
      variety: with ``build``, up to 70 mm of fat lie on the highest spinous process, not up to
        28 mm; with ``clearing``, flesh hides the laminae in some scenes.
    """
    grid = SPACING * (jnp.arange(NODES, dtype=jnp.float32) - 0.5 * (NODES - 1))
    x, z = incision.x + grid[:, None], incision.z + grid[None, :]
    dx = x - midline(bones, z[0])[None]
    k_rough, k_fine = jax.random.split(key)
    rough, fine = _smooth_maps(k_rough, 12), _smooth_maps(k_fine, 40)
    any_clearing = "clearing" in variety
    floor = _muscle_floor(
        uniform,
        dx,
        z,
        profile=profile,
        rough=rough[0],
        fine=fine[0],
        least_gap=-4.0 if any_clearing else 0.5,
    )
    skin = highest_tip(profile, incision) + uniform(2.0, 70.0 if "build" in variety else 28.0)
    # Skin covers whatever is not opened, the sacrum behind the wound's plane too.
    slope = jnp.abs(z[0][:, None] - profile.z[None])
    cover = jnp.max(profile.tip[None] - 0.3 * slope, axis=1) + 6.0
    skin = jnp.maximum(skin, cover)[None] - 0.0012 * dx**2 + 0.6 * rough[1]
    wound = (
        jnp.abs(dx / incision.half_x) ** 3.5 + jnp.abs((z - incision.z) / incision.half_z) ** 3.5
    ) ** (1 / 3.5)
    wound = wound + 0.06 * rough[2] + 0.02 * fine[1]
    wall = uniform(0.10, 0.35)
    height = floor + (skin - floor) * smoothstep(wound - 1.0, -0.5 * wall, 0.5 * wall)
    drape = jnp.stack([incision.half_x + uniform(8.0, 60.0), incision.half_z + uniform(8.0, 60.0)])
    outside = jnp.maximum(jnp.abs(dx) - drape[0], jnp.abs(z - incision.z) - drape[1])
    folds = 2.5 + uniform(0.5, 4.0) * rough[3]
    height = height + smoothstep(outside, -1.0, 3.0) * folds
    height = height - 2.0 * jnp.maximum(jnp.abs(dx) - uniform(120.0, 170.0), 0.0)
    remnant = uniform(0.5, 6.0 if any_clearing else 4.0) * jnp.maximum(
        fine[2] + 0.5 * rough[1] - uniform(-0.4 if any_clearing else 0.3, 1.6), 0.0
    )
    stain = fine[3] + rough[0]
    maps = [height, jnp.minimum(remnant, 5.0), wound, stain, _free_share(height)]
    return Tissue(jnp.stack(maps, -1), jnp.stack([incision.x, incision.z]), drape)


def _muscle_floor(
    uniform: UniformDraws,
    dx: Float[Array, "x z"],
    z: Float[Array, "1 z"],
    *,
    profile: Profile,
    rough: Float[Array, "x z"],
    fine: Float[Array, "x z"],
    least_gap: float,
) -> Float[Array, "x z"]:
    """Height of the wound's floor: a little in front of the laminae, lower to the sides, lumpy.

    Args:
      uniform: gives the next random numbers.
      dx: mm from the midline.
      z: mm along the spine.
      profile: of the bone's posterior side.
      rough: a smooth random map.
      fine: one of shorter waves.
      least_gap: mm that the floor lies in front of the laminae at least, up to 6 mm.
    """
    fall = uniform(0.1, 0.6) * jnp.maximum(jnp.abs(dx) - 12.0, 0.0)
    uneven = uniform(-4.0, 4.0) * jnp.tanh(dx / 15.0)  # one side may be cleared less
    lumps = uniform(0.5, 3.0) * rough + uniform(0.3, 1.0) * fine
    lamina = jnp.interp(z[0], profile.z, profile.lamina) - uniform(least_gap, 6.0)
    return lamina[None] - fall + uneven + lumps


def _smooth_maps(key: PRNGKey, nodes: int) -> Float[Array, "4 x z"]:
    """Four smooth random maps of about unit variance, from ``nodes`` random ones a side."""
    shape = (4, NODES, NODES)
    return jax.image.resize(jax.random.normal(key, (4, nodes, nodes)), shape, "cubic")


def _free_share(height: Float[Array, "x z"]) -> Float[Array, "x z"]:
    """Share of the height above a place that is surely free.

    It is the cosine of the steepest slope within four nodes.
    """
    padded = jnp.pad(height, 1, mode="edge")
    across = padded[2:, 1:-1] - padded[:-2, 1:-1]
    along = padded[1:-1, 2:] - padded[1:-1, :-2]
    slope = (across**2 + along**2) / (2.0 * SPACING) ** 2
    steep = jax.lax.reduce_window(slope, 0.0, jax.lax.max, (9, 9), (1, 1), "SAME")
    return jax.lax.rsqrt(1.0 + steep)


def smoothstep(x: Float[Array, "..."], low: ScalarLike, high: ScalarLike) -> Float[Array, "..."]:
    """A smooth step from 0 below ``low`` to 1 above ``high``."""
    t = jnp.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def tissue_at(tissue: Tissue, points: Float[Array, "n 3"]) -> Float[Array, "n 5"]:
    """The maps' channels under some points (mm, canonical frame), bilinear."""
    where = (points[:, ::2] - tissue.middle[None]) / SPACING + 0.5 * (NODES - 1)
    where = jnp.clip(where, 0.0, NODES - 1.001)
    base = where.astype(jnp.int32)
    f = (where - base.astype(where.dtype))[:, :, None]
    flat = tissue.maps.reshape(NODES * NODES, -1)
    index = base[:, 0] * NODES + base[:, 1]
    low = flat[index] + f[:, 1] * (flat[index + 1] - flat[index])
    high = flat[index + NODES] + f[:, 1] * (flat[index + NODES + 1] - flat[index + NODES])
    return low + f[:, 0] * (high - low)
