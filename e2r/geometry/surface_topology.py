"""How the triangles of a surface hang together: shared edges, pieces, rims of holes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import trimesh
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from e2r.types import Bool, Int

WELD_DIGITS = 4
"""Vertices that agree to so many digits of a mm are one."""


class Topology(NamedTuple):
    """The triangles of a surface without those that weld to a line, and their edges."""

    faces: Int[np.ndarray, "f 3"]  # numbers that vertices at one place share
    place: Int[np.ndarray, "f"]  # of each in the surface's triangles
    edge: Int[np.ndarray, "f 3"]  # number of the edge after each corner
    sign: Int[np.ndarray, "f 3"]  # 1 from the smaller vertex to the larger, else -1
    used: Int[np.ndarray, "e"]  # triangles at each edge
    balance: Int[np.ndarray, "e"]  # sum of the signs; 0 where the surface is closed


def find_topology(mesh: trimesh.Trimesh) -> Topology:
    """The topology of a surface. Vertices at one place count as one, where that is needed.

    Args:
      mesh: mm.
    """
    topology = _edges_of(np.asarray(mesh.faces))
    if not topology.balance.any():
        return topology
    _, same = trimesh.grouping.unique_rows(mesh.vertices - mesh.vertices.min(0), digits=WELD_DIGITS)
    return _edges_of(np.asarray(same)[mesh.faces])


def _edges_of(faces: Int[np.ndarray, "f 3"]) -> Topology:
    place = np.flatnonzero((faces != faces[:, [1, 2, 0]]).all(axis=1))
    return turn(faces[place].astype(np.int64), place)


def turn(faces: Int[np.ndarray, "f 3"], place: Int[np.ndarray, "f"]) -> Topology:
    """The topology of welded triangles.

    Args:
      faces: numbers of welded vertices.
      place: of each in the surface's triangles.
    """
    after = faces[:, [1, 2, 0]]
    low, high = np.minimum(faces, after), np.maximum(faces, after)
    key = low * (int(high.max(initial=0)) + 1) + high
    _, edge = np.unique(key, return_inverse=True)
    sign = np.where(faces < after, 1, -1)
    used = np.bincount(edge.reshape(-1))
    balance = np.bincount(edge.reshape(-1), sign.reshape(-1), len(used)).astype(np.int64)
    return Topology(faces, place, edge.reshape(faces.shape), sign, used, balance)


def find_pieces(topology: Topology) -> tuple[Int[np.ndarray, "f"], Bool[np.ndarray, "p"]]:
    """The connected piece of each triangle, and whether each piece is closed.

    Pieces touch at edges of four or more triangles. They are one where that edge is open else.

    Args:
      topology: of the surface.
    """
    edge, sign = topology.edge.reshape(-1), topology.sign.reshape(-1)
    face = np.repeat(np.arange(len(topology.faces)), 3)
    count, piece = _components(edge, face, topology.used[edge] == 2)
    many = topology.used[edge] > 2
    if many.any():
        key = piece[face[many]] * len(topology.used) + edge[many]
        keys, where = np.unique(key, return_inverse=True)
        torn = keys[np.bincount(where.reshape(-1), sign[many]) != 0] % len(topology.used)
        linked = (topology.used[edge] == 2) | np.isin(edge, torn)
        count, piece = _components(edge, face, linked)
    closed = np.ones(count, bool)
    closed[piece[face[topology.balance[edge] != 0]]] = False
    return piece, closed


def _components(
    edge: Int[np.ndarray, "n"], face: Int[np.ndarray, "n"], linked: Bool[np.ndarray, "n"]
) -> tuple[int, Int[np.ndarray, "f"]]:
    """The pieces of triangles that these edges link."""
    edge, own = edge[linked], face[linked]
    order = np.argsort(edge, kind="stable")
    edge, own = edge[order], own[order]
    next_to = np.flatnonzero(edge[1:] == edge[:-1])
    size = len(face) // 3
    graph = coo_array((np.ones(len(next_to)), (own[next_to], own[next_to + 1])), (size, size))
    count, piece = connected_components(graph, directed=False)
    return int(count), piece.astype(np.int64)


def find_rims(topology: Topology) -> tuple[Int[np.ndarray, "r 2"], Int[np.ndarray, "r"]]:
    """The open edges as (face, corner), and the rim that each belongs to.

    Args:
      topology: of the surface.
    """
    surplus = np.sign(topology.balance)[topology.edge] == topology.sign
    face, corner = np.nonzero(surplus)
    order = np.lexsort((corner, face, topology.edge[face, corner]))
    edge = topology.edge[face, corner][order]
    first = np.searchsorted(edge, edge)
    kept = order[np.arange(len(edge)) - first < np.abs(topology.balance[edge])]
    rows = np.stack([face[kept], corner[kept]], axis=1)
    ends = topology.faces[rows[:, :1], np.stack([rows[:, 1], (rows[:, 1] + 1) % 3], 1)]
    names, ends = np.unique(ends, return_inverse=True)
    ends = ends.reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), (len(names), len(names)))
    rim = connected_components(graph, directed=False)[1]
    return rows, rim[ends[:, 0]].astype(np.int64)
