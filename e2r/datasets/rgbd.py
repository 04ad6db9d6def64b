"""A frame of any RGB-D camera (Kinect, RealSense, ZED ...) as the scene of a case.

A folder with a colour picture, a depth picture of the same size and view, and the lens::

    color.png        8-bit RGB (also rgb, image; .jpg)
    depth.png        16 bit (also .tif, .tiff), or depth.npy of any number type; one channel
    intrinsics.json  {"fx", "fy", "cx", "cy"} (also ppx, ppy; or camera_matrix, 3 rows; or Open3D's
                     intrinsic_matrix, 9 numbers by columns); optional "width", "height";
                     "depth_scale", steps a mm (1 without it); "k1" "k2" "p1" "p2" "k3" "k4" "k5"
                     "k6", or all of them in this order as "distortion" (also coeffs, dist_coeffs);
                     the name camera.json will do

or a cloud: PLY (x y z red green blue, maybe nx ny nz), or PCD (x y z, maybe rgb, maybe normal_x
normal_y normal_z; ascii or binary). A depth of 0, below 0, 65535, or no number is no measurement,
and so is a point whose z is. Millimetres, or metres where that is said.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import Image

from e2r.datasets import file_checks, meshes, pcd, ply
from e2r.datasets.case import Case, RgbdImage, case_from_image
from e2r.geometry import lens_distortion, point_clouds

Unit: TypeAlias = Literal["mm", "m"]
NEAREST, FARTHEST = 20.0, 5000.0
"""mm: a scene whose median depth is less is in metres, one whose is more has a wrong scale."""


def read_lens(path: Path) -> lens_distortion.Lens:
    """Reads a lens from JSON, in the spellings above.

    Raises:
      ValueError: names the file, the field and the remedy.
    """
    given = {key.lower(): value for key, value in file_checks.read_json(path).items()}
    matrix = given.get("camera_matrix")
    if given.get("intrinsic_matrix") is not None:
        flat = _numbers(given["intrinsic_matrix"], (9,), path, "intrinsic_matrix")
        matrix = flat.reshape(3, 3).T
    if matrix is not None:
        k = _numbers(matrix, (3, 3), path, "camera_matrix")
        given |= {"fx": k[0, 0], "fy": k[1, 1], "cx": k[0, 2], "cy": k[1, 2]}
    given = {"cx": given.get("ppx"), "cy": given.get("ppy")} | given
    listed = next((given[k] for k in ("distortion", "dist_coeffs", "coeffs") if k in given), None)
    if listed is not None:
        count = len(listed) if isinstance(listed, list) else 0
        if count not in (4, 5, 8):
            raise ValueError(f"{path}: distortion has {count} numbers; use k1 k2 p1 p2 k3 k4 k5 k6")
        numbers = _numbers(listed, (count,), path, "distortion")
        given |= dict(zip(lens_distortion.COEFFICIENTS, numbers.tolist(), strict=False))

    def number(name: str, default: float | None = None) -> float:
        value = given.get(name, default)
        return float(_numbers(value, (), path, name))

    fx, fy, cx, cy = (number(name) for name in ("fx", "fy", "cx", "cy"))
    scale = number("depth_scale", 1.0)
    for name, value in (("fx", fx), ("fy", fy), ("depth_scale", scale)):
        if value <= 0:
            raise ValueError(f"{path}: {name} is {value:g}; it must be more than 0")
    size = None
    if "width" in given and "height" in given:
        size = (int(number("width")), int(number("height")))
    bends = tuple(number(name, 0.0) for name in lens_distortion.COEFFICIENTS)
    return lens_distortion.Lens(fx, fy, cx, cy, bends, scale, size)


def _numbers(value: Any, shape: tuple[int, ...], path: Path, name: str) -> np.ndarray:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.full(1, np.nan)
    if array.shape != shape or not np.isfinite(array).all() or isinstance(value, str | bool):
        what = "a number" if shape == () else f"{' by '.join(map(str, shape))} numbers"
        raise ValueError(f"{path}: {name} must be {what}, not {str(value)[:40]}")
    return array


def undistort(color: np.ndarray, depth: np.ndarray, lens: lens_distortion.Lens) -> RgbdImage:
    """The picture as a lens without distortion, of the same focal lengths and middle, sees it.

    Colours are interpolated; a depth is that of the nearest pixel, never a mean of two surfaces.

    Args:
      color: (H, W, 3) uint8, as taken.
      depth: (H, W) mm along the optical axis, 0 where unseen, as taken.
      lens: of both.
    """
    if not any(lens.distortion):
        return RgbdImage(color, depth.astype(np.float32), *lens[:4])
    return RgbdImage(*lens_distortion.remap(color, depth, lens, lens_distortion.distort), *lens[:4])


# Pictures -----------------------------------------------------------------------------------------


def read_picture(folder: Path, unit: Unit = "mm") -> RgbdImage:
    """Reads a folder of colour, depth and lens, and takes the distortion out.

    Args:
      folder: see the module.
      unit: of the depth, after its scale.

    Raises:
      ValueError: one sentence, naming the file or field and the remedy.
    """
    color_path = _one(folder, ("color", "rgb", "image"), (".png", ".jpg", ".jpeg"))
    depth_path = _one(folder, ("depth",), (".png", ".tif", ".tiff", ".npy"))
    lens = read_lens(_one(folder, ("intrinsics", "camera"), (".json",)))
    color, values = file_checks.read_image(color_path), _read_depth(depth_path)
    if color.ndim != 3 or color.dtype != np.uint8 or color.shape[2] < 3:
        raise ValueError(f"{color_path}: must be an 8-bit RGB picture")
    if values.ndim != 2 or values.dtype.kind not in "uif":
        raise ValueError(f"{depth_path}: must have one channel of numbers; save it so")
    if values.dtype.itemsize < 2:
        raise ValueError(f"{depth_path}: has 8 bits, which are too few; save it with 16")
    if values.shape != color.shape[:2]:
        raise ValueError(
            f"{depth_path}: is {values.shape[1]}x{values.shape[0]}, but {color_path.name} is "
            f"{color.shape[1]}x{color.shape[0]}; align the depth to the colour"
        )
    if lens.size is not None and lens.size != values.shape[::-1]:
        raise ValueError(
            f"{depth_path}: is {values.shape[1]}x{values.shape[0]}, but the intrinsics are for "
            f"{lens.size[0]}x{lens.size[1]}; give those of this size"
        )
    unseen = ~np.isfinite(values) | (values <= 0)
    if values.dtype.kind in "ui":
        unseen |= values == 65535
    if unseen.all():
        raise ValueError(f"{depth_path}: no pixel has a depth; is it the right picture?")
    depth = np.where(unseen, 0.0, values) / lens.depth_scale
    depth = depth * _factor(float(np.median(depth[~unseen])), unit, depth_path, "depth_scale")
    return undistort(color[..., :3], depth, lens)


def _one(folder: Path, names: tuple[str, ...], suffixes: tuple[str, ...]) -> Path:
    there = {p.name.lower(): p for p in folder.iterdir()}
    found = [there[n + s] for n in names for s in suffixes if n + s in there]
    if not found:
        raise ValueError(f"{folder / (names[0] + suffixes[0])}: no such file; put it there")
    return found[0]


def _read_depth(path: Path) -> np.ndarray:
    if path.suffix.lower() != ".npy":
        return file_checks.read_image(path)
    try:
        values = np.load(path, allow_pickle=False)
    except Exception as error:  # numpy raises whatever it meets
        first = " ".join(str(error).split())[:99]
        raise ValueError(f"{path}: cannot be read ({first}); save it with numpy.save") from None
    return np.asarray(values)


def _factor(far: float, unit: Unit, path: Path, field: str) -> float:
    """What makes mm of the file's numbers, whose median depth is ``far``."""
    if unit == "m":
        far = 1000.0 * far
    if far < NEAREST:
        raise ValueError(
            f"{path}: is {far:.3g} mm away, so it is in metres; convert it with --unit m"
        )
    if far > FARTHEST:
        remedy = "leave --unit m out" if unit == "m" else f"give its {field}, steps a mm"
        raise ValueError(f"{path}: is {far / 1000:.3g} m away, which is no wound; {remedy}")
    return 1000.0 if unit == "m" else 1.0


