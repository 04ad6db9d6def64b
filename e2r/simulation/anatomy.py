"""Lumbar spines as signed distance grids: procedural specimens, or real surfaces in their place.

Canonical frame of a spine (LPS): x to the patient's left, y posterior, z cranial, mm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import igl
import jax
import jax.numpy as jnp
import numpy as np
import trimesh
from skimage.measure import marching_cubes

from e2r.geometry import anatomical_frame, poses
from e2r.simulation import vertebra
from e2r.simulation.vertebra import LOW, SACRUM_LOW, SACRUM_SPACING, SHAPE, Vertebra
from e2r.types import Array, Pose

LEVELS = ("T12", "L1", "L2", "L3", "L4", "L5", "S1")
RANKS = (-0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
"""How far along the lumbar spine a vertebra is; the sacrum is no vertebra of this kind."""
SPACING = 1.75


class Bones(NamedTuple):
    """A spine for the renderer: a signed distance grid a level, cells flat and padded."""

    corners: Array  # (L, M, 8) mm, negative inside: a cell's eight nodes in one row
    origin: Array  # (L, 3) first node, level frame
    spacing: Array  # (L,) mm
    shape: Array  # (L, 3) int32 cells
    pose: Pose  # (L, ...) canonical from level
    centre: Array  # (L, 3) middle of the vertebra, canonical frame


CRUMB = 200.0
"""mm^3: smaller pieces of a level are not in its surface."""


def sample_spine(key: Array) -> tuple[Vertebra, Pose]:
    """Draws a specimen: shapes and poses (canonical from level), leading axis as :data:`LEVELS`.

    Lordosis, a little scoliosis with axial rotation, and disc heights vary by specimen. The origin
    is the mean of the lumbar bodies' centres.
    """
    k_scale, k_shape, k_curve, k_disc, k_twist = jax.random.split(key, 5)
    scale = jnp.exp(0.07 * jnp.clip(jax.random.normal(k_scale), -2.0, 2.0))
    count = len(LEVELS)
    k_sacrum, *k_shapes = jax.random.split(k_shape, count)
    shapes = jax.vmap(lambda k, r: vertebra.sample_vertebra(k, r, scale))(
        jnp.stack(k_shapes), jnp.array(RANKS)
    )
    shapes = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b[None]]), shapes, vertebra.sample_sacrum(k_sacrum, scale)
    )
    lordosis = jnp.deg2rad(jax.random.uniform(k_curve, (), minval=15.0, maxval=48.0))
    tilt = lordosis * (jnp.array(RANKS) - 0.3)  # about x: L1's end plate faces back, L5's forward
    sacral = jax.random.uniform(jax.random.fold_in(k_curve, 1), (), minval=8.0, maxval=20.0)
    tilt = jnp.append(tilt, tilt[-1] + jnp.deg2rad(sacral))
    lateral, axial = jnp.deg2rad(jax.random.normal(k_twist, (2, count)) * jnp.array([[2.0], [2.5]]))
    rotation = jax.vmap(poses.exp_rotation)(jnp.stack([tilt, lateral, axial], 1))
    disc = scale * jax.random.uniform(k_disc, (count,), minval=7.0, maxval=12.0)
    reach = shapes.body[:, 2] + 0.5 * disc
    axis = rotation[:, :, 2]
    below = axis[:-1] * reach[:-1, None] + axis[1:] * reach[1:, None]
    centres = jnp.concatenate([jnp.zeros((1, 3)), -jnp.cumsum(below, axis=0)])
    centres = centres - jnp.mean(centres[1:6], axis=0)
    return shapes, Pose(rotation, centres)


def bake_specimen(key: Array, levels: Sequence[str] = LEVELS[1:6]) -> Bones:
    """Draws a procedural specimen and bakes its levels into signed distance grids.

    Args:
      key: consumed.
      levels: neighbours among :data:`LEVELS`, head first; L1 to L5 without it.
    """
    first, count = LEVELS.index(levels[0]), len(levels)
    shapes, pose = jax.tree.map(lambda leaf: leaf[first : first + count], sample_spine(key))
    sacral = np.array([name == "S1" for name in levels])
    spacing = jnp.where(sacral, SACRUM_SPACING, SPACING)
    origin = jnp.where(sacral[:, None], jnp.array(SACRUM_LOW), jnp.array(LOW))
    axes = [jnp.arange(n) for n in SHAPE]
    nodes = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)

    def bake(item: tuple) -> Array:
        shape, low, apart = item
        return vertebra.signed_distance(shape, low + apart * nodes)

    values = jax.lax.map(bake, (shapes, origin, spacing))
    about = jnp.where(sacral[:, None], jnp.array([0.0, 25.0, -12.0]), jnp.array([0.0, 18.0, 0.0]))
    middle = jax.vmap(poses.apply)(pose, about)
    return Bones(
        corners=_corners(values.reshape(count, *SHAPE)).reshape(count, -1, 8),
        origin=origin,
        spacing=spacing,
        shape=jnp.tile(jnp.array(SHAPE, jnp.int32) - 1, (count, 1)),
        pose=pose,
        centre=middle,
    )


def _corners(values: Array) -> jax.Array:
    """Node values (..., X, Y, Z) -> the eight corners of every cell (..., X-1, Y-1, Z-1, 8)."""
    xyz = [(slice(None, -1), slice(1, None))] * 3
    return jnp.stack([values[..., x, y, z] for x in xyz[0] for y in xyz[1] for z in xyz[2]], -1)


def distance_to_bone(bones: Bones, points: Array) -> tuple[jax.Array, jax.Array]:
    """Distance (N,) to the nearest level by trilinear interpolation, and that level (N,) int32.

    Only the two levels whose boxes hold a point most centrally are looked up: no third one can
    be nearer to it, as a vertebra reaches past its neighbour's middle nowhere.

    Args:
      bones: the spine.
      points: (N, 3) mm, canonical frame. Outside a grid the distance is a lower bound.
    """

    def local(origin: Array, spacing: Array, shape: Array, pose: Pose) -> tuple[Array, Array]:
        grid = (poses.apply_inverse(pose, points) - origin) / spacing
        return grid, jnp.sum(jnp.square(grid / shape - 0.5), axis=1)

    grids, rank = jax.vmap(local)(bones.origin, bones.spacing, bones.shape, bones.pose)
    first = jnp.argmin(rank, axis=0)
    rest = jnp.where(jnp.arange(len(rank))[:, None] == first, jnp.inf, rank)
    second = jnp.argmin(rest, axis=0)
    row = jnp.arange(points.shape[0])
    flat = bones.corners.reshape(-1, 8)

    def look_up(level: Array) -> Array:
        grid, shape, spacing = grids[level, row], bones.shape[level], bones.spacing[level]
        inside = jnp.clip(grid, 0.0, shape - 1e-3)
        base = inside.astype(jnp.int32)
        f = inside - base
        index = (base[:, 0] * shape[:, 1] + base[:, 1]) * shape[:, 2] + base[:, 2]
        c = flat[level * bones.corners.shape[1] + index]
        c = c[:, :4] + f[:, 0:1] * (c[:, 4:] - c[:, :4])
        c = c[:, :2] + f[:, 1:2] * (c[:, 2:] - c[:, :2])
        value = c[:, 0] + f[:, 2] * (c[:, 1] - c[:, 0])
        away = jnp.sqrt(jnp.sum((grid - inside) ** 2, -1) + 1e-12) * spacing
        # Outside the box: no nearer than the box, nor than its border says.
        return jnp.where(away > 1e-3, jnp.maximum(away, value), value)

    near, other = look_up(first), look_up(second)
    return jnp.minimum(near, other), jnp.where(near <= other, first, second).astype(jnp.int32)


def extract_meshes(bones: Bones, names: Sequence[str]) -> dict[str, trimesh.Trimesh]:
    """The "CT" surfaces: each level's zero level set by marching cubes, canonical frame, mm."""
    result = {}
    for i, name in enumerate(names):
        shape = tuple(np.asarray(bones.shape[i]))
        grid = np.array(bones.corners[i, : int(np.prod(shape)), 0]).reshape(shape)
        spacing = (float(bones.spacing[i]),) * 3
        closed = np.pad(grid, 1, constant_values=1.0)  # the last node of each axis is outside
        vertices, faces, _, _ = marching_cubes(closed, 0.0, spacing=spacing)
        vertices = vertices - spacing + np.asarray(bones.origin[i])
        vertices = vertices @ np.asarray(bones.pose.rotation[i]).T + np.asarray(
            bones.pose.translation[i]
        )
        mesh = trimesh.Trimesh(vertices, faces, process=False)
        parts = mesh.split(only_watertight=True)
        if len(parts) > 1:  # an arch that the canal cut off is bone, a stray crumb is none
            parts = [part for part in parts if part.volume > CRUMB]
            mesh = trimesh.util.concatenate(parts)
        result[name] = mesh
    return result


