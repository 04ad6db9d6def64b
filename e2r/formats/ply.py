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
    header, body = _split(content)
    # trimesh knows x, not X. It is given no folder, so it looks for no texture.
    header = b"\n".join(
        line if line.lower().startswith((b"comment", b"obj_info")) else line.lower()
        for line in header.split(b"\n")
    )
    try:
        loaded = trimesh.load(io.BytesIO(header + body), file_type="ply", process=False)
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
    lines = header.decode("latin-1").lower().splitlines()
    return PlyFile(columns, "\n".join(line for line in lines if line.startswith("comment")))


def _split(content: bytes) -> tuple[bytes, bytes]:
    """The header, with its last line, and the rest."""
    end = content.find(b"end_header", 0, MAX_HEADER_BYTES)
    line = content.find(b"\n", end) + 1 if end >= 0 else 0
    return content[:line], content[line:]


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
