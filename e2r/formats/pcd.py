"""Reads point clouds in PCD files (Point Cloud Library, Open3D): ascii or binary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from e2r.formats import file_checks
from e2r.formats.file_checks import PathLike
from e2r.formats.scenes import ScenePoints

MAX_HEADER_BYTES = 10_000
NORMALS = ("normal_x", "normal_y", "normal_z")


class _Header(NamedTuple):
    """The header of a PCD file."""

    row: np.dtype  # type of one point
    num_points: int
    height: int  # of an organised cloud; 1 otherwise
    width: int
    encoding: str  # ascii or binary
    num_bytes: int  # of the header


def read_cloud(path: PathLike) -> tuple[ScenePoints, tuple[int, int] | None]:
    """Reads all points of a PCD file, with those that are no measurement.

    Args:
      path: the file.

    Returns:
      The points, and (height, width) of an organised cloud. Points without a colour are grey.

    Raises:
      ValueError: the file is missing, no PCD, cut short, compressed, or without x y z.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; give a PCD or PLY cloud") from None
    header = _parse_header(content, path)
    try:
        if header.encoding == "binary":
            rows = np.frombuffer(content, header.row, header.num_points, header.num_bytes)
        else:
            rows = _parse_ascii(content[header.num_bytes :], header.row)
    except ValueError:
        rows = np.zeros(0, header.row)
    if len(rows) != header.num_points:
        raise ValueError(
            f"{path}: is cut short or broken; it should hold {header.num_points} points"
        )
    names = header.row.names or ()
    points = np.stack([rows[axis] for axis in "xyz"], 1).astype(np.float64)
    normals = None
    if set(NORMALS) <= set(names):
        normals = np.stack([rows[axis] for axis in NORMALS], 1).astype(np.float64)
    grid = (header.height, header.width) if header.height > 1 else None
    return ScenePoints(points, _unpack_colors(rows), normals), grid


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
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: has a broken PCD header ({error}); save it again") from None
    encoding = (lines["DATA"] or ["nothing"])[0].lower()
    if encoding not in ("ascii", "binary"):
        raise ValueError(f"{path}: its data are {encoding}; save it again as plain binary PCD")
    return _Header(row, count, height, width, encoding, start)


def _row_type(lines: Mapping[str, list[str]]) -> np.dtype:
    """The type of one point, by FIELDS, SIZE, TYPE and COUNT."""
    names = [name.lower() for name in lines["FIELDS"]]
    counts = lines.get("COUNT", ["1"] * len(names))
    fields = []
    for i, (name, size, letter, count) in enumerate(
        zip(names, lines["SIZE"], lines["TYPE"], counts, strict=True)
    ):
        kind = {"F": "f", "U": "u", "I": "i"}[letter.upper()]
        unique = name if count == "1" and name != "_" else f"_{i}"
        fields.append((unique, f"<{kind}{size}", (int(count),) if count != "1" else ()))
    if not {"x", "y", "z"} <= {field[0] for field in fields}:
        raise ValueError("it has no x y z")
    return np.dtype(fields)


def _parse_ascii(text: bytes, row: np.dtype) -> np.ndarray:
    table = file_checks.parse_table(text.decode("ascii", "replace").splitlines())
    names = row.names or ()
    if any(row[name].shape for name in names) or table.shape[1] != len(names):
        return np.zeros(0, row)
    rows = np.zeros(len(table), row)
    for i, name in enumerate(names):
        rows[name] = table[:, i]
    return rows


def _unpack_colors(rows: np.ndarray) -> np.ndarray:
    """Colours (M, 3) from the packed field rgb or rgba; grey without it."""
    for name in ("rgb", "rgba"):
        if name in (rows.dtype.names or ()) and rows.dtype[name].itemsize == 4:
            packed = np.ascontiguousarray(rows[name]).view(np.uint32)
            return np.stack([(packed >> shift) & 255 for shift in (16, 8, 0)], 1) / 255.0
    return np.full((len(rows), 3), 0.5)
