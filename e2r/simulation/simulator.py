"""Simulated cases: specimens (procedural or real surfaces) photographed in fresh wounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import jax
import numpy as np
import trimesh

from e2r.datasets.case import Case, RgbdImage, case_from_image
from e2r.geometry import anatomical_frame, poses
from e2r.runtime.compile_cache import CachedProgram, register_serializable
from e2r.runtime.prefetch import prefetch
from e2r.simulation import anatomy, rendering
from e2r.types import Array, Pose

register_serializable(anatomy.Bones, rendering.RenderedFrame)

BATCH = 4
"""Frames photographed at a time."""
ATTEMPTS = 100
"""Batches photographed for each frame wanted before the demand for bone is given up."""


@dataclass(frozen=True)
class SimulationConfig:
    """How scenes are photographed."""

    width: int = 96
    """picture width in pixels, a multiple of 4"""
    height: int = 72
    """picture height in pixels, a multiple of 4"""
    wound_fraction: tuple[float, float] = (0.05, 0.8)
    """smallest and largest share of the picture that the wound fills"""
    min_bone_fraction: float = 0.005
    """scenes that show a smaller share of bone pixels are drawn again"""
    posture_degrees: float = 0.0
    """how far each level has turned since the scan, standard deviation per axis"""
    posture_mm: float = 0.0
    """how far each level has shifted since the scan, standard deviation per axis"""
    unbent_fraction: float = 0.0
    """share of the scenes whose posture is the scan's all the same"""
    first: tuple[str, ...] = ("L1",)
    """first level of a spine, drawn from these (T12 to L4)"""
    last: tuple[str, ...] = ("L5",)
    """last level of a spine, drawn from these (L2 to S1)"""

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            value = getattr(self, name)
            if value < 16 or value % rendering.CONE:
                raise ValueError(
                    f"simulation.{name} is {value}; use a multiple of {rendering.CONE}, 16 or more"
                )
        if not 0 < self.wound_fraction[0] <= self.wound_fraction[1] <= 1:
            raise ValueError(
                f"simulation.wound_fraction is {self.wound_fraction}; use two shares in (0, 1], in order"
            )
        if not (0 <= self.posture_degrees <= 15 and 0 <= self.posture_mm <= 15):
            raise ValueError("simulation: posture_degrees and posture_mm are 0 to 15")
        if not 0 <= self.unbent_fraction <= 1:
            raise ValueError(
                f"simulation.unbent_fraction is {self.unbent_fraction}; use a share, 0 to 1"
            )
        known = anatomy.LEVELS
        if not self.first or not self.last or {*self.first, *self.last} - {*known}:
            raise ValueError(
                "simulation.first and simulation.last name levels: some of " + ", ".join(known)
            )
        if max(map(known.index, self.first)) >= min(map(known.index, self.last)):
            raise ValueError("simulation: each of first lies above each of last")
        if not 0 <= self.min_bone_fraction < 0.2:
            raise ValueError(
                f"simulation.min_bone_fraction is {self.min_bone_fraction}; use 0 to 0.2"
            )


class Specimen(NamedTuple):
    """A spine in both its forms, on the host."""

    name: str
    bones: anatomy.Bones
    model: Mapping[str, trimesh.Trimesh]  # model frame
    canonical: Pose  # canonical from model


@cache
def _baker(levels: tuple[str, ...]) -> Callable[[Array], anatomy.Bones]:
    return CachedProgram(
        partial(anatomy.bake_specimen, levels=levels), "specimen", levels, fast_compile=True
    )


@cache
def _photographer(
    settings: SimulationConfig,
) -> Callable[[Array, anatomy.Bones], rendering.RenderedFrame]:
    one = partial(
        rendering.photograph, width=settings.width, height=settings.height, wound_fraction=settings.wound_fraction,
        degrees=settings.posture_degrees, mm=settings.posture_mm, unbent_fraction=settings.unbent_fraction,
    )  # fmt: skip
    return CachedProgram(jax.vmap(one, (0, None)), "photograph", settings, fast_compile=True)


def procedural_specimen(
    key: Array, name: str, settings: SimulationConfig | None = None
) -> Specimen:
    """Draws a specimen; its model frame is turned and shifted as CT frames are.

    Args:
      key: consumed.
      name: of the specimen.
      settings: which levels it may have; L1 to L5 without them.
    """
    settings = settings or SimulationConfig()
    k_bones, k_frame = jax.random.split(key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(k_frame)))
    ends = [anatomy.LEVELS.index(rng.choice(some)) for some in (settings.first, settings.last)]
    levels = anatomy.LEVELS[ends[0] : ends[1] + 1]
    bones = _baker(levels)(k_bones)
    axes = np.eye(3)[rng.permutation(3)] * rng.choice([-1.0, 1.0], (3, 1))
    axes[0] *= np.linalg.det(axes)
    tilt = np.asarray(poses.exp_rotation(np.float32(np.deg2rad(rng.normal(0.0, 4.0, 3)))))
    rotation = (axes @ tilt).astype(np.float32)
    shift = rng.uniform(-200.0, 200.0, 3).astype(np.float32)
    canonical = Pose(rotation, shift)
    host = jax.tree.map(np.asarray, bones)
    model = {}
    for level, mesh in anatomy.extract_meshes(host, levels).items():
        vertices = (np.asarray(mesh.vertices) - shift) @ rotation
        model[level] = trimesh.Trimesh(vertices, mesh.faces, process=False)
    return Specimen(name, bones, model, canonical)


def specimen_from_surfaces(surfaces: Mapping[str, trimesh.Trimesh], name: str) -> Specimen:
    """A specimen made of surfaces that a user gave; see :func:`anatomy.bake_meshes`."""
    bones, canonical = anatomy.bake_meshes(surfaces)
    model = {level: surfaces[level] for level in anatomical_frame.sort_levels(list(surfaces))}
    return Specimen(name, bones, model, canonical)


