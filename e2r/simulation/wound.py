"""An open posterior wound: bone, soft tissue, instruments, and the colours of all of them.

Everything is in the canonical frame of the spine (x left, y posterior, z cranial, mm).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.simulation import incision as incisions
from e2r.simulation.bone_grids import BoneGrids
from e2r.simulation.instruments import Instruments, sample_instruments
from e2r.simulation.tissue import Tissue, sample_tissue
from e2r.simulation.uniform_draws import UniformDraws
from e2r.types import Array, Bool, Float, PRNGKey

GREEN_DRAPE, IODINE = (0.15, 0.45, 0.30), (0.55, 0.30, 0.12)
"""Colours that drape and skin have in some of the scenes."""


class WoundScene(NamedTuple):
    """Everything that the camera can see."""

    bones: BoneGrids
    tissue: Tissue
    instruments: Instruments
    exposed: Bool[Array, "l"]  # levels inside the incision
    look_at: Float[Array, "3"]  # mm, middle of the wound
    opening: Float[Array, ""]  # mm^2, area of the wound
    paint: Float[Array, "6 3"]  # base colours: bone, muscle, fat, skin, drape, blood


def sample_scene(key: PRNGKey, bones: BoneGrids) -> WoundScene:
    """Opens the back of a spine: an incision over a random run of two to five levels.

    Args:
      key: consumed.
      bones: the spine, L levels from head to tail.
    """
    k_draws, k_maps, k_paint, k_instruments = jax.random.split(key, 4)
    uniform = UniformDraws(k_draws, 64)
    exposed = incisions.draw_exposed(uniform, bones.centre.shape[0])
    profile = incisions.probe_profile(bones)
    incision = incisions.draw_incision(uniform, bones, exposed)
    tissue = sample_tissue(uniform, k_maps, bones, profile=profile, incision=incision)
    floor = jnp.interp(incision.z, profile.z, profile.lamina)
    top = incisions.highest_tip(profile, incision)
    return WoundScene(
        bones=bones,
        tissue=tissue,
        instruments=sample_instruments(k_instruments, incision, floor=floor, top=top),
        exposed=exposed,
        look_at=jnp.stack([incision.x, floor, incision.z]),
        opening=3.5 * incision.half_x * incision.half_z,
        paint=_draw_paint(uniform, k_paint),
    )


def _draw_paint(uniform: UniformDraws, key: PRNGKey) -> Float[Array, "6 3"]:
    """Draws the base colours, see :class:`WoundScene`."""
    base = jnp.array(
        [
            [0.86, 0.78, 0.62], [0.55, 0.16, 0.13], [0.88, 0.70, 0.40],
            [0.78, 0.56, 0.44], [0.18, 0.42, 0.50], [0.36, 0.04, 0.04],
        ]
    )  # fmt: skip
    light, hue = jnp.split(jax.random.normal(key, (6, 4)), [1], axis=1)
    green, iodine = jnp.array(GREEN_DRAPE), jnp.array(IODINE)
    base = base.at[4].set(jnp.where(uniform(0.0, 1.0) < 0.4, green, base[4]))
    base = base.at[3].set(jnp.where(uniform(0.0, 1.0) < 0.3, iodine, base[3]))
    return base * jnp.exp(0.12 * light + 0.08 * hue)
