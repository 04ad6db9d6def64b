"""Reads point clouds in PCD files (Point Cloud Library, Open3D): text, binary or compressed."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from e2r.formats import cloud_fields, file_checks, notices
from e2r.formats.file_checks import PathLike
from e2r.formats.scenes import ScenePoints

MAX_HEADER_BYTES = 10_000
ENCODINGS = ("ascii", "binary", "binary_compressed")
VIEWPOINT = (0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
"""Of a file whose points are in the sensor's frame: tx ty tz, and a quaternion w x y z."""


class _Header(NamedTuple):
    """The header of a PCD file."""

    row: np.dtype  # type of one point
    num_points: int
    height: int  # of an organised cloud; 1 otherwise
    width: int
    viewpoint: tuple[float, ...]  # as VIEWPOINT
    encoding: str  # one of ENCODINGS
    num_bytes: int  # of the header


def read_cloud(path: PathLike) -> tuple[ScenePoints, tuple[int, int] | None]:
    """Reads all points of a PCD file, with those that are no measurement.

    A file with a VIEWPOINT has its points in a world frame; they are moved to the sensor's frame.

    Args:
      path: the file.

    Returns:
      The points, NaN where unmeasured if they were moved, and (height, width) of an organised
      cloud.

    Raises:
      ValueError: the file is missing, no PCD, cut short, or without x y z or colours.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError:
        raise ValueError(f"{path}: no such file; give a PCD or PLY cloud") from None
    header = _parse_header(content, path)
    rows = _parse_rows(content[header.num_bytes :], header, path)
    columns = {name: rows[name] for name in rows.dtype.names or () if not rows.dtype[name].shape}
    scene = cloud_fields.to_scene(columns | _unpack_colors(rows, path), path)
    grid = (header.height, header.width) if header.height > 1 else None
    return _move_to_sensor(scene, header.viewpoint, path), grid


def _move_to_sensor(
    scene: ScenePoints, viewpoint: tuple[float, ...], path: PathLike
) -> ScenePoints:
    if np.allclose(viewpoint, VIEWPOINT, atol=1e-6):
        return scene
    place, quaternion = np.array(viewpoint[:3]), np.array(viewpoint[3:])
    used = cloud_fields.measured(scene.points)
    length = float(np.linalg.norm(quaternion))
    if not np.isfinite(viewpoint).all() or not abs(length - 1.0) < 1e-2:
        raise ValueError(
            f"{path}: VIEWPOINT has no unit quaternion; write 0 0 0 1 0 0 0 if the points are in "
            "the camera's frame"
        )
    turn = Rotation.from_quat(quaternion, scalar_first=True)
    points = np.full(scene.points.shape, np.nan)
    points[used] = turn.apply(scene.points[used] - place, inverse=True)
    if used.any() and float(np.median(points[used, 2])) <= 0:
        raise ValueError(
            f"{path}: lies behind the camera that VIEWPOINT describes; write 0 0 0 1 0 0 0 there "
            "if the points are already in the camera's frame"
        )
    normals = scene.normals
    if normals is not None:
        normals = turn.apply(np.nan_to_num(normals), inverse=True)
    notices.say(path, "its points were moved from the world to the sensor's frame, by VIEWPOINT")
    return scene._replace(points=points, normals=normals)


# The file -----------------------------------------------------------------------------------------


def _parse_header(content: bytes, path: Path) -> _Header:
    lines: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in lines:
        end = content.find(b"\n", start)
        if end < 0 or start > MAX_HEADER_BYTES:
            raise ValueError(f"{path}: has no PCD header; save it again as binary PCD")
        words = content[start:end].decode("ascii", "replace").split()
        start = end + 1
        if words and not words[0].startswith("#"):
            lines[words[0].upper()] = words[1:]
    try:
        row = _row_type(lines)
        width, height = int(lines["WIDTH"][0]), int(lines["HEIGHT"][0])
        count = int(lines.get("POINTS", [str(width * height)])[0])
        if not 0 < count == width * height < 2**28:
            raise ValueError("WIDTH, HEIGHT and POINTS do not agree")
        viewpoint = tuple(float(word) for word in lines.get("VIEWPOINT", VIEWPOINT))
        if len(viewpoint) != len(VIEWPOINT):
            raise ValueError("VIEWPOINT has not seven numbers")
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: has a broken PCD header ({error}); save it again") from None
    encoding = (lines["DATA"] or ["nothing"])[0].lower()
    if encoding not in ENCODINGS:
        raise ValueError(f"{path}: its data are {encoding}; save it again as plain binary PCD")
    return _Header(row, count, height, width, viewpoint, encoding, start)


def _row_type(lines: Mapping[str, list[str]]) -> np.dtype:
    """The type of one point, by FIELDS, SIZE, TYPE and COUNT."""
    names = [name.lower() for name in lines["FIELDS"]]
    counts = lines.get("COUNT", ["1"] * len(names))
    fields = []
    for i, (name, size, letter, count) in enumerate(
        zip(names, lines["SIZE"], lines["TYPE"], counts, strict=True)
    ):
        kind = {"F": "f", "U": "u", "I": "i"}[letter.upper()]
        unique = name if name != "_" else f"_{i}"
        fields.append((unique, f"<{kind}{size}", (int(count),) if count != "1" else ()))
    if not {"x", "y", "z"} <= {field[0] for field in fields}:
        raise ValueError("it has no x y z")
    return np.dtype(fields)


def _parse_rows(body: bytes, header: _Header, path: Path) -> np.ndarray:
    """The points, one a row."""
    lzf = _import_lzf(path) if header.encoding == "binary_compressed" else None
    if header.encoding == "binary" and len(body) > header.row.itemsize * header.num_points:
        try:
            file_checks.check_binary(body)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    try:
        if header.encoding == "binary":
            rows = np.frombuffer(body, header.row, header.num_points)
        elif header.encoding == "binary_compressed":
            rows = _decompress(body, header, lzf)
        else:
            rows = _parse_ascii(body, header.row)
    except (ValueError, struct.error):
        rows = np.zeros(0, header.row)
    if len(rows) != header.num_points:
        remedy = (
            "" if header.encoding != "binary_compressed" else "; save it again as plain binary PCD"
        )
        raise ValueError(
            f"{path}: is cut short or broken; it should hold {header.num_points} points{remedy}"
        )
    return rows


def _import_lzf(path: Path) -> Any:
    try:
        import lzf  # type: ignore # noqa: PLC0415 - for these files alone
    except ImportError:
        raise ValueError(
            f"{path}: is compressed; install python-neo-lzf, or save it as plain binary PCD"
        ) from None
    return lzf


def _decompress(body: bytes, header: _Header, lzf: Any) -> np.ndarray:
    """Rows from LZF: two sizes, then all values of the first field, of the second, and so on."""
    packed, size = struct.unpack("<II", body[:8])
    count = header.num_points
    whole = size == count * header.row.itemsize and len(body) >= 8 + packed
    # LZF packs at most 264 bytes into 3: a larger size is a lie, and memory would be taken for it.
    plain = lzf.decompress(body[8 : 8 + packed], size) if whole and size <= 88 * packed else None
    if plain is None or len(plain) != size:
        return np.zeros(0, header.row)
    rows, start = np.zeros(count, header.row), 0
    for name in header.row.names or ():
        kind = header.row[name]
        rows[name] = np.ndarray((count, *kind.shape), kind.base, plain, start)
        start += count * kind.itemsize
    return rows


def _parse_ascii(text: bytes, row: np.dtype) -> np.ndarray:
    table = file_checks.parse_table(text.decode("ascii", "replace").splitlines())
    rows, column = np.zeros(len(table), row), 0
    for name in row.names or ():
        width = int(np.prod(row[name].shape, dtype=int))
        values = table[:, column : column + width].reshape(len(table), *row[name].shape)
        rows[name] = values if row[name].base.kind == "f" else np.nan_to_num(values)
        column += width
    return rows if column == table.shape[1] else rows[:0]


def _unpack_colors(rows: np.ndarray, path: Path) -> dict[str, np.ndarray]:
    """Red, green and blue from the field rgb or rgba, packed or of three bytes, if there is one."""
    for name in ("rgb", "rgba"):
        if name not in (rows.dtype.names or ()):
            continue
        field, kind = rows[name], rows.dtype[name]
        if kind.base == np.uint8 and kind.shape in ((3,), (4,)):
            return {color: field[:, i] for i, color in enumerate(("red", "green", "blue"))}
        if kind.itemsize == 4 and not kind.shape:
            packed = _bits(np.ascontiguousarray(field), rows, path)
            channels = [((packed >> shift) & 255).astype(np.uint8) for shift in (16, 8, 0)]
            return dict(zip(("red", "green", "blue"), channels, strict=True))
    return {}


def _bits(field: np.ndarray, rows: np.ndarray, path: Path) -> np.ndarray:
    """The bits of packed colours. PCL keeps them in a float; some programs write their number."""
    bits = field.view(np.uint32)
    if field.dtype.kind != "f":
        return bits
    used = cloud_fields.measured(np.stack([rows[axis] for axis in "xyz"], 1).astype(np.float64))
    values = field[used]
    if (bits[used] == np.float32(np.nan).view(np.uint32)).any():
        raise ValueError(f"{path}: has colours that are nan as text; save it again as binary PCD")
    numbers = np.isfinite(values).all() and (values >= 0).all() and (values % 1 == 0).all()
    if numbers and values.max(initial=0) >= 1:  # bits of a colour are far below 1, NaN or negative
        return np.where(used, np.nan_to_num(field), 0).astype(np.uint32)
    return bits