def simulate_frames(
    key: Array, specimen: Specimen, settings: SimulationConfig, *, count: int
) -> list[Case]:
    """``count`` accepted frames of a specimen, each knowing its bone.

    A frame is drawn again unless it shows enough bone, of at least two levels.
    """
    render = _photographer(settings)
    accepted: list[Case] = []
    for attempt in range(ATTEMPTS * count):
        keys = jax.random.split(jax.random.fold_in(key, attempt), BATCH)
        frames = jax.tree.map(np.asarray, render(keys, specimen.bones))
        for i in range(BATCH):
            frame: rendering.RenderedFrame = jax.tree.map(lambda leaf, i=i: leaf[i], frames)
            if len(accepted) < count and _shows_enough(frame, settings):
                accepted.append(_case(frame, specimen, len(accepted)))
        if len(accepted) == count:
            return accepted
    raise ValueError(
        f"{specimen.name}: only {len(accepted)} of {count} scenes show {settings.min_bone_fraction:.1%} "
        f"bone in {ATTEMPTS * count * BATCH} tries; lower simulation.min_bone_fraction or raise "
        "simulation.wound_fraction"
    )


def _shows_enough(frame: rendering.RenderedFrame, settings: SimulationConfig) -> bool:
    bone = (frame.kind == rendering.BONE) & (frame.depth > 0)
    per_level = np.bincount(frame.level[bone], minlength=2)
    least = max(8, 0.001 * bone.size)
    return bool(bone.mean() >= settings.min_bone_fraction and (per_level >= least).sum() >= 2)


def _case(frame: rendering.RenderedFrame, specimen: Specimen, index: int) -> Case:
    height, width = frame.depth.shape
    picture = RgbdImage(
        color=np.round(255 * frame.color).astype(np.uint8),
        depth=np.round(50 * frame.depth) / np.float32(50),  # as a 16-bit file keeps it
        fx=float(frame.focal),
        fy=float(frame.focal),
        cx=0.5 * (width - 1),
        cy=0.5 * (height - 1),
    )
    names = list(specimen.model)
    truth = {}
    for level, name in enumerate(names):
        moved = jax.tree.map(lambda leaf, level=level: leaf[level], frame.posture)
        pose = poses.compose(frame.pose, poses.compose(moved, specimen.canonical))
        truth[name] = jax.tree.map(np.asarray, pose)
    exposed = [name for name, shown in zip(names, frame.exposed, strict=True) if shown]
    rng = np.random.default_rng([index, len(names)])
    return case_from_image(
        picture,
        bone=frame.kind == rendering.BONE,
        id=_id(specimen.name, index),
        model=specimen.model,
        truth=truth,
        targets={name: choose_targets(specimen.model[name], rng) for name in exposed},
        source=specimen.name,
    )


def _id(specimen: str, index: int) -> str:
    return f"{specimen}_{index:03d}"


def choose_targets(mesh: trimesh.Trimesh, rng: np.random.Generator) -> np.ndarray:
    """Twelve targets on a level's surface and four deep in it, (16, 3) mm in the model frame."""
    faces = rng.choice(len(mesh.faces), 12, p=mesh.area_faces / mesh.area)
    surface = mesh.triangles_center[faces]
    # Deep: about the middle of the bulk, at the back of the vertebral body.
    middle = np.asarray(mesh.center_mass)
    deep = middle + rng.uniform(-6.0, 6.0, (4, 3))
    return np.concatenate([surface, deep])


def simulate_specimens(
    key: Array,
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
    """
    one = partial(_frames, key, settings, frames, prefix)
    yield from prefetch(one, range(specimens), workers=workers)


def _frames(
    key: Array, settings: SimulationConfig, frames: int, prefix: str, index: int
) -> list[Case]:
    k_shape, k_frames = jax.random.split(jax.random.fold_in(key, index))
    subject = procedural_specimen(k_shape, _name(prefix, index), settings)
    return simulate_frames(k_frames, subject, settings, count=frames)


def _name(prefix: str, index: int) -> str:
    return f"{prefix}{index:04d}"


HELD_OUT, CALIBRATION = 0x7E57, 0xCA11
"""What sets the keys of specimens to test and to calibrate on apart, and from training's."""


class UnseenSpecimen(NamedTuple):
    """A specimen that no training run sees, and no use of another kind: not made yet."""

    ids: tuple[str, ...]  # of its cases
    make: Callable[[], list[Case]]


def unseen_specimens(
    settings: SimulationConfig, *, specimens: int, frames: int, seed: int, kind: int = HELD_OUT
) -> list[UnseenSpecimen]:
    """Specimens that no training run sees, each to be made when it is its turn.

    Args:
      settings: how they are photographed.
      specimens, frames: number of specimens, and of scenes of each.
      seed: draws other ones.
      kind: :data:`HELD_OUT` or :data:`CALIBRATION`.
    """
    key, prefix = jax.random.fold_in(jax.random.key(seed), kind), "heldout"
    return [
        UnseenSpecimen(
            tuple(_id(_name(prefix, i), k) for k in range(frames)),
            partial(_frames, key, settings, frames, prefix, i),
        )
        for i in range(specimens)
    ]


def held_out_cases(
    settings: SimulationConfig, *, specimens: int, frames: int, seed: int, kind: int = HELD_OUT
) -> Iterator[Case]:
    """The cases of :func:`unseen_specimens` specimens, one after the other."""
    found = unseen_specimens(settings, specimens=specimens, frames=frames, seed=seed, kind=kind)
    for group in prefetch(lambda one: one.make(), found, workers=2):
        yield from group
