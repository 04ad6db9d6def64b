"""Simulated cases: specimens, procedural or of real surfaces, in fresh wounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import jax
import numpy as np

from e2r.datasets.case import Case
from e2r.runtime.compile_cache import CachedProgram
from e2r.runtime.prefetch import prefetch
from e2r.simulation.bone_grids import BoneGrids
from e2r.simulation.cases import case_from_frame, case_id
from e2r.simulation.materials import BONE
from e2r.simulation.rendering import RenderedFrame, photograph
from e2r.simulation.specimens import Specimen, procedural_specimen
from e2r.simulation.spine import LEVELS
from e2r.simulation.tracing import CONE
from e2r.simulation.variety import VARIETIES, Variety
from e2r.types import Array, PRNGKey

BATCH = 4
"""Frames rendered at a time."""
ATTEMPTS = 100
"""Batches rendered for each frame wanted, before a demand for bone is given up."""
MIN_FOCAL, MAX_FOCAL = 0.2, 30.0
"""Focal length in widths of the frame: fields of view of 136 and of 2 degrees."""
HELD_OUT, CALIBRATION, WATCHED = 0x7E57, 0xCA11, 0x3A7C
"""Folded into the keys of test and of calibration specimens: they differ from those of training."""


@dataclass(frozen=True)
class SimulationConfig:
    """Which spines are simulated, and how their frames are made."""

    width: int = 96
    """width of a frame in pixels, a multiple of 4"""
    height: int = 72
    """height of a frame in pixels, a multiple of 4"""
    wound_fraction: tuple[float, float] = (0.05, 0.8)
    """smallest and largest share of the frame that the wound fills"""
    min_bone_fraction: float = 0.005
    """frames with a smaller share of bone pixels are drawn again"""
    posture_degrees: float = 0.0
    """turn of each level since the scan, standard deviation per axis"""
    posture_mm: float = 0.0
    """shift of each level since the scan, standard deviation per axis"""
    unbent_fraction: float = 0.0
    """share of the frames whose spine has the posture of the scan"""
    first: tuple[str, ...] = ("L1",)
    """first level of a spine, drawn from these (T12 to L4)"""
    last: tuple[str, ...] = ("L5",)
    """last level of a spine, drawn from these (L2 to S1)"""
    variety: tuple[Variety, ...] = ()
    """kinds of frames beyond the plain one: light, paint, optics, sensor, shape, build,
    clearing"""
    focal_to_width: float = 0.0
    """focal length of the camera over the width of its frame; 0: zoomed until the wound fills its
    share"""
    exposed: tuple[str, ...] = ()
    """levels in the wound; a random run of two to five without them"""

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            value = getattr(self, name)
            if value < 16 or value % CONE:
                raise ValueError(
                    f"simulation.{name} is {value}; use a multiple of {CONE}, 16 or more"
                )
        if not 0 < self.wound_fraction[0] <= self.wound_fraction[1] <= 1:
            raise ValueError(
                f"simulation.wound_fraction is {self.wound_fraction}; "
                "use two shares in (0, 1], in order"
            )
        if not (0 <= self.posture_degrees <= 15 and 0 <= self.posture_mm <= 15):
            raise ValueError("simulation: posture_degrees and posture_mm are 0 to 15")
        if not 0 <= self.unbent_fraction <= 1:
            raise ValueError(
                f"simulation.unbent_fraction is {self.unbent_fraction}; use a share, 0 to 1"
            )
        if not self.first or not self.last or {*self.first, *self.last} - {*LEVELS}:
            raise ValueError(
                "simulation.first and simulation.last name levels: some of " + ", ".join(LEVELS)
            )
        if max(map(LEVELS.index, self.first)) >= min(map(LEVELS.index, self.last)):
            raise ValueError("simulation: each level of first lies above each level of last")
        if {*self.variety} - {*VARIETIES}:
            raise ValueError(
                f"simulation.variety is {self.variety}; use some of " + ", ".join(VARIETIES)
            )
        if self.focal_to_width and not MIN_FOCAL <= self.focal_to_width <= MAX_FOCAL:
            raise ValueError(
                f"simulation.focal_to_width is {self.focal_to_width}; use {MIN_FOCAL} to "
                f"{MAX_FOCAL} widths of the frame, or 0"
            )
        if not 0 <= self.min_bone_fraction < 0.2:
            raise ValueError(
                f"simulation.min_bone_fraction is {self.min_bone_fraction}; use 0 to below 0.2"
            )


@cache
def _photograph_program(
    settings: SimulationConfig, exposed: tuple[bool, ...]
) -> Callable[[Array, BoneGrids], RenderedFrame]:
    one = partial(
        photograph,
        width=settings.width,
        height=settings.height,
        wound_fraction=settings.wound_fraction,
        posture_degrees=settings.posture_degrees,
        posture_mm=settings.posture_mm,
        unbent_fraction=settings.unbent_fraction,
        variety=settings.variety,
        focal_to_width=settings.focal_to_width,
        exposed=exposed,
    )
    return CachedProgram(jax.vmap(one, (0, None)), fast_compile=True)


def simulate_frames(
    key: PRNGKey, specimen: Specimen, settings: SimulationConfig, *, count: int
) -> list[Case]:
    """Frames of a specimen. A frame is drawn again unless it shows enough bone, of two levels.

    Where the settings expose a single level, its bone is enough.

    Args:
      key: consumed.
      specimen: a spine.
      settings: how frames are made.
      count: of accepted frames.

    Raises:
      ValueError: too few frames show enough bone, or the specimen lacks a level that the settings
        expose.
    """
    program = _photograph_program(settings, _exposed_levels(specimen, settings))
    accepted: list[Case] = []
    for attempt in range(ATTEMPTS * count):
        keys = jax.random.split(jax.random.fold_in(key, attempt), BATCH)
        frames = jax.tree.map(np.asarray, program(keys, specimen.bones))
        for i in range(BATCH):
            frame: RenderedFrame = jax.tree.map(lambda leaf, i=i: leaf[i], frames)
            if len(accepted) < count and _shows_enough_bone(frame, settings):
                accepted.append(case_from_frame(frame, specimen, len(accepted)))
        if len(accepted) == count:
            return accepted
    raise ValueError(
        f"{specimen.name}: only {len(accepted)} of {count} frames show "
        f"{settings.min_bone_fraction:.1%} bone in {ATTEMPTS * count * BATCH} tries; "
        "lower simulation.min_bone_fraction or raise simulation.wound_fraction"
    )


def _exposed_levels(specimen: Specimen, settings: SimulationConfig) -> tuple[bool, ...]:
    """Whether each level of a specimen lies in the wound; empty where that is drawn at random."""
    if missing := [name for name in settings.exposed if name not in specimen.model]:
        raise ValueError(
            f"{specimen.name}: has no {missing[0]} to expose; its levels are "
            f"{', '.join(specimen.model)}"
        )
    return tuple(name in settings.exposed for name in specimen.model if settings.exposed)


def _shows_enough_bone(frame: RenderedFrame, settings: SimulationConfig) -> bool:
    bone = (frame.material == BONE) & (frame.depth > 0)
    per_level = np.bincount(frame.level[bone], minlength=2)
    least = max(8, 0.001 * bone.size)
    levels = 1 if len(settings.exposed) == 1 else 2
    return bool(bone.mean() >= settings.min_bone_fraction and (per_level >= least).sum() >= levels)


def simulate_specimens(
    key: PRNGKey,
    settings: SimulationConfig,
    *,
    specimens: int,
    frames: int,
    prefix: str = "specimen",
    workers: int = 2,
) -> Iterator[list[Case]]:
    """Procedural specimens, one after the other, each with its frames.

    Results depend on ``key`` alone, not on ``workers``: specimen ``i`` has the key
    ``fold_in(key, i)``.

    Args:
      key: consumed.
      settings: which spines, and how frames are made.
      specimens: number of specimens.
      frames: number of frames of each.
      prefix: of the specimens' names.
      workers: threads that simulate ahead.
    """
    one = partial(_simulate_specimen, key, settings, frames, prefix)
    yield from prefetch(one, range(specimens), workers=workers)


def _simulate_specimen(
    key: PRNGKey, settings: SimulationConfig, frames: int, prefix: str, index: int
) -> list[Case]:
    k_shape, k_frames = jax.random.split(jax.random.fold_in(key, index))
    specimen = procedural_specimen(
        k_shape,
        _specimen_name(prefix, index),
        first=settings.first,
        last=settings.last,
        any_shape="shape" in settings.variety,
    )
    return simulate_frames(k_frames, specimen, settings, count=frames)


def _specimen_name(prefix: str, index: int) -> str:
    return f"{prefix}{index:04d}"


class UnseenSpecimen(NamedTuple):
    """A specimen that no training run sees. It is made on demand."""

    ids: tuple[str, ...]  # of its cases
    make: Callable[[], list[Case]]


def unseen_specimens(
    settings: SimulationConfig, *, specimens: int, frames: int, seed: int, kind: int = HELD_OUT
) -> list[UnseenSpecimen]:
    """Specimens that no training run sees, each made on demand.

    Args:
      settings: which spines, and how frames are made.
      specimens: number of specimens.
      frames: number of frames of each.
      seed: another seed gives other specimens.
      kind: :data:`HELD_OUT`, :data:`CALIBRATION` or :data:`WATCHED`; no two share a specimen.
    """
    key, prefix = jax.random.fold_in(jax.random.key(seed), kind), "heldout"
    return [
        UnseenSpecimen(
            tuple(case_id(_specimen_name(prefix, i), k) for k in range(frames)),
            partial(_simulate_specimen, key, settings, frames, prefix, i),
        )
        for i in range(specimens)
    ]


def held_out_cases(
    settings: SimulationConfig, *, specimens: int, frames: int, seed: int, kind: int = HELD_OUT
) -> Iterator[Case]:
    """The cases of :func:`unseen_specimens`, one after the other.

    Args:
      settings: which spines, and how frames are made.
      specimens: number of specimens.
      frames: number of frames of each.
      seed: another seed gives other specimens.
      kind: :data:`HELD_OUT`, :data:`CALIBRATION` or :data:`WATCHED`.
    """
    unseen = unseen_specimens(settings, specimens=specimens, frames=frames, seed=seed, kind=kind)
    for cases in prefetch(lambda specimen: specimen.make(), unseen, workers=2):
        yield from cases
