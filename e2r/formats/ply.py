"""Point clouds as PLY files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trimesh

from e2r.formats import cloud_fields, file_checks
from e2r.formats.file_checks import PathLike
from e2r.formats.scenes import ScenePoints

COLORS = ("red", "green", "blue")
NORMALS = ("nx", "ny", "nz")
MAX_HEADER_BYTES = 100_000
SIZES = {
    **dict.fromkeys((b"char", b"uchar", b"int8", b"uint8"), 1),
    **dict.fromkeys((b"short", b"ushort", b"int16", b"uint16"), 2),
    **dict.fromkeys((b"int", b"uint", b"float", b"int32", b"uint32", b"float32"), 4),
    **dict.fromkeys((b"double", b"float64"), 8),
}
"""Bytes of a number, by its type."""


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
    lines, body = _split(content)
    try:
        # It is given no folder, so it looks for no texture.
        file = io.BytesIO(b"\n".join(_vertices_alone(lines, body)))
        loaded = trimesh.load(file, file_type="ply", process=False)
        vertex = loaded.metadata.get("_ply_raw", {}).get("vertex", {})
        data = vertex.get("data")
    except Exception as error:  # trimesh raises whatever its parsers do
        reason = file_checks.one_line(error)
        raise ValueError(
            f"{path}: cannot be read as a PLY cloud ({reason}); write it again"
        ) from None
    if not isinstance(data, dict):  # a binary file comes as a structured array
        data = {name: data[name] for name in getattr(getattr(data, "dtype", None), "names", ())}
    columns = {name: np.ravel(column) for name, column in data.items() if np.ndim(column) < 3}
    count = int(vertex.get("length", -1))
    columns = {name: column for name, column in columns.items() if len(column) == count}
    if count <= 0 or not set(cloud_fields.POINTS) <= columns.keys():
        raise ValueError(f"{path}: the cloud is empty or cut short; write it again")
    comments = (line.decode("latin-1") for line in lines if line.startswith(b"comment"))
    return PlyFile(columns, "\n".join(comments))


def _split(content: bytes) -> tuple[list[bytes], bytes]:
    """The lines of the header in lower case, for trimesh knows x and not X; and the rest."""
    end = content.find(b"end_header", 0, MAX_HEADER_BYTES)
    start = content.find(b"\n", end) + 1 if end >= 0 else 0
    return [line.strip().lower() for line in content[:start].splitlines()], content[start:]


def _vertices_alone(lines: list[bytes], body: bytes) -> list[bytes]:
    """Header and body without the faces, where the vertices come first and hold no lists.

    trimesh reads no binary faces of different sizes.
    """
    elements = [i for i, line in enumerate(lines) if line.startswith(b"element")]
    if not elements or lines[elements[0]].split()[1:2] != [b"vertex"] or len(elements) == 1:
        return [*lines, body]
    first, second = elements[:2]
    count = int(lines[first].split()[2])
    properties = [line.split()[1] for line in lines[first:second] if line.startswith(b"property")]
    if not set(properties) <= SIZES.keys():
        return [*lines, body]
    if any(line.startswith(b"format ascii") for line in lines):
        rows = body.split(b"\n", count)[:count]
    else:
        rows = [body[: count * sum(SIZES[kind] for kind in properties)]]
    return [*lines[:second], b"end_header", *rows]


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
