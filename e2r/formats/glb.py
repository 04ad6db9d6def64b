"""Surfaces in binary glTF files. glTF is in metres; its axes are kept as they are."""

from __future__ import annotations

import io

import numpy as np
import trimesh

MM_PER_METRE = 1000.0


def read_levels(content: bytes) -> dict[str, trimesh.Trimesh]:
    """The surfaces of a file by the names of their nodes, mm.

    Args:
      content: of a ``.glb``.

    Raises:
      ValueError: the file is broken, or holds no surface.
    """
    try:
        scene = trimesh.load_scene(io.BytesIO(content), file_type="glb", process=False)
        found = {}
        for node in scene.graph.nodes_geometry:
            matrix, geometry = scene.graph[node]
            mesh = scene.geometry[geometry].copy()
            if isinstance(mesh, trimesh.Trimesh):
                mesh.apply_transform(matrix)
                found[str(node)] = trimesh.Trimesh(
                    np.asarray(mesh.vertices) * MM_PER_METRE, mesh.faces, process=False
                )
    except Exception as error:  # trimesh raises whatever its parsers do
        raise ValueError(f"cannot be read as binary glTF ({error}); export it again") from None
    if not found:
        raise ValueError("holds no surface; export the levels' surfaces as triangles")
    return found


def read_whole(content: bytes) -> trimesh.Trimesh:
    """All surfaces of a file as one, mm.

    Args:
      content: of a ``.glb``.

    Raises:
      ValueError: the file is broken, or holds no surface.
    """
    whole = trimesh.util.concatenate(list(read_levels(content).values()))
    return trimesh.Trimesh(whole.vertices, whole.faces, process=False)
