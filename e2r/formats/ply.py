"""Point clouds as PLY files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh

from e2r.formats import file_checks
from e2r.formats.file_checks import PathLike
from e2r.formats.scenes import ScenePoints

COLORS = ("red", "green", "blue")
NORMALS = ("nx", "ny", "nz")


def read_cloud(path: PathLike) -> ScenePoints:
    """Reads the points, colours and, if the file has them, normals of a cloud.

    Args:
      path: the file; mm, colours from 0 to 255.

    Raises:
      ValueError: the file is no cloud, is cut short, or has no such colours.
    """
    try:
        loaded = trimesh.load(Path(path), process=False)
        vertex = loaded.metadata.get("_ply_raw", {}).get("vertex", {})
        data = vertex.get("data")
        points = np.asarray(getattr(loaded, "vertices", np.zeros((0, 3))), np.float64)
    except Exception as error:  # trimesh raises whatever its parsers do
        raise ValueError(
            f"{path}: cannot be read as a PLY cloud ({error}); write it again"
        ) from None
    if not isinstance(data, dict):  # a binary file comes as a structured array
        data = {name: data[name] for name in getattr(getattr(data, "dtype", None), "names", ())}
    if len(points) == 0 or len(points) != vertex.get("length", len(points)):
        raise ValueError(f"{path}: the cloud is empty or cut short; write it again")
    if not set(COLORS) <= data.keys():
        raise ValueError(f"{path}: has no red, green, blue; the cloud needs colours from 0 to 255")
    colors = np.stack([np.ravel(data[name]) for name in COLORS], 1) / 255.0
    if colors.max() <= 1 / 255 and not np.issubdtype(np.asarray(data["red"]).dtype, np.integer):
        raise ValueError(f"{path}: has colours from 0 to 1; write red, green, blue from 0 to 255")
    normals = None
    if set(NORMALS) <= data.keys():
        normals = np.stack([np.ravel(data[name]) for name in NORMALS], 1).astype(np.float64)
        normals = file_checks.orient_normals(normals, points, path)
    return ScenePoints(points, colors, normals)


def write_cloud(scene: ScenePoints, path: PathLike) -> None:
    """Writes points, colours and, if there are any, normals as a binary PLY.

    Args:
      scene: the cloud.
      path: the file.
    """
    columns = {axis: scene.points[:, i] for i, axis in enumerate("xyz")}
    if scene.normals is not None:
        columns |= {name: scene.normals[:, i] for i, name in enumerate(NORMALS)}
    fields = [(name, "<f4") for name in columns] + [(name, "u1") for name in COLORS]
    rows = np.zeros(len(scene.points), fields)
    for name, column in columns.items():
        rows[name] = column
    for i, name in enumerate(COLORS):
        rows[name] = np.round(255 * scene.colors[:, i])
    types = {"<f4": "float", "u1": "uchar"}
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(rows)}",
        *(f"property {types[kind]} {name}" for name, kind in fields),
        "end_header",
        "",
    ]
    Path(path).write_bytes("\n".join(header).encode() + rows.tobytes())
