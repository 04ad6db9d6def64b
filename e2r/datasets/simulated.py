"""Simulated cases: specimens (procedural or real surfaces) photographed in fresh wounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import jax
import numpy as np
import trimesh

from e2r.ahead import ahead
from e2r.datasets import cases
from e2r.geometry import frames, poses
from e2r.programs import Program, may_be_kept
from e2r.synthetic import anatomy, scene
from e2r.types import Array, Pose

may_be_kept(anatomy.Bones, scene.Frame)

BATCH = 4
"""Frames photographed at a time."""
ATTEMPTS = 100
"""Batches photographed for each frame wanted before the demand for bone is given up."""


@dataclass(frozen=True)
class Simulation:
    """How scenes are photographed."""

    width: int = 96
    """picture width in pixels, a multiple of 4"""
    height: int = 72
    """picture height in pixels, a multiple of 4"""
    fill: tuple[float, float] = (0.05, 0.8)
    """smallest and largest share of the picture that the wound fills"""
    least_bone: float = 0.005
    """scenes that show a smaller share of bone pixels are drawn again"""
    posture_degrees: float = 0.0
    """how far each level has turned since the scan, standard deviation per axis"""
    posture_mm: float = 0.0
    """how far each level has shifted since the scan, standard deviation per axis"""
    still: float = 0.0
    """share of the scenes whose posture is the scan's all the same"""
    first: tuple[str, ...] = ("L1",)
    """first level of a spine, drawn from these (T12 to L4)"""
    last: tuple[str, ...] = ("L5",)
    """last level of a spine, drawn from these (L2 to S1)"""

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            value = getattr(self, name)
            if value < 16 or value % scene.CONE:
                raise ValueError(
                    f"simulation.{name} is {value}; use a multiple of {scene.CONE}, 16 or more"
                )
        if not 0 < self.fill[0] <= self.fill[1] <= 1:
            raise ValueError(f"simulation.fill is {self.fill}; use two shares in (0, 1], in order")
        if not (0 <= self.posture_degrees <= 15 and 0 <= self.posture_mm <= 15):
            raise ValueError("simulation: posture_degrees and posture_mm are 0 to 15")
        if not 0 <= self.still <= 1:
            raise ValueError(f"simulation.still is {self.still}; use a share, 0 to 1")
        known = anatomy.LEVELS
        if not self.first or not self.last or {*self.first, *self.last} - {*known}:
            raise ValueError(
                "simulation.first and simulation.last name levels: some of " + ", ".join(known)
            )
        if max(map(known.index, self.first)) >= min(map(known.index, self.last)):
            raise ValueError("simulation: each of first lies above each of last")
        if not 0 <= self.least_bone < 0.2:
            raise ValueError(f"simulation.least_bone is {self.least_bone}; use 0 to 0.2")


class Specimen(NamedTuple):
    """A spine in both its forms, on the host."""

    name: str
    bones: anatomy.Bones
    model: Mapping[str, trimesh.Trimesh]  # model frame
    canonical: Pose  # canonical from model


@cache
def _baker(levels: tuple[str, ...]) -> Callable[[Array], anatomy.Bones]:
    return Program(partial(anatomy.specimen, levels=levels), "specimen", levels, sooner=True)


@cache
def _photographer(settings: Simulation) -> Callable[[Array, anatomy.Bones], scene.Frame]:
    one = partial(
        scene.photograph, width=settings.width, height=settings.height, fill=settings.fill,
        degrees=settings.posture_degrees, mm=settings.posture_mm, still=settings.still,
    )  # fmt: skip
    return Program(jax.vmap(one, (0, None)), "photograph", settings, sooner=True)


def procedural(key: Array, name: str, settings: Simulation | None = None) -> Specimen:
    """Draws a specimen; its model frame is turned and shifted as CT frames are.

    Args:
      key: consumed.
      name: of the specimen.
      settings: which levels it may have; L1 to L5 without them.
    """
    settings = settings or Simulation()
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
    for level, mesh in anatomy.meshes(host, levels).items():
        vertices = (np.asarray(mesh.vertices) - shift) @ rotation
        model[level] = trimesh.Trimesh(vertices, mesh.faces, process=False)
    return Specimen(name, bones, model, canonical)


