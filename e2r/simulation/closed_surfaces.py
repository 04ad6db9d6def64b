"""Holes of real surfaces are closed, since a point's side of an open surface cannot be told."""

from __future__ import annotations

import numpy as np
import trimesh

from e2r.formats import notices
from e2r.geometry import surface_topology

MAX_CAP_SHARE = 0.4
"""Share of caps in a closed surface's area above which it is a sheet, not a bone."""


def close_surface(mesh: trimesh.Trimesh, name: str) -> trimesh.Trimesh:
    """Closes each hole of a surface by a fan of triangles around its rim's middle.

    Args:
      mesh: mm. One without holes is returned as it is.
      name: of the level, for the messages.

    Returns:
      The surface, with the caps' middles and triangles at its end.

    Raises:
      ValueError: the holes are so large that the surface bounds no bone, or it has one side only.
    """
    topology = surface_topology.find_topology(mesh)
    if not topology.balance.any():
        if not _encloses(mesh):
            raise ValueError(f"{name}: encloses no bone; export its outer side, once")
        return mesh
    rows, rim = surface_topology.find_rims(topology)
    old = np.asarray(mesh.faces)[topology.place]
    start, end = old[rows[:, 0], rows[:, 1]], old[rows[:, 0], (rows[:, 1] + 1) % 3]
    vertices = np.asarray(mesh.vertices)
    middle = 0.5 * (vertices[start] + vertices[end])
    weight = np.linalg.norm(vertices[start] - vertices[end], axis=1) + 1e-9
    total = np.bincount(rim, weight)
    apex = np.stack([np.bincount(rim, weight * middle[:, a]) / total for a in range(3)], 1)
    caps = np.stack([end, start, len(vertices) + rim], axis=1)
    closed = trimesh.Trimesh(
        np.concatenate([vertices, apex]), np.concatenate([mesh.faces, caps]), process=False
    )
    share = float(closed.area_faces[len(mesh.faces) :].sum() / closed.area)
    if share > MAX_CAP_SHARE:
        raise ValueError(
            f"{name}: is an open sheet, its holes are {share:.0%} of its surface; close it, "
            "or export the whole bone"
        )
    if (topology.balance[topology.used == 2] != 0).any() or not _encloses(closed):
        raise ValueError(f"{name}: bounds no bone, even with its holes closed; export it again")
    notices.say(
        name, f"has {len(apex)} holes, {share:.1%} of its surface; they were closed by flat caps"
    )
    return closed


def winds_once(mesh: trimesh.Trimesh) -> bool:
    """Whether a surface is one closed piece, without triangles that are there twice.

    Args:
      mesh: mm.
    """
    topology = surface_topology.find_topology(mesh)
    _, closed = surface_topology.find_pieces(topology)
    return bool(len(closed) == 1 and closed[0] and (topology.used == 2).all())


def _encloses(mesh: trimesh.Trimesh) -> bool:
    """Whether a closed surface has a volume, outwards."""
    corners = np.asarray(mesh.triangles) - np.mean(mesh.bounds, axis=0)
    return bool(np.linalg.det(corners).sum() > 1e-6 * np.prod(mesh.extents))
