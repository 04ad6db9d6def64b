"""A point cloud of any format, in mm and in the camera frame, without unmeasured points."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from e2r.formats import cloud_fields, depth_units, file_checks, notices, pcd, ply
from e2r.formats.file_checks import PathLike, Unit
from e2r.formats.scenes import ScenePoints
from e2r.geometry import point_clouds
from e2r.types import Float

TURNED = np.array([1.0, -1.0, -1.0])
"""From OpenGL's axes (y up, z backwards) to the camera frame: half a turn about x."""
ROW_CORRELATION, ROW_RISE = 0.8, 0.6
"""A scan by rows: y follows the order of the points; x mostly rises from one to the next."""


def read_cloud(path: PathLike, unit: Unit | None = "mm") -> ScenePoints:
    """Reads a PLY or PCD cloud, without the points that are no measurement.

    Args:
      path: the file.
      unit: of the points; None: mm, and no option says otherwise.

    Raises:
      ValueError: the file is missing or broken; the message names it and the remedy.
    """
    path = Path(path)
    comments = ""
    if path.suffix.lower() == ".pcd":
        scene, grid = pcd.read_cloud(path)
    else:
        columns, comments = ply.read_file(path)
        scene, grid = cloud_fields.to_scene(columns, path), None
    measured = np.isfinite(scene.points).all(axis=1) & (scene.points[:, 2] != 0)
    if not measured.any():
        raise ValueError(f"{path}: holds no point with a depth; is it the right cloud?")
    points = np.where(measured[:, None], scene.points, np.nan)
    normals = scene.normals
    distance = float(np.median(points[measured, 2]))
    turned = distance < 0
    if turned:
        _check_turned(points[measured], comments, path)
        if unit != "m" and -distance < file_checks.MIN_DISTANCE_MM:
            unit = "m"
        notices.say(
            path,
            "has y up and z backwards, as RealSense writes clouds; it was read in "
            f"{unit or 'mm'} and turned about x by 180 degrees",
        )
        points = points * TURNED
        normals = None if normals is None else normals * TURNED
    remedy = "write its points in mm"
    if depth_units.is_plausible(abs(distance) / 10.0):
        remedy += "; are they in units of 0.1 mm?"
    factor = depth_units.mm_per_unit(abs(distance), unit, path=path, remedy=remedy)
    points = points * factor
    if not turned and _scan_direction(points[measured]) < 0:
        notices.say(path, "lists its rows from bottom to top; if its y points up, negate its y")
    if normals is not None:
        normals = _complete_normals(normals[measured], points[measured], path)
    elif grid is not None:
        normals = point_clouds.organised_normals(points.reshape(*grid, 3))
        normals = normals.reshape(-1, 3)[measured]
    points = points[measured]
    file_checks.check_scene(points, path)
    return ScenePoints(points, scene.colors[measured], normals)


def _check_turned(points: Float[np.ndarray, "m 3"], comments: str, path: Path) -> None:
    """Refuses a cloud behind the camera, unless y up and z backwards is certain."""
    if "realsense" in comments or _scan_direction(points) < 0:
        return
    distance = float(np.median(points[:, 2]))
    raise ValueError(
        f"{path}: lies behind the camera (median z is {distance:.3g}); z must point forward: "
        "negate y and z if y points up, z alone if y points down"
    )


def _scan_direction(points: Float[np.ndarray, "m 3"]) -> int:
    """The sign of y down the rows of a cloud that lists its points by rows, from left to right.

    Args:
      points: finite, z not 0.

    Returns:
      1 or -1; 0 if the points are in no such order.
    """
    x, y = (points[:, i] / np.abs(points[:, 2]) for i in (0, 1))
    order = np.arange(len(points), dtype=np.float64)
    if len(points) < file_checks.MIN_POINTS or np.ptp(y) < 1e-6:
        return 0
    correlation = float(np.corrcoef(order, y)[0, 1])
    if not abs(correlation) > ROW_CORRELATION or (np.diff(x) > 0).mean() < ROW_RISE:
        return 0
    return 1 if correlation > 0 else -1


def _complete_normals(
    normals: Float[np.ndarray, "m 3"], points: Float[np.ndarray, "m 3"], path: Path
) -> Float[np.ndarray, "m 3"]:
    """Unit normals towards the camera; those that are NaN or zero are found from the neighbours."""
    missing = ~np.isfinite(normals).all(axis=1) | (normals == 0).all(axis=1)
    if missing.any():
        notices.say(path, f"has {missing.sum()} points without a normal; it was estimated there")
        normals = normals.copy()
        normals[missing] = point_clouds.estimate_normals(points, points[missing])
    return file_checks.orient_normals(normals, points, path)
