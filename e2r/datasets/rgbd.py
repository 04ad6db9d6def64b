"""One frame of any RGB-D camera (Kinect, RealSense, ZED ...) as a case.

The frame is a folder with a colour image, a depth image aligned to it, and the lens::

    color.png        8-bit RGB (also rgb, image; .jpg)
    depth.png        16 bit (also .tif, .tiff), or depth.npy of any number type; one channel
    intrinsics.json  (also camera; .yaml, .xml, .conf) fx, fy, cx, cy, and the optional fields below

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

import numpy as np
from jaxtyping import UInt8

from e2r.datasets.case import Case, make_case
from e2r.formats import camera_files, clouds, file_checks, meshes, pictures
from e2r.formats.file_checks import PathLike, Unit
from e2r.formats.scenes import RgbdImage
from e2r.geometry import lens_distortion
from e2r.geometry.lens_distortion import Lens
from e2r.types import Float

COLOR_NAMES, COLOR_SUFFIXES = ("color", "rgb", "image"), (".png", ".jpg", ".jpeg")
DEPTH_NAMES, DEPTH_SUFFIXES = ("depth",), (".png", ".tif", ".tiff", ".npy")
LENS_NAMES = ("intrinsics", "camera", "camera_info", "calibration")
LENS_SUFFIXES = (".json", ".yaml", ".yml", ".xml", ".conf")


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
    return make_case(clouds.read_cloud(scene, unit), id=id, model=surfaces)


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
    lens_path = _find_file(folder, LENS_NAMES, LENS_SUFFIXES)
    color, values = pictures.read_color(color_path), pictures.read_depth(depth_path)
    lens = camera_files.read_lens(lens_path, (color.shape[1], color.shape[0]))
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
    depth = depth * file_checks.mm_per_unit(distance, unit, path=depth_path, remedy=remedy)
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
    if lens.bends:
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