# Clouds -------------------------------------------------------------------------------------------


def read_cloud(path: Path, unit: Unit = "mm") -> pcd.Scan:
    """Reads a PLY or PCD cloud, without the points that are no measurement.

    Raises:
      ValueError: one sentence, naming the file and the remedy.
    """
    if path.suffix.lower() == ".pcd":
        scan, grid = pcd.read(path)
    else:
        scan, grid = pcd.Scan(*ply.read_cloud(path)), None
    keep = np.isfinite(scan.points).all(axis=1) & (scan.points[:, 2] != 0)
    if not keep.any():
        raise ValueError(f"{path}: holds no point with a depth; is it the right cloud?")
    points = scan.points[keep]
    factor = _factor(abs(float(np.median(points[:, 2]))), unit, path, "points in mm")
    normals = scan.normals
    if normals is not None:
        normals = file_checks.face_camera(normals[keep], points, path)
    elif grid is not None:
        everywhere = np.where(keep[:, None], scan.points * factor, np.nan)
        normals = point_clouds.organised_normals(everywhere.reshape(*grid, 3)).reshape(-1, 3)[keep]
    points = points * factor
    file_checks.check_scene(points, path)
    return pcd.Scan(points, scan.colors[keep], normals)


# Cases --------------------------------------------------------------------------------------------


