"""A spine as one signed distance grid a level: baked from procedural shapes or from surfaces.

The canonical frame is that of :mod:`e2r.simulation.spine`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import igl
import jax
import jax.numpy as jnp
import numpy as np
import trimesh

from e2r.geometry import anatomical_frame, poses
from e2r.simulation import closed_surfaces
from e2r.simulation.spine import LEVELS, sample_spine
from e2r.simulation.vertebra_distance import signed_distance
from e2r.types import Array, Float, Int, Pose, PRNGKey, ScalarLike

SHAPE = (69, 60, 49)
"""Nodes of a procedural level's grid along each axis."""
SPACING, SACRUM_SPACING = 1.75, 2.5
"""mm between nodes, of a vertebra and of the sacrum."""
ORIGIN, SACRUM_ORIGIN = (-59.5, -27.0, -45.0), (-86.0, -22.0, -100.0)
"""mm: first node in the level's own frame, of a vertebra and of the sacrum."""
CENTRE, SACRUM_CENTRE = (0.0, 18.0, 0.0), (0.0, 25.0, -12.0)
"""mm: middle of the bone in the level's own frame, of a vertebra and of the sacrum."""
MARGIN = 4.0
"""mm around a surface that its grid covers."""


class BoneGrids(NamedTuple):
    """The bones of a spine: a signed distance grid a level, flat and padded."""

    cells: Float[Array, "l m 8"]  # mm, negative inside: the values at a cell's eight corners
    origin: Float[Array, "l 3"]  # mm, first node, level frame
    spacing: Float[Array, "l"]  # mm between nodes
    shape: Int[Array, "l 3"]  # cells along each axis
    pose: Pose  # (L, ...) canonical from level
    centre: Float[Array, "l 3"]  # mm, middle of the vertebra, canonical frame


def bake_specimen(
    key: PRNGKey, levels: Sequence[str] = LEVELS[1:6], *, any_shape: bool = False
) -> BoneGrids:
    """Draws a procedural specimen and bakes its levels into signed distance grids.

    Args:
      key: consumed.
      levels: neighbours among :data:`e2r.simulation.spine.LEVELS`, head first; L1 to L5 by default.
      any_shape: as in :func:`e2r.simulation.spine.sample_spine`.
    """
    first, count = LEVELS.index(levels[0]), len(levels)
    spine = sample_spine(key, any_shape=any_shape)
    shapes, pose = jax.tree.map(lambda leaf: leaf[first : first + count], spine)
    sacral = np.array([name == "S1" for name in levels])
    spacing = jnp.where(sacral, SACRUM_SPACING, SPACING)
    origin = jnp.where(sacral[:, None], jnp.array([SACRUM_ORIGIN]), jnp.array([ORIGIN]))
    axes = [jnp.arange(n) for n in SHAPE]
    nodes = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)

    def bake(level: tuple) -> Array:
        shape, low, spacing = level
        return signed_distance(shape, low[None] + spacing * nodes.astype(low.dtype))

    values = jax.lax.map(bake, (shapes, origin, spacing))
    centre = jnp.where(sacral[:, None], jnp.array([SACRUM_CENTRE]), jnp.array([CENTRE]))
    return BoneGrids(
        cells=_cell_corners(values.reshape(count, *SHAPE)).reshape(count, -1, 8),
        origin=origin,
        spacing=spacing,
        shape=jnp.tile(jnp.array([SHAPE], jnp.int32) - 1, (count, 1)),
        pose=pose,
        centre=jax.vmap(poses.apply)(pose, centre),
    )


def bake_meshes(
    surfaces: Mapping[str, trimesh.Trimesh], *, nodes: int = 200_000
) -> tuple[BoneGrids, Pose]:
    """Bakes real surfaces, in place of a procedural specimen.

    Args:
      surfaces: level name -> surface, mm, one common frame. At least two levels. Holes are closed.
      nodes: grid nodes per level; they set the spacing.

    Returns:
      The bones, and the pose canonical from model.

    Raises:
      ValueError: fewer than two levels, or a surface that cannot be closed.
    """
    names = anatomical_frame.sort_levels(list(surfaces))
    if len(names) < 2:
        raise ValueError("an anatomy needs at least two levels to tell its cranial direction")
    surfaces = {name: closed_surfaces.close_surface(surfaces[name], name) for name in names}
    grids = [_mesh_grid(surfaces[name], nodes) for name in names]
    canonical = anatomical_frame.estimate_frame(surfaces)
    cells = [np.asarray(_cell_corners(values)).reshape(-1, 8) for values, _, _ in grids]
    size = max(len(level) for level in cells)
    centre = [poses.apply(canonical, surfaces[name].bounds.mean(0)) for name in names]
    bones = BoneGrids(
        cells=np.stack([np.pad(level, ((0, size - len(level)), (0, 0))) for level in cells]),
        origin=np.array([origin for _, origin, _ in grids], np.float32),
        spacing=np.array([spacing for _, _, spacing in grids], np.float32),
        shape=np.array([values.shape for values, _, _ in grids], np.int32) - 1,
        pose=jax.tree.map(lambda leaf: np.stack([leaf] * len(names)), canonical),
        centre=np.array(centre, np.float32),
    )
    return bones, canonical