def real(surfaces: Mapping[str, trimesh.Trimesh], name: str) -> Specimen:
    """A specimen made of surfaces that a user gave; see :func:`anatomy.from_meshes`."""
    bones, canonical = anatomy.from_meshes(surfaces)
    model = {level: surfaces[level] for level in frames.sort_levels(list(surfaces))}
    return Specimen(name, bones, model, canonical)


def photograph(
    key: Array, specimen: Specimen, settings: Simulation, *, count: int
) -> list[cases.Case]:
    """``count`` accepted frames of a specimen, each knowing its bone.

    A frame is drawn again unless it shows enough bone, of at least two levels.
    """
    render = _photographer(settings)
    accepted: list[cases.Case] = []
    for attempt in range(ATTEMPTS * count):
        keys = jax.random.split(jax.random.fold_in(key, attempt), BATCH)
        frames = jax.tree.map(np.asarray, render(keys, specimen.bones))
        for i in range(BATCH):
            frame: scene.Frame = jax.tree.map(lambda leaf, i=i: leaf[i], frames)
            if len(accepted) < count and _shows_enough(frame, settings):
                accepted.append(_case(frame, specimen, len(accepted)))
        if len(accepted) == count:
            return accepted
    raise ValueError(
        f"{specimen.name}: only {len(accepted)} of {count} scenes show {settings.least_bone:.1%} "
        f"bone in {ATTEMPTS * count * BATCH} tries; lower simulation.least_bone or raise "
        "simulation.fill"
    )


def _shows_enough(frame: scene.Frame, settings: Simulation) -> bool:
    bone = (frame.kind == scene.BONE) & (frame.depth > 0)
    per_level = np.bincount(frame.level[bone], minlength=2)
    least = max(8, 0.001 * bone.size)
    return bool(bone.mean() >= settings.least_bone and (per_level >= least).sum() >= 2)


def _case(frame: scene.Frame, specimen: Specimen, index: int) -> cases.Case:
    height, width = frame.depth.shape
    picture = cases.Picture(
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
    return cases.from_picture(
        picture,
        bone=frame.kind == scene.BONE,
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


def simulate(
    key: Array,
    settings: Simulation,
    *,
    specimens: int,
    frames: int,
    prefix: str = "specimen",
    workers: int = 2,
) -> Iterator[list[cases.Case]]:
    """Procedural specimens, one after the other, each with its frames.

    Results depend on ``key`` alone, not on ``workers``: specimen ``i`` has the key
    ``fold_in(key, i)``.
    """
    one = partial(_frames, key, settings, frames, prefix)
    yield from ahead(one, range(specimens), workers=workers)


def _frames(
    key: Array, settings: Simulation, frames: int, prefix: str, index: int
) -> list[cases.Case]:
    k_shape, k_frames = jax.random.split(jax.random.fold_in(key, index))
    subject = procedural(k_shape, _name(prefix, index), settings)
    return photograph(k_frames, subject, settings, count=frames)


def _name(prefix: str, index: int) -> str:
    return f"{prefix}{index:04d}"


HELD_OUT, CALIBRATION = 0x7E57, 0xCA11
"""What sets the keys of specimens to test and to calibrate on apart, and from training's."""


class Unseen(NamedTuple):
    """A specimen that no training run sees, and no use of another kind: not made yet."""

    ids: tuple[str, ...]  # of its cases
    make: Callable[[], list[cases.Case]]


def unseen(
    settings: Simulation, *, specimens: int, frames: int, seed: int, kind: int = HELD_OUT
) -> list[Unseen]:
    """Specimens that no training run sees, each to be made when it is its turn.

    Args:
      settings: how they are photographed.
      specimens, frames: number of specimens, and of scenes of each.
      seed: draws other ones.
      kind: :data:`HELD_OUT` or :data:`CALIBRATION`.
    """
    key, prefix = jax.random.fold_in(jax.random.key(seed), kind), "heldout"
    return [
        Unseen(
            tuple(_id(_name(prefix, i), k) for k in range(frames)),
            partial(_frames, key, settings, frames, prefix, i),
        )
        for i in range(specimens)
    ]


def held_out(
    settings: Simulation, *, specimens: int, frames: int, seed: int, kind: int = HELD_OUT
) -> Iterator[cases.Case]:
    """The cases of :func:`unseen` specimens, one after the other."""
    found = unseen(settings, specimens=specimens, frames=frames, seed=seed, kind=kind)
    for group in ahead(lambda one: one.make(), found, workers=2):
        yield from group