def convert(scene: Path, model: Path, identity: str, *, unit: Unit = "mm") -> Case:
    """A case of a frame and a model, without a truth.

    Args:
      scene: folder of pictures, or PLY or PCD cloud.
      model: folder of surfaces, one a level, mm.
      identity: name of the case.
      unit: of the scene.

    Raises:
      ValueError: one sentence, naming the file or field and the remedy.
    """
    if not file_checks.NAME.fullmatch(identity):
        raise ValueError(f"{identity!r} is no name for a case; use letters and digits")
    fields: dict[str, Any] = {"id": identity, "model": meshes.read_meshes(model)}
    if scene.is_dir():
        case = case_from_image(read_picture(scene, unit), **fields)
        file_checks.check_scene(case.points, scene)
        return case
    if scene.suffix.lower() not in (".ply", ".pcd"):
        raise ValueError(f"{scene}: give a folder of pictures, or a PLY or PCD cloud")
    if not scene.is_file():
        raise ValueError(f"{scene}: no such file; give a folder of pictures, or a cloud")
    return Case(**fields, **read_cloud(scene, unit)._asdict())


def write(
    folder: Path,
    picture: RgbdImage,
    lens: lens_distortion.Lens,
    *,
    unit: Unit = "mm",
    kind: str = ".png",
) -> None:
    """Writes a picture as a camera with this lens takes it, in the layout above.

    Args:
      folder: made if it is not there.
      picture: without distortion, of the lens's focal lengths and middle.
      lens: its distortion and depth scale.
      unit: of the depth.
      kind: of the depth's file: ``.png``, or ``.npy`` (float32, NaN where unseen).
    """
    folder.mkdir(parents=True, exist_ok=True)
    color, depth = picture.color, picture.depth
    if any(lens.distortion):
        color, depth = lens_distortion.remap(color, depth, lens, lens_distortion.undistort)
    steps = depth * lens.depth_scale / (1000.0 if unit == "m" else 1.0)
    Image.fromarray(color).save(folder / "color.png")
    if kind == ".npy":
        np.save(folder / "depth.npy", np.where(depth > 0, steps, np.nan).astype(np.float32))
    else:
        whole = np.where(steps < 65535, np.round(steps), 0).astype(np.uint16)
        Image.fromarray(whole).save(folder / "depth.png")
    about = {
        "width": depth.shape[1],
        "height": depth.shape[0],
        "fx": lens.fx,
        "fy": lens.fy,
        "cx": lens.cx,
        "cy": lens.cy,
        "depth_scale": lens.depth_scale,
        **dict(zip(lens_distortion.COEFFICIENTS, lens.distortion, strict=True)),
    }
    (folder / "intrinsics.json").write_text(json.dumps(about, indent=1))