def bend_spine(
    key: Array, bones: Bones, *, degrees: Array | float, mm: Array | float
) -> tuple[Bones, Pose]:
    """The same spine in another posture: each level turned and shifted a little about its middle.

    Args:
      key: consumed.
      bones: L levels.
      degrees, mm: standard deviations per axis and level.

    Returns:
      the spine, and what moved each level (leading axis L), in the canonical frame.
    """
    k_turn, k_shift = jax.random.split(key)
    turn = jnp.deg2rad(degrees) * jax.random.normal(k_turn, bones.centre.shape)
    shift = mm * jax.random.normal(k_shift, bones.centre.shape)

    def move(turn: Array, shift: Array, centre: Array) -> Pose:
        return poses.about(Pose(poses.exp_rotation(turn), shift), centre)

    moves = jax.vmap(move)(turn, shift, jnp.asarray(bones.centre))
    return bones._replace(
        pose=jax.vmap(poses.compose)(moves, bones.pose),
        centre=jax.vmap(poses.apply)(moves, jnp.asarray(bones.centre)),
    ), moves


def bake_meshes(
    surfaces: Mapping[str, trimesh.Trimesh], *, nodes: int = 200_000
) -> tuple[Bones, Pose]:
    """Puts real surfaces in the anatomy's place.

    Args:
      surfaces: level name -> closed surface, mm, one common frame. At least two levels.
      nodes: grid nodes per level; they set the spacing.

    Returns:
      the bones, and the pose canonical from model.

    Raises:
      ValueError: fewer than two levels.
    """
    names = anatomical_frame.sort_levels(list(surfaces))
    if len(names) < 2:
        raise ValueError("an anatomy needs at least two levels to tell its cranial direction")
    grids = {name: _mesh_grid(surfaces[name], nodes) for name in names}
    canonical = anatomical_frame.estimate_frame(surfaces)
    stack = [grids[name] for name in names]
    cells = [np.asarray(_corners(g[0])).reshape(-1, 8) for g in stack]
    size = max(len(c) for c in cells)
    bones = Bones(
        corners=np.stack([np.pad(c, ((0, size - len(c)), (0, 0))) for c in cells]),
        origin=np.array([g[1] for g in stack], np.float32),
        spacing=np.array([g[2] for g in stack], np.float32),
        shape=np.array([g[0].shape for g in stack], np.int32) - 1,
        pose=jax.tree.map(lambda leaf: np.stack([leaf] * len(names)), canonical),
        centre=np.array(
            [poses.apply(canonical, surfaces[n].bounds.mean(0)) for n in names], np.float32
        ),
    )
    return bones, canonical


def _mesh_grid(mesh: trimesh.Trimesh, nodes: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Signed distances (X, Y, Z) on a grid around a mesh (winding number), first node, spacing."""
    low, high = mesh.bounds[0] - 4.0, mesh.bounds[1] + 4.0
    spacing = float(np.cbrt(np.prod(high - low) / nodes))
    shape = tuple(int(np.ceil((high[a] - low[a]) / spacing)) + 1 for a in range(3))
    axes = [low[a] + spacing * np.arange(shape[a]) for a in range(3)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    signed = igl.signed_distance(
        points,
        np.ascontiguousarray(mesh.vertices, np.float64),
        np.ascontiguousarray(mesh.faces, np.int64),
        sign_type=igl.SIGNED_DISTANCE_TYPE_FAST_WINDING_NUMBER,
    )[0]
    return np.asarray(signed, np.float32).reshape(shape), low, spacing
