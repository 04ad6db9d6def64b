"""Point clouds as PLY files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from e2r.formats import cloud_fields, file_checks, ply_elements
from e2r.formats.file_checks import PathLike
from e2r.formats.scenes import ScenePoints

COLORS = ("red", "green", "blue")
NORMALS = ("nx", "ny", "nz")


class PlyFile(NamedTuple):
    """The vertices of a PLY file, as they are written."""

    columns: dict[str, np.ndarray]  # one value a vertex, by the property's name in lower case
    comments: str  # in lower case


def read_cloud(path: PathLike) -> ScenePoints:
    """Reads the points, colours and, if the file has them, normals of a case's cloud.

    Args:
      path: the file; mm, colours from 0 to 255, or to 65535 in 16 bits.

    Raises:
      ValueError: the file is no cloud, is cut short, or has no such colours.
    """
    columns = read_file(path).columns
    scene = cloud_fields.to_scene(columns, path)
    red = columns.get("red", np.zeros(0, np.uint8))
    if red.dtype.kind == "f" and red.max() <= 1:
        raise ValueError(f"{path}: has colours from 0 to 1; write red, green, blue from 0 to 255")
    if scene.normals is None:
        return scene
    normals = file_checks.orient_normals(scene.normals, scene.points, path)
    return scene._replace(normals=normals)


def read_file(path: PathLike) -> PlyFile:
    """Reads the vertices of a cloud or mesh, whatever their properties are.

    Args:
      path: the file; text, or binary of either byte order.

    Raises:
      ValueError: the file is missing, no PLY, empty or cut short.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as a PLY cloud ({error}); name one") from None
    try:
        file = ply_elements.read(content, "vertex")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    tables = file.elements.get("vertex", [])
    names = tables[0].dtype.names or () if len(tables) == 1 else ()
    if not set(cloud_fields.POINTS) <= set(names):
        raise ValueError(f"{path}: the cloud is empty or has no x, y and z; write it again")
    columns = {name: tables[0][name] for name in names}
    columns = {name: column for name, column in columns.items() if column.ndim == 1}
    return PlyFile(columns, file.comments)


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
