"""Clouds in PCD files (Point Cloud Library, Open3D): ascii or binary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from e2r.datasets import file_checks


class Scan(NamedTuple):
    """A cloud: points (M, 3) mm, colours (M, 3) in [0, 1], normals (M, 3) or None."""

    points: np.ndarray
    colors: np.ndarray
    normals: np.ndarray | None


def read(path: Path) -> tuple[Scan, tuple[int, int] | None]:
    """All points of a PCD file as they stand there, and height and width where it is organised.

    Raises:
      ValueError: not such a file, cut short, compressed, or without x y z.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; give a PCD or PLY cloud") from None
    header: dict[str, list[str]] = {}
    at = 0
    while "DATA" not in header:
        end = data.find(b"\n", at)
        if end < 0 or at > 10_000:
            raise ValueError(f"{path}: has no PCD header; save it again as binary PCD")
        words = data[at:end].decode("ascii", "replace").split()
        at = end + 1
        if words and not words[0].startswith("#"):
            header[words[0].upper()] = words[1:]
    try:
        kind = _row(header)
        width, height = int(header["WIDTH"][0]), int(header["HEIGHT"][0])
        total = int(header.get("POINTS", [str(width * height)])[0])
        if not 0 < total == width * height < 2**28:
            raise ValueError("WIDTH, HEIGHT and POINTS do not agree")
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: has a broken PCD header ({error}); save it again") from None
    how = (header["DATA"] or ["nothing"])[0].lower()
    if how not in ("ascii", "binary"):
        raise ValueError(f"{path}: its data are {how}; save it again as plain binary PCD")
    try:
        rows = np.frombuffer(data, kind, total, at) if how == "binary" else _ascii(data[at:], kind)
    except ValueError:
        rows = np.zeros(0, kind)
    if len(rows) != total:
        raise ValueError(f"{path}: is cut short or broken; it should hold {total} points")
    names = kind.names or ()
    points = np.stack([rows[a] for a in "xyz"], 1).astype(np.float64)
    colors = np.full(points.shape, 0.5)
    packed = next((n for n in ("rgb", "rgba") if n in names and kind[n].itemsize == 4), None)
    if packed:
        bits = np.ascontiguousarray(rows[packed]).view(np.uint32)
        colors = np.stack([(bits >> shift) & 255 for shift in (16, 8, 0)], 1) / 255.0
    axes = ("normal_x", "normal_y", "normal_z")
    normals = None
    if set(axes) <= set(names):
        normals = np.stack([rows[a] for a in axes], 1).astype(np.float64)
    return Scan(points, colors, normals), (height, width) if height > 1 else None


def _row(header: Mapping[str, list[str]]) -> np.dtype:
    """The type of one point, by FIELDS, SIZE, TYPE and COUNT."""
    names = [name.lower() for name in header["FIELDS"]]
    counts = header.get("COUNT", ["1"] * len(names))
    fields = []
    for i, (name, size, sort, count) in enumerate(
        zip(names, header["SIZE"], header["TYPE"], counts, strict=True)
    ):
        letter = {"F": "f", "U": "u", "I": "i"}[sort.upper()]
        plain = name if count == "1" and name != "_" else f"_{i}"
        fields.append((plain, f"<{letter}{size}", (int(count),) if count != "1" else ()))
    if not {"x", "y", "z"} <= {field[0] for field in fields}:
        raise ValueError("it has no x y z")
    return np.dtype(fields)


def _ascii(text: bytes, kind: np.dtype) -> np.ndarray:
    table = file_checks.parse_table(text.decode("ascii", "replace").splitlines())
    names = kind.names or ()
    if any(kind[name].shape for name in names) or table.shape[1] != len(names):
        return np.zeros(0, kind)
    rows = np.zeros(len(table), kind)
    for i, name in enumerate(names):
        rows[name] = table[:, i]
    return rows


def write(path: Path, points: np.ndarray, colors: np.ndarray) -> None:
    """Writes an organised cloud as binary PCD.

    Args:
      path: of the file.
      points: (H, W, 3) mm, zeros where unseen.
      colors: (H, W, 3) in [0, 1].
    """
    height, width, _ = points.shape
    rows = np.zeros(height * width, [("p", "<f4", 3), ("rgb", "<u4")])
    rows["p"] = points.reshape(-1, 3)
    r, g, b = np.round(255 * colors.reshape(-1, 3)).astype(np.uint32).T
    rows["rgb"] = (r << 16) | (g << 8) | b
    header = (
        "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F U\nCOUNT 1 1 1 1\n"
        f"WIDTH {width}\nHEIGHT {height}\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(rows)}\n"
        "DATA binary\n"
    )
    path.write_bytes(header.encode() + rows.tobytes())
