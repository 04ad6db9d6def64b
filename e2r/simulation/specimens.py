"""Specimens: spines in both their forms, grids for the renderer and surfaces for registration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import NamedTuple

import jax
import numpy as np
import trimesh
from skimage.measure import marching_cubes

from e2r.geometry import anatomical_frame, poses
from e2r.runtime.compile_cache import CachedProgram
from e2r.simulation.bone_grids import BoneGrids, bake_meshes, bake_specimen
from e2r.simulation.spine import LEVELS
from e2r.types import Array, Pose, PRNGKey

MIN_PIECE_MM3 = 200.0
"""mm^3: smaller pieces of a level are left out of its surface."""


class Specimen(NamedTuple):
    """One spine, on the host."""

    name: str
    bones: BoneGrids
    model: Mapping[str, trimesh.Trimesh]  # level -> surface, mm, model frame
    canonical: Pose  # canonical from model


def procedural_specimen(
    key: PRNGKey,
    name: str,
    *,
    first: Sequence[str] = ("L1",),
    last: Sequence[str] = ("L5",),
    any_shape: bool = False,
) -> Specimen:
    """Draws a specimen. Its model frame is turned and shifted against its axes, as CT frames are.

    Args:
      key: consumed.
      name: of the specimen.
      first: its first level is drawn from these.
      last: its last level is drawn from these.
      any_shape: as in :func:`e2r.simulation.spine.sample_spine`.
    """
    k_bones, k_frame = jax.random.split(key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(k_frame)))
    ends = [LEVELS.index(rng.choice(names)) for names in (first, last)]
    levels = LEVELS[ends[0] : ends[1] + 1]
    bones = _bake_program(levels, any_shape)(k_bones)
    canonical = _draw_model_frame(rng)
    meshes = extract_meshes(jax.tree.map(np.asarray, bones), levels)
    model = {}
    for level, mesh in meshes.items():
        vertices = (np.asarray(mesh.vertices) - canonical.translation) @ canonical.rotation
        model[level] = trimesh.Trimesh(vertices, mesh.faces, process=False)
    return Specimen(name, bones, model, canonical)


@cache
def _bake_program(levels: tuple[str, ...], any_shape: bool) -> Callable[[Array], BoneGrids]:
    return CachedProgram(
        partial(bake_specimen, levels=levels, any_shape=any_shape), fast_compile=True
    )


def _draw_model_frame(rng: np.random.Generator) -> Pose:
    """A pose canonical from model: axes in any order and direction, a small tilt, any shift."""
    axes = np.eye(3)[rng.permutation(3)] * rng.choice([-1.0, 1.0], (3, 1))
    axes[0] *= np.linalg.det(axes)
    tilt = np.asarray(poses.exp_rotation(np.deg2rad(rng.normal(0.0, 4.0, 3)).astype(np.float32)))
    rotation = (axes @ tilt).astype(np.float32)
    return Pose(rotation, rng.uniform(-200.0, 200.0, 3).astype(np.float32))


def specimen_from_surfaces(surfaces: Mapping[str, trimesh.Trimesh], name: str) -> Specimen:
    """A specimen of real surfaces.

    Args:
      surfaces: level -> closed surface, mm, model frame; at least two levels.
      name: of the specimen.

    Raises:
      ValueError: fewer than two levels.
    """
    bones, canonical = bake_meshes(surfaces)
    model = {level: surfaces[level] for level in anatomical_frame.sort_levels(list(surfaces))}
    return Specimen(name, bones, model, canonical)


def extract_meshes(bones: BoneGrids, names: Sequence[str]) -> dict[str, trimesh.Trimesh]:
    """The "CT" surfaces: the zero level set of each grid by marching cubes, canonical frame, mm.

    Args:
      bones: the spine, on the host.
      names: of its levels.
    """
    result = {}
    for i, name in enumerate(names):
        shape = tuple(np.asarray(bones.shape[i]))
        grid = np.array(bones.cells[i, : int(np.prod(shape)), 0]).reshape(shape)
        spacing = (float(bones.spacing[i]),) * 3
        closed = np.pad(grid, 1, constant_values=1.0)  # the last node of each axis is outside
        vertices, faces, _, _ = marching_cubes(closed, 0.0, spacing=spacing)
        vertices = vertices - spacing + np.asarray(bones.origin[i])
        vertices = vertices @ np.asarray(bones.pose.rotation[i]).T + np.asarray(
            bones.pose.translation[i]
        )
        result[name] = _without_crumbs(trimesh.Trimesh(vertices, faces, process=False))
    return result


def _without_crumbs(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """A mesh without its small pieces. An arch that the canal has cut off stays."""
    parts = mesh.split(only_watertight=True)
    if len(parts) < 2:
        return mesh
    return trimesh.util.concatenate([part for part in parts if part.volume > MIN_PIECE_MM3])
