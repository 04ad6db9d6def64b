"""A point cloud of any format, without the points that are no measurement."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from e2r.formats import file_checks, pcd, ply
from e2r.formats.file_checks import PathLike, Unit
from e2r.formats.scenes import ScenePoints
from e2r.geometry import point_clouds


def read_cloud(path: PathLike, unit: Unit = "mm") -> ScenePoints:
    """Reads a PLY or PCD cloud, without the points that are no measurement.

    Args:
      path: the file.
      unit: of the points.

    Raises:
      ValueError: the file is missing or broken; the message names it and the remedy.
    """
    path = Path(path)
    if path.suffix.lower() == ".pcd":
        scene, grid = pcd.read_cloud(path)
    else:
        scene, grid = ply.read_cloud(path), None
    measured = np.isfinite(scene.points).all(axis=1) & (scene.points[:, 2] != 0)
    if not measured.any():
        raise ValueError(f"{path}: holds no point with a depth; is it the right cloud?")
    points = scene.points[measured]
    distance = abs(float(np.median(points[:, 2])))
    factor = file_checks.mm_per_unit(distance, unit, path=path, remedy="write its points in mm")
    normals = scene.normals
    if normals is not None:
        normals = file_checks.orient_normals(normals[measured], points, path)
    elif grid is not None:
        pixels = np.where(measured[:, None], scene.points * factor, np.nan).reshape(*grid, 3)
        normals = point_clouds.organised_normals(pixels).reshape(-1, 3)[measured]
    points = points * factor
    file_checks.check_scene(points, path)
    return ScenePoints(points, scene.colors[measured], normals)