def _mesh_grid(
    mesh: trimesh.Trimesh, nodes: int
) -> tuple[Float[np.ndarray, "x y z"], Float[np.ndarray, "3"], float]:
    """Signed distances on a grid around a mesh (by winding number), its first node, its spacing."""
    low, high = mesh.bounds[0] - MARGIN, mesh.bounds[1] + MARGIN
    spacing = float(np.cbrt(np.prod(high - low) / nodes))
    shape = tuple(int(np.ceil((high[a] - low[a]) / spacing)) + 1 for a in range(3))
    axes = [low[a] + spacing * np.arange(shape[a]) for a in range(3)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    vertices = np.ascontiguousarray(mesh.vertices, np.float64)
    faces = np.ascontiguousarray(mesh.faces, np.int64)
    if closed_surfaces.winds_once(mesh):
        signed = igl.signed_distance(
            points, vertices, faces, sign_type=igl.SIGNED_DISTANCE_TYPE_FAST_WINDING_NUMBER
        )[0]
    else:  # igl's distance is scaled by 1 - 2 w: threefold where two pieces overlap
        squared, _, _ = igl.point_mesh_squared_distance(points, vertices, faces)
        winding = igl.fast_winding_number(vertices, faces, points)
        signed = np.where(winding > 0.5, -1.0, 1.0) * np.sqrt(squared)
    return np.asarray(signed, np.float32).reshape(shape), low, spacing


def _cell_corners(values: Float[Array, "*l x y z"]) -> jax.Array:
    """Node values (..., X, Y, Z) -> the eight corners of each cell (..., X-1, Y-1, Z-1, 8)."""
    ends = (slice(None, -1), slice(1, None))
    return jnp.stack([values[..., x, y, z] for x in ends for y in ends for z in ends], -1)


def distance_to_bone(
    bones: BoneGrids, points: Float[Array, "n 3"]
) -> tuple[Float[jax.Array, "n"], Int[jax.Array, "n"]]:
    """Distance to the nearest level, by trilinear interpolation, and the index of that level.

    Only the two levels whose boxes hold a point most centrally are looked up. No third level can
    be nearer, since no vertebra reaches past its neighbour's middle.

    Args:
      bones: the spine.
      points: mm, canonical frame. Outside a grid the distance is a lower bound.
    """

    def grid_places(origin: Array, spacing: Array, shape: Array, pose: Pose) -> tuple[Array, Array]:
        grid = (poses.apply_inverse(pose, points) - origin[None]) / spacing
        off_centre = jnp.square(grid / shape.astype(grid.dtype)[None] - 0.5)
        return grid, jnp.sum(off_centre, axis=1)

    bones = jax.tree.map(jnp.asarray, bones)
    grids, rank = jax.vmap(grid_places)(bones.origin, bones.spacing, bones.shape, bones.pose)
    first = jnp.argmin(rank, axis=0)
    rest = jnp.where(jnp.arange(len(rank))[:, None] == first[None], jnp.inf, rank)
    second = jnp.argmin(rest, axis=0)
    row = jnp.arange(points.shape[0])
    a, b = (_interpolate(bones, level, grids[level, row]) for level in (first, second))
    return jnp.minimum(a, b), jnp.where(a <= b, first, second).astype(jnp.int32)


def _interpolate(
    bones: BoneGrids, level: Int[Array, "n"], grid: Float[Array, "n 3"]
) -> Float[Array, "n"]:
    """Distance to each point's own level, mm.

    Args:
      bones: the spine.
      level: of each point.
      grid: the points, in nodes of their level's grid.
    """
    shape, spacing = bones.shape[level], bones.spacing[level]
    inside = jnp.clip(grid, 0.0, shape.astype(grid.dtype) - 1e-3)
    base = inside.astype(jnp.int32)
    f = inside - base.astype(inside.dtype)
    index = (base[:, 0] * shape[:, 1] + base[:, 1]) * shape[:, 2] + base[:, 2]
    c = bones.cells.reshape(-1, 8)[level * bones.cells.shape[1] + index]
    c = c[:, :4] + f[:, 0:1] * (c[:, 4:] - c[:, :4])
    c = c[:, :2] + f[:, 1:2] * (c[:, 2:] - c[:, :2])
    value = c[:, 0] + f[:, 2] * (c[:, 1] - c[:, 0])
    away = jnp.sqrt(jnp.sum((grid - inside) ** 2, -1) + 1e-12) * spacing
    # Outside the box: both the way to the box and the border's value are lower bounds.
    return jnp.where(away > 1e-3, jnp.maximum(away, value), value)


def bend_spine(
    key: PRNGKey, bones: BoneGrids, *, degrees: ScalarLike, mm: ScalarLike
) -> tuple[BoneGrids, Pose]:
    """The same spine in another posture: each level moves a little about its middle.

    Args:
      key: consumed.
      bones: L levels.
      degrees: standard deviation of the turn, per axis and level.
      mm: standard deviation of the shift, per axis and level.

    Returns:
      The spine, and the motion of each level (leading axis L) in the canonical frame.
    """
    k_turn, k_shift = jax.random.split(key)
    turn = jnp.deg2rad(degrees) * jax.random.normal(k_turn, bones.centre.shape)
    shift = mm * jax.random.normal(k_shift, bones.centre.shape)

    def motion(turn: Array, shift: Array, centre: Array) -> Pose:
        return poses.about(Pose(poses.exp_rotation(turn), shift), centre)

    motions = jax.vmap(motion)(turn, shift, jnp.asarray(bones.centre))
    return bones._replace(
        pose=jax.vmap(poses.compose)(motions, bones.pose),
        centre=jax.vmap(poses.apply)(motions, jnp.asarray(bones.centre)),
    ), motions
