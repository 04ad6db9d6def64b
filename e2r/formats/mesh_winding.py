"""The winding of a surface's triangles: repaired, so that all normals point out of the bone."""

from __future__ import annotations

import igl
import numpy as np
import trimesh

from e2r.geometry import surface_topology
from e2r.geometry.surface_topology import Topology
from e2r.types import Bool, Float, Int

WITNESSES = 9
"""So many vertices of a piece tell whether it lies inside another."""
EMPTY = 1e-6
"""Share of its box below which a surface encloses nothing."""


def orient(mesh: trimesh.Trimesh) -> tuple[str, ...]:
    """Turns triangles so that their normals point outwards, in place. The vertices stay.

    A surface that is closed, wound alike and outward is left as it is. Triangles that are there
    more than once are left out, and so is one side of a surface of two sides. Each closed piece
    is turned outward by its volume; a piece inside another bounds a cavity, and is turned inward.
    Pieces with holes are turned together.

    Args:
      mesh: mm.

    Returns:
      What was repaired, and what could not be, as sentences.
    """
    notes = list[str]()
    topology = surface_topology.find_topology(mesh)
    copies = _find_copies(topology)
    if len(copies):
        notes.append(f"has {len(copies)} triangles more than once; they were left out")
        kept = np.ones(len(mesh.faces), bool)
        kept[topology.place[copies]] = False
        mesh.update_faces(kept)
        topology = surface_topology.find_topology(mesh)
    if (topology.balance[topology.used == 2] != 0).any():
        topology, note = _wind_alike(mesh, topology)
        notes.append(note)
    piece, closed = surface_topology.find_pieces(topology)
    if not closed.all():
        rims = len(np.unique(surface_topology.find_rims(topology)[1]))
        notes.append(f"is not closed, it has {rims} open rims; its inside is a guess there")
    if len(closed) > 1 and closed.any():
        inside_out = _find_inside_out(mesh, topology.place, piece=piece, closed=closed)
        if inside_out.any() and not inside_out.all():
            count = inside_out.sum()
            notes.append(f"has {count} of {len(closed)} pieces inside out; they were turned")
        _flip(mesh, topology.place[inside_out[piece]])
        return tuple(notes)
    volume = _volume(np.asarray(mesh.triangles) - mesh.vertices.mean(0))
    if volume < 0:  # a mirrored export
        mesh.invert()
    if closed.all() and abs(volume) < EMPTY * float(np.prod(mesh.extents)):
        notes.append("encloses nothing, as if each triangle were there both ways; export one side")
    return tuple(notes)


def _find_copies(topology: Topology) -> Int[np.ndarray, "n"]:
    """The triangles to leave out: those wound as an earlier one, or one side of two.

    A triangle that is there both ways is left out only if all are, and no triangle where that
    would tear a hole: pieces that touch share some.
    """
    if not (topology.used > 2).any():
        return np.zeros(0, np.int64)
    faces = topology.faces
    first = faces.argmin(axis=1)[:, None]
    rolled = np.take_along_axis(faces, (first + np.arange(3)) % 3, axis=1)
    kept = np.unique(rolled, axis=0, return_index=True)[1]
    _, one, times = np.unique(
        np.sort(faces[kept], axis=1), axis=0, return_index=True, return_counts=True
    )
    if (times == 2).all():
        kept = kept[one]
    left = surface_topology.turn(faces[kept], topology.place[kept])
    if (left.used % 2).sum() > (topology.used % 2).sum():
        return np.zeros(0, np.int64)  # the wall between two pieces, one of them inside out
    return np.setdiff1d(np.arange(len(faces)), kept)


def _flip(mesh: trimesh.Trimesh, which: Int[np.ndarray, "n"]) -> None:
    if len(which):
        faces = np.array(mesh.faces)
        faces[which] = faces[which, ::-1]
        mesh.faces = faces


def _volume(triangles: Float[np.ndarray, "n 3 3"]) -> float:
    """Six times the signed volume between the triangles and the origin."""
    return float(np.linalg.det(triangles).sum())


def _wind_alike(mesh: trimesh.Trimesh, topology: Topology) -> tuple[Topology, str]:
    """Turns triangles that differ from their neighbours; each patch's majority stays."""
    wound, patch = igl.bfs_orient(np.ascontiguousarray(topology.faces))
    turned = (np.asarray(wound) != topology.faces).any(axis=1)
    share = np.bincount(patch, turned) / np.bincount(patch)
    turned ^= share[patch] > 0.5
    _flip(mesh, topology.place[turned])
    faces = np.where(turned[:, None], topology.faces[:, ::-1], topology.faces)
    topology = surface_topology.turn(faces, topology.place)
    if (topology.balance[topology.used == 2] != 0).any():
        return topology, "has one side only, as a Moebius strip; its normals are a guess"
    count = int(turned.sum())
    return topology, f"has {count} of {len(turned)} triangles wound the other way; they were turned"


def _find_inside_out(
    mesh: trimesh.Trimesh,
    place: Int[np.ndarray, "f"],
    *,
    piece: Int[np.ndarray, "f"],
    closed: Bool[np.ndarray, "p"],
) -> Bool[np.ndarray, "p"]:
    """The pieces to turn."""
    vertices = np.ascontiguousarray(mesh.vertices, np.float64)
    order = np.argsort(piece, kind="stable")
    ends = np.searchsorted(piece[order], np.arange(1, len(closed)))
    parts = [np.asarray(mesh.faces)[place[some]] for some in np.split(order, ends)]
    low = np.array([vertices[part].min(axis=(0, 1)) for part in parts])
    high = np.array([vertices[part].max(axis=(0, 1)) for part in parts])
    inside = np.zeros(len(parts), int)  # so many pieces lie around each
    for i, part in enumerate(parts):
        within = np.flatnonzero(((low > low[i]) & (high < high[i])).all(axis=1) & closed)
        if not len(within):
            continue
        each = [parts[j][:: max(1, len(parts[j]) // WITNESSES), 0][:WITNESSES] for j in within]
        winding = igl.fast_winding_number(
            vertices, np.ascontiguousarray(part, np.int64), vertices[np.concatenate(each)]
        )
        starts = np.cumsum([0, *map(len, each)])[:-1]
        inside[within] += np.minimum.reduceat(np.abs(winding), starts) > 0.5
    volumes = np.array([_volume(vertices[part] - vertices[part].mean((0, 1))) for part in parts])
    turned = closed & ((volumes < 0) ^ (inside % 2 == 1)) & (volumes != 0)
    if not closed.all():
        torn = np.concatenate([parts[i] for i in np.flatnonzero(~closed)])
        turned[~closed] = _volume(vertices[torn] - vertices.mean(0)) < 0
    return turned
