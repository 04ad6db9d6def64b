"""A preoperative model as a :class:`~e2r.types.Surface`: built on the host, looked up in jit."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import trimesh
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from e2r.types import Array, Match, Surface

SAMPLES = 32768
"""Default samples of a whole model: a five-level spine gets one every 2 mm or so."""
CELLS = 2**19
"""Default grid cells: 2 mm edges for a five-level spine."""
MARGIN = 15.0
"""mm of grid around the model; farther queries use the nearest cell of the border."""


def build(
    meshes: Mapping[str, trimesh.Trimesh],
    *,
    seed: int,
    samples: int = SAMPLES,
    cells: int = CELLS,
) -> Surface:
    """Samples the levels' surfaces evenly by area and records the nearest sample of every cell.

    Args:
      meshes: level name -> surface, mm, all in the model frame.
      seed: fixes the samples.
      samples: number of samples S, at most 65,536.
      cells: size M of the padded grid; its spacing is chosen so that the model fits.

    Raises:
      ValueError: no mesh, or one with no area.
    """
    if not meshes:
        raise ValueError("the model has no level; give at least one mesh")
    if samples > 65536:
        raise ValueError(f"{samples} samples do not fit the grid's 16-bit indices; use <= 65536")
    rng = np.random.default_rng(seed)
    areas = np.array([mesh.area for mesh in meshes.values()])
    if not (areas > 0).all():
        name = list(meshes)[int(np.argmin(areas))]
        raise ValueError(f"model {name}: the surface has no area; export it again")
    counts = np.diff(np.round(np.concatenate([[0], np.cumsum(areas)]) / areas.sum() * samples))
    points, normals, levels = [], [], []
    for index, (mesh, count) in enumerate(zip(meshes.values(), counts.astype(int), strict=True)):
        p, n = _sample(mesh, int(count), rng)
        points.append(p)
        normals.append(n)
        levels.append(np.full(len(p), index, np.int32))
    xyz = np.concatenate(points)
    origin, spacing, shape = _grid(xyz.min(0) - MARGIN, xyz.max(0) + MARGIN, cells)
    nearest = _nearest_samples(xyz, origin, spacing, shape)
    flat = np.zeros(cells, np.uint16)
    flat[: nearest.size] = nearest.ravel()
    return Surface(
        points=xyz.astype(np.float32),
        normals=np.concatenate(normals).astype(np.float32),
        levels=np.concatenate(levels),
        cells=flat,
        origin=origin.astype(np.float32),
        spacing=np.float32(spacing),
        shape=shape.astype(np.int32),
        reach=np.float32(1.5 * np.sqrt(areas.sum() / samples)),
    )


def _sample(
    mesh: trimesh.Trimesh, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """``count`` points spread by area (stratified), with smoothly interpolated normals."""
    cumulative = np.cumsum(mesh.area_faces)
    picks = (np.arange(count) + rng.random(count)) / count * cumulative[-1]
    faces = np.minimum(np.searchsorted(cumulative, picks), len(cumulative) - 1)
    u, v = rng.random((2, count))
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    bary = np.stack([1 - u - v, u, v], -1)[..., None]
    corners = mesh.faces[faces]
    points = (mesh.vertices[corners] * bary).sum(1)
    normals = (mesh.vertex_normals[corners] * bary).sum(1)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    flat = mesh.face_normals[faces]
    return points, np.where(length > 0.2, normals / np.maximum(length, 1e-9), flat)


def _grid(low: np.ndarray, high: np.ndarray, cells: int) -> tuple[np.ndarray, float, np.ndarray]:
    """The finest grid of at most ``cells`` cells over a box: origin, spacing, shape."""
    extent = high - low
    spacing = float(np.cbrt(np.prod(extent) / cells))
    while True:
        shape = np.ceil(extent / spacing).astype(np.int64) + 1
        if np.prod(shape) <= cells:
            return low, spacing, shape
        spacing *= 1.01


def _nearest_samples(
    points: np.ndarray, origin: np.ndarray, spacing: float, shape: np.ndarray
) -> np.ndarray:
    """Index of the sample nearest to each cell's centre.

    Exact by a k-d tree within three cells of the surface. Farther out, where a sample more or
    less cannot matter, the sample of the nearest occupied cell, by a distance transform.
    """
    home = np.round((points - origin) / spacing).astype(np.int64)
    sample = np.full(shape, -1, np.int64)
    sample[tuple(home.T)] = np.arange(len(points))
    far, index = distance_transform_edt(sample < 0, return_indices=True)
    nearest = sample[tuple(index)]
    near = np.argwhere(far <= 3.0)
    _, exact = cKDTree(points).query(origin + spacing * near, workers=-1)
    nearest[tuple(near.T)] = exact
    return nearest


def nearest(surface: Surface, queries: Array) -> Match:
    """The stored sample nearest to each query's cell: constant time, no gradient to the query.

    Args:
      surface: the model.
      queries: (N, 3) mm, model frame.
    """
    index = jax.lax.stop_gradient((queries - surface.origin) / surface.spacing)
    index = jnp.clip(jnp.round(index).astype(jnp.int32), 0, surface.shape - 1)
    flat = (index[:, 0] * surface.shape[1] + index[:, 1]) * surface.shape[2] + index[:, 2]
    sample = jnp.asarray(surface.cells)[flat].astype(jnp.int32)
    rows = jnp.concatenate([surface.points, surface.normals], 1)[sample]
    return Match(rows[:, :3], rows[:, 3:])


def project(surface: Surface, queries: Array) -> Match:
    """The closest point on the tangent disc of the nearest sample; differentiable in the query.

    The disc's radius is the surface's ``reach``, so that neighbouring discs overlap and a far
    query still ends near its sample.
    """
    match = nearest(surface, queries)
    offset = queries - match.points
    height = jnp.sum(offset * match.normals, axis=1, keepdims=True)
    slide = offset - height * match.normals
    square = jnp.sum(slide * slide, axis=1, keepdims=True)
    limit = surface.reach**2
    outside = square > limit
    shrink = jnp.where(outside, surface.reach / jnp.sqrt(jnp.where(outside, square, 1.0)), 1.0)
    return Match(match.points + shrink * slide, match.normals)
