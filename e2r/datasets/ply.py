"""Reads and writes point clouds as PLY."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh

from e2r.datasets import file_checks
from e2r.datasets.case import Case


def read_cloud(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Points (M, 3) mm, colours (M, 3) in [0, 1] and maybe normals of a PLY file."""
    try:
        loaded = trimesh.load(path, process=False)
        vertex = loaded.metadata.get("_ply_raw", {}).get("vertex", {})
        data = vertex.get("data")
        points = np.asarray(getattr(loaded, "vertices", np.zeros((0, 3))), np.float64)
    except Exception as error:
        raise ValueError(
            f"{path}: cannot be read as a PLY cloud ({error}); write it again"
        ) from None
    if not isinstance(data, dict):  # a binary file comes as a structured array
        data = {name: data[name] for name in getattr(getattr(data, "dtype", None), "names", ())}
    columns = data.keys()
    if len(points) == 0 or len(points) != vertex.get("length", len(points)):
        raise ValueError(f"{path}: the cloud is empty or cut short; write it again")
    if not {"red", "green", "blue"} <= set(columns):
        raise ValueError(f"{path}: has no red, green, blue; the cloud needs colours from 0 to 255")
    colors = np.stack([np.ravel(data[c]) for c in ("red", "green", "blue")], 1) / 255.0
    if colors.max() <= 1 / 255 and not np.issubdtype(np.asarray(data["red"]).dtype, np.integer):
        raise ValueError(f"{path}: has colours from 0 to 1; write red, green, blue from 0 to 255")
    normals = None
    if {"nx", "ny", "nz"} <= set(columns):
        normals = np.stack([np.ravel(data[c]) for c in ("nx", "ny", "nz")], 1).astype(np.float64)
        normals = file_checks.face_camera(normals, points, path)
    return points, colors, normals


def write_cloud(case: Case, path: Path) -> None:
    """Writes the points, colours and (where there are any) normals as a binary PLY."""
    columns = {axis: case.points[:, i] for i, axis in enumerate("xyz")}
    if case.normals is not None:
        columns |= {axis: case.normals[:, i] for i, axis in enumerate(("nx", "ny", "nz"))}
    kinds = [(name, "<f4") for name in columns]
    kinds += [(name, "u1") for name in ("red", "green", "blue")]
    rows = np.zeros(len(case.points), kinds)
    for name, column in columns.items():
        rows[name] = column
    for i, name in enumerate(("red", "green", "blue")):
        rows[name] = np.round(255 * case.colors[:, i])
    types = {"<f4": "float", "u1": "uchar"}
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(rows)}",
        *(f"property {types[kind]} {name}" for name, kind in kinds),
        "end_header",
        "",
    ]
    path.write_bytes("\n".join(header).encode() + rows.tobytes())
