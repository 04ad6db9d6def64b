"""One frame of any RGB-D camera (Kinect, RealSense, ZED ...) as a case.

The frame is a folder with a colour image, a depth image aligned to it, and the lens::

    color.png        8-bit RGB (also rgb, image; .jpg)
    depth.png        16 bit (also .tif, .tiff), or depth.npy of any number type; one channel
    intrinsics.json  (also camera.json) fx, fy, cx, cy, and the optional fields below

or a cloud: PLY (x y z red green blue, perhaps nx ny nz), or PCD (x y z, perhaps rgb, perhaps
normal_x normal_y normal_z; ascii or binary).

Fields of intrinsics.json:

- ``fx``, ``fy``, ``cx``, ``cy``; or ``ppx``, ``ppy``; or ``camera_matrix`` (3 rows); or Open3D's
  ``intrinsic_matrix`` (9 numbers by columns);
- ``width``, ``height``: optional;
- ``depth_scale``: depth units per mm, 1 by default;
- ``k1`` ``k2`` ``p1`` ``p2`` ``k3`` ``k4`` ``k5`` ``k6``: 0 by default; or a list in this order,
  ``distortion`` (also ``coeffs``, ``dist_coeffs``).

A depth of 0 or less, of 65535, or that is not finite is no measurement. Neither is a point whose z
is such. Lengths are millimetres, or metres if the caller says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import UInt8

from e2r.datasets import file_checks, meshes, pcd, ply
from e2r.datasets.case import Case, RgbdImage, ScenePoints, make_case
from e2r.datasets.file_checks import PathLike
from e2r.geometry import lens_distortion, point_clouds
from e2r.geometry.lens_distortion import COEFFICIENTS, Lens
from e2r.types import Float

Unit: TypeAlias = Literal["mm", "m"]
MIN_DISTANCE_MM, MAX_DISTANCE_MM = 20.0, 5000.0
"""A scene with a smaller median depth is in metres; one with a larger has a wrong scale."""
COLOR_NAMES, COLOR_SUFFIXES = ("color", "rgb", "image"), (".png", ".jpg", ".jpeg")
DEPTH_NAMES, DEPTH_SUFFIXES = ("depth",), (".png", ".tif", ".tiff", ".npy")
LENS_NAMES, LENS_SUFFIXES = ("intrinsics", "camera"), (".json",)


def convert(scene: PathLike, model: PathLike, id: str, *, unit: Unit = "mm") -> Case:
    """Makes a case, without a truth, of a frame and a model.

    Args:
      scene: folder of images, or PLY or PCD cloud.
      model: folder of surfaces, one a level, mm.
      id: of the case.
      unit: of the scene.

    Raises:
      ValueError: something is missing or broken; the message names it and the remedy.
    """
    scene = Path(scene)
    if not file_checks.NAME_PATTERN.fullmatch(id):
        raise ValueError(f"{id!r} is no name for a case; use letters and digits")
    surfaces = meshes.read_meshes(model)
    if scene.is_dir():
        case = make_case(read_image_folder(scene, unit), id=id, model=surfaces)
        file_checks.check_scene(case.points, scene)
        return case
    if scene.suffix.lower() not in (".ply", ".pcd"):
        raise ValueError(f"{scene}: give a folder of images, or a PLY or PCD cloud")
    if not scene.is_file():
        raise ValueError(f"{scene}: no such file; give a folder of images, or a cloud")
    return make_case(read_cloud(scene, unit), id=id, model=surfaces)


# Images -------------------------------------------------------------------------------------------


def read_image_folder(folder: PathLike, unit: Unit = "mm") -> RgbdImage:
    """Reads colour, depth and lens, and removes the distortion.

    Args:
      folder: see the module.
      unit: of the depth, after its scale.

    Raises:
      ValueError: something is missing or broken; the message names it and the remedy.
    """
    folder = Path(folder)
    color_path = _find_file(folder, COLOR_NAMES, COLOR_SUFFIXES)
    depth_path = _find_file(folder, DEPTH_NAMES, DEPTH_SUFFIXES)
    lens = read_lens(_find_file(folder, LENS_NAMES, LENS_SUFFIXES))
    color, values = file_checks.read_color(color_path), _read_depth(depth_path)
    size = f"{values.shape[1]}x{values.shape[0]}"
    if values.shape != color.shape[:2]:
        raise ValueError(
            f"{depth_path}: is {size}, but {color_path.name} is "
            f"{color.shape[1]}x{color.shape[0]}; align the depth to the colour"
        )
    if lens.size is not None and lens.size != values.shape[::-1]:
        raise ValueError(
            f"{depth_path}: is {size}, but the intrinsics are for "
            f"{lens.size[0]}x{lens.size[1]}; give those of this size"
        )
    unseen = ~np.isfinite(values) | (values <= 0)
    if values.dtype.kind in "ui":
        unseen |= values == 65535
    if unseen.all():
        raise ValueError(f"{depth_path}: no pixel has a depth; is it the right image?")
    depth = np.where(unseen, 0.0, values) / lens.depth_scale
    distance = float(np.median(depth[~unseen]))
    remedy = "give its depth_scale, in units per mm"
    depth = depth * _mm_per_unit(distance, unit, path=depth_path, remedy=remedy)
    return undistort_image(color, depth, lens)


def undistort_image(
    color: UInt8[np.ndarray, "h w 3"], depth: Float[np.ndarray, "h w"], lens: Lens
) -> RgbdImage:
    """The image that a lens without distortion sees, with the same focal lengths and centre.

    Args:
      color: as taken.
      depth: as taken; mm along the optical axis, 0 where unseen.
      lens: of both.
    """
    if any(lens.distortion):
        color, depth = lens_distortion.remap(color, depth, lens, ray_map=lens_distortion.distort)
    return RgbdImage(color, depth.astype(np.float32), lens.fx, lens.fy, lens.cx, lens.cy)


def _find_file(folder: Path, names: tuple[str, ...], suffixes: tuple[str, ...]) -> Path:
    """The first file of these names, in any case."""
    inside = {path.name.lower(): path for path in folder.iterdir()}
    wanted = [name + suffix for name in names for suffix in suffixes]
    found = [inside[name] for name in wanted if name in inside]
    if not found:
        raise ValueError(f"{folder / wanted[0]}: no such file; put it there")
    return found[0]


def _read_depth(path: Path) -> np.ndarray:
    """Depth values (H, W) as the file holds them."""
    if path.suffix.lower() == ".npy":
        try:
            values = np.asarray(np.load(path, allow_pickle=False))
        except Exception as error:  # numpy raises whatever it meets
            reason = file_checks.one_line(error)
            raise ValueError(
                f"{path}: cannot be read ({reason}); save it with numpy.save"
            ) from None
    else:
        values = file_checks.read_image(path)
    if values.ndim != 2 or values.dtype.kind not in "uif":
        raise ValueError(f"{path}: must have one channel of numbers; save it so")
    if values.dtype.itemsize < 2:
        raise ValueError(f"{path}: has 8 bits, which are too few; save it with 16")
    return values


def _mm_per_unit(distance: float, unit: Unit, *, path: Path, remedy: str) -> float:
    """The factor from a file's numbers to mm.

    Args:
      distance: median depth, in the file's numbers.
      unit: of these numbers, as the user says.
      path: the file, for the message.
      remedy: for a distance in mm that is too large.
    """
    factor = 1000.0 if unit == "m" else 1.0
    distance = factor * distance
    if distance < MIN_DISTANCE_MM:
        raise ValueError(
            f"{path}: is {distance:.3g} mm away, so it is in metres; convert it with --unit m"
        )
    if distance > MAX_DISTANCE_MM:
        remedy = "leave --unit m out" if unit == "m" else remedy
        raise ValueError(f"{path}: is {distance / 1000:.3g} m away, which is no wound; {remedy}")
    return factor


# The lens -----------------------------------------------------------------------------------------


def read_lens(path: PathLike) -> Lens:
    """Reads intrinsics and distortion from JSON, in the spellings of the module.

    Args:
      path: the file.

    Raises:
      ValueError: the file or a field is missing or wrong; the message names it and the remedy.
    """
    given = {key.lower(): value for key, value in file_checks.read_json(path).items()}
    given = {"cx": given.get("ppx"), "cy": given.get("ppy")} | given
    given |= _matrix_fields(given, path) | _distortion_fields(given, path)

    def number(name: str, default: float | None = None) -> float:
        return float(_numbers(given.get(name, default), (), path=path, name=name))

    fx, fy, cx, cy = (number(name) for name in ("fx", "fy", "cx", "cy"))
    scale = number("depth_scale", 1.0)
    for name, value in (("fx", fx), ("fy", fy), ("depth_scale", scale)):
        if value <= 0:
            raise ValueError(f"{path}: {name} is {value:g}; it must be more than 0")
    size = None
    if "width" in given and "height" in given:
        size = (int(number("width")), int(number("height")))
    distortion = tuple(number(name, 0.0) for name in COEFFICIENTS)
    return Lens(fx, fy, cx, cy, distortion=distortion, depth_scale=scale, size=size)


def _matrix_fields(given: dict[str, Any], path: PathLike) -> dict[str, float]:
    """fx, fy, cx and cy from a matrix, if there is one."""
    if given.get("intrinsic_matrix") is not None:
        columns = _numbers(given["intrinsic_matrix"], (9,), path=path, name="intrinsic_matrix")
        matrix = columns.reshape(3, 3).T
    elif given.get("camera_matrix") is not None:
        matrix = _numbers(given["camera_matrix"], (3, 3), path=path, name="camera_matrix")
    else:
        return {}
    return {"fx": matrix[0, 0], "fy": matrix[1, 1], "cx": matrix[0, 2], "cy": matrix[1, 2]}


def _distortion_fields(given: dict[str, Any], path: PathLike) -> dict[str, float]:
    """The coefficients by name from a list, if there is one."""
    for field in ("distortion", "dist_coeffs", "coeffs"):
        if field in given and given[field] is not None:
            values = given[field]
            count = len(values) if isinstance(values, list) else 0
            if count not in (4, 5, 8):
                raise ValueError(
                    f"{path}: distortion has {count} numbers; use k1 k2 p1 p2 k3 k4 k5 k6"
                )
            numbers = _numbers(values, (count,), path=path, name="distortion")
            return dict(zip(COEFFICIENTS, numbers.tolist(), strict=False))
    return {}


def _numbers(value: Any, shape: tuple[int, ...], *, path: PathLike, name: str) -> np.ndarray:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.full(1, np.nan)
    if array.shape != shape or not np.isfinite(array).all() or isinstance(value, str | bool):
        wanted = "a number" if shape == () else f"{' by '.join(map(str, shape))} numbers"
        raise ValueError(f"{path}: {name} must be {wanted}, not {str(value)[:40]}")
    return array


# Clouds -------------------------------------------------------------------------------------------


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
    factor = _mm_per_unit(distance, unit, path=path, remedy="write its points in mm")
    normals = scene.normals
    if normals is not None:
        normals = file_checks.orient_normals(normals[measured], points, path)
    elif grid is not None:
        pixels = np.where(measured[:, None], scene.points * factor, np.nan).reshape(*grid, 3)
        normals = point_clouds.organised_normals(pixels).reshape(-1, 3)[measured]
    points = points * factor
    file_checks.check_scene(points, path)
    return ScenePoints(points, scene.colors[measured], normals)
