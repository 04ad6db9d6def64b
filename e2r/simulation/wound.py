"""An open posterior wound: bone, soft tissue, instruments, and the colours of all of them.

Everything is in the canonical frame of the spine (x left, y posterior, z cranial, mm).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.simulation import incision as incisions
from e2r.simulation.bone_grids import BoneGrids
from e2r.simulation.instruments import Instruments, add_gauze, sample_instruments
from e2r.simulation.tissue import Tissue, sample_tissue
from e2r.simulation.uniform_draws import UniformDraws
from e2r.simulation.variety import Variety
from e2r.types import Array, Bool, Float, PRNGKey, ScalarLike

GREEN_DRAPE, IODINE = (0.15, 0.45, 0.30), (0.55, 0.30, 0.12)
"""Colours that drape and skin have in some of the scenes."""


class Paint(NamedTuple):
    """The colours of a scene, and how its tissue is painted with them."""

    base: Float[Array, "6 3"]  # bone, muscle, fat, skin, drape, blood
    pale_level: ScalarLike = 0.7  # where less of the tissue is pale, this is higher
    pale_share: ScalarLike = 0.8  # of the pale colour in pale tissue
    bone_stain: ScalarLike = 0.85  # of blood where bone is most bloody
    stain_level: ScalarLike = -0.3  # where less is bloody, this is higher
    texture: ScalarLike = 0.08  # relative change of brightness


class WoundScene(NamedTuple):
    """Everything that the camera can see."""

    bones: BoneGrids
    tissue: Tissue
    instruments: Instruments
    exposed: Bool[Array, "l"]  # levels inside the incision
    look_at: Float[Array, "3"]  # mm, middle of the wound
    opening: Float[Array, ""]  # mm^2, area of the wound
    paint: Paint


def sample_scene(
    key: PRNGKey,
    bones: BoneGrids,
    *,
    variety: Collection[Variety] = (),
    exposed: Sequence[bool] = (),
) -> WoundScene:
    """Opens the back of a spine: an incision over a random run of two to five levels.

    Args:
      key: consumed.
      bones: the spine, L levels from head to tail.
      variety: kinds of paint and build beyond the plain ones.
      exposed: whether each level lies in the incision; drawn at random where it is empty.
    """
    k_draws, k_maps, k_paint, k_instruments = jax.random.split(key, 4)
    uniform = UniformDraws(k_draws, 64)
    drawn = incisions.draw_exposed(uniform, bones.centre.shape[0])
    inside = jnp.asarray(exposed) if exposed else drawn
    profile = incisions.probe_profile(bones)
    incision = incisions.draw_incision(uniform, bones, inside, variety=variety)
    tissue = sample_tissue(
        uniform, k_maps, bones, profile=profile, incision=incision, variety=variety
    )
    floor = jnp.interp(incision.z, profile.z, profile.lamina)
    top = incisions.highest_tip(profile, incision)
    instruments = sample_instruments(k_instruments, incision, floor=floor, top=top)
    paint = _draw_paint(uniform, k_paint)
    if "paint" in variety:
        paint = _vary_paint(jax.random.fold_in(key, 4), paint)
        instruments = add_gauze(jax.random.fold_in(key, 5), instruments, incision, floor=floor)
    return WoundScene(
        bones=bones,
        tissue=tissue,
        instruments=instruments,
        exposed=inside,
        look_at=jnp.stack([incision.x, floor, incision.z]),
        opening=3.5 * incision.half_x * incision.half_z,
        paint=paint,
    )


def _draw_paint(uniform: UniformDraws, key: PRNGKey) -> Paint:
    """Draws the base colours."""
    base = jnp.array(
        [
            [0.86, 0.78, 0.62], [0.55, 0.16, 0.13], [0.88, 0.70, 0.40],
            [0.78, 0.56, 0.44], [0.18, 0.42, 0.50], [0.36, 0.04, 0.04],
        ]
    )  # fmt: skip
    light, hue = jnp.split(jax.random.normal(key, (6, 4)), [1], axis=1)
    green, iodine = jnp.array(GREEN_DRAPE), jnp.array(IODINE)
    base = base.at[4].set(jnp.where(uniform.happens(0.4), green, base[4]))
    base = base.at[3].set(jnp.where(uniform.happens(0.3), iodine, base[3]))
    return Paint(base * jnp.exp(0.12 * light + 0.08 * hue))


def _vary_paint(key: PRNGKey, paint: Paint) -> Paint:
    """Fat and gristle between their own colour and that of bone, and any amount of blood."""
    k_draws, k_light = jax.random.split(key)
    uniform = UniformDraws(k_draws, 8)
    light, hue = jnp.split(jax.random.normal(k_light, (6, 4)), [1], axis=1)
    base = jnp.asarray(paint.base) * jnp.exp(0.15 * light + 0.06 * hue)
    pale = base[2] + uniform(0.0, 1.0) * (base[0] - base[2])
    return Paint(
        base=base.at[2].set(pale),
        pale_level=uniform(-0.6, 1.0),
        pale_share=uniform(0.3, 1.0),
        bone_stain=uniform(0.3, 1.0),
        stain_level=uniform(-1.2, 0.8),
        texture=uniform(0.0, 0.15),
    )
