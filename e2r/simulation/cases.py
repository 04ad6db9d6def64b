"""A rendered frame as a case, with its true poses, targets and bone."""

from __future__ import annotations

import jax
import numpy as np
import trimesh

from e2r.datasets.case import Case, make_case
from e2r.formats.scenes import RgbdImage
from e2r.geometry import poses
from e2r.simulation.materials import BONE
from e2r.simulation.rendering import RenderedFrame
from e2r.simulation.specimens import Specimen
from e2r.types import Float

DEPTH_SCALE = 50
"""Steps of the depth image in a mm."""
SURFACE_TARGETS, DEEP_TARGETS = 12, 4
"""Targets of a level, on its surface and inside it."""


def case_from_frame(frame: RenderedFrame, specimen: Specimen, index: int) -> Case:
    """Makes a case of a frame.

    Args:
      frame: on the host.
      specimen: it shows.
      index: number of the frame among those of the specimen.
    """
    height, width = frame.depth.shape
    image = RgbdImage(
        color=np.round(255 * frame.color).astype(np.uint8),
        # As a 16-bit file keeps it.
        depth=np.round(DEPTH_SCALE * frame.depth) / np.float32(DEPTH_SCALE),
        fx=float(frame.focal),
        fy=float(frame.focal),
        cx=0.5 * (width - 1),
        cy=0.5 * (height - 1),
    )
    names = list(specimen.model)
    truth = {}
    for level, name in enumerate(names):
        motion = jax.tree.map(lambda leaf, level=level: leaf[level], frame.posture)
        pose = poses.compose(frame.pose, poses.compose(motion, specimen.canonical))
        truth[name] = jax.tree.map(np.asarray, pose)
    exposed = [name for name, shown in zip(names, frame.exposed, strict=True) if shown]
    rng = np.random.default_rng([index, len(names)])
    return make_case(
        image,
        id=case_id(specimen.name, index),
        model=specimen.model,
        truth=truth,
        targets={name: choose_targets(specimen.model[name], rng) for name in exposed},
        source=specimen.name,
        bone=np.asarray(frame.material == BONE),
    )


def case_id(specimen: str, index: int) -> str:
    """The id of a specimen's frame."""
    return f"{specimen}_{index:03d}"


def choose_targets(mesh: trimesh.Trimesh, rng: np.random.Generator) -> Float[np.ndarray, "16 3"]:
    """Draws a level's targets, mm in the model frame: first on its surface, then deep in it."""
    faces = rng.choice(len(mesh.faces), SURFACE_TARGETS, p=mesh.area_faces / mesh.area)
    surface = mesh.triangles_center[faces]
    # The middle of the bulk lies at the back of the vertebral body.
    deep = np.asarray(mesh.center_mass) + rng.uniform(-6.0, 6.0, (DEEP_TARGETS, 3))
    return np.concatenate([surface, deep])
