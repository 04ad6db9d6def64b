"""One frame of any RGB-D camera (Kinect, RealSense, ZED ...) as a case.

The frame is a folder with a colour image, a depth image aligned to it, and the lens::

    color.png        8-bit RGB (also rgb, image; .jpg, .tif, .bmp)
    depth.png        16 bit (also .tif, .pfm, .pgm), or depth.npy, .npz, .exr of any number type
    intrinsics.json  (also camera; .yaml, .xml, .conf) of the colour; see
                     e2r.formats.camera_files

A depth that is not aligned comes with the depth camera's own lens and with the motion between both
cameras; it is moved to the colour camera::

    depth_intrinsics.json  (also depth_camera.json) of the depth
    depth_to_color.json    (also extrinsics.json; .yaml, .txt); see e2r.formats.extrinsics

Or the frame is a cloud: PLY or PCD with x y z, colours, and perhaps normals.

A depth of 0 or less, of 65535, or that is not finite is no measurement. Neither is a point whose z
is such, nor a pixel farther than 10 m. Lengths are millimetres, or metres if the caller says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from e2r.datasets.case import Case, make_case
from e2r.datasets.frame_files import (
    COLOR_NAMES,
    COLOR_SUFFIXES,
    DEPTH_LENS_NAMES,
    DEPTH_NAMES,
    DEPTH_SUFFIXES,
    LENS_SUFFIXES,
    MOTION_NAMES,
    MOTION_SUFFIXES,
    check_aligned_size,
    check_size,
    find_file,
    find_lens,
)
from e2r.formats import (
    camera_files,
    clouds,
    depth_files,
    depth_units,
    extrinsics,
    file_checks,
    meshes,
    notices,
    pictures,
)
from e2r.formats.file_checks import PathLike, Unit
from e2r.formats.scenes import RgbdImage
from e2r.geometry import depth_registration, lens_distortion, picture_alignment
from e2r.geometry.lens_distortion import Lens
from e2r.types import Float, Shaped

FARTHEST_MM = 10_000.0
"""What is farther is no part of an operation; one such pixel would coarsen a case's whole depth."""


class DepthCamera(NamedTuple):
    """The camera of a depth image that is not aligned to the colour."""

    lens: Lens
    color_from_depth: Float[np.ndarray, "4 4"]  # mm
    path: Path  # of the motion


def convert(
    scene: PathLike, model: PathLike, id: str, *, unit: Unit = "mm", unchecked: bool = False
) -> Case:
    """Makes a case, without a truth, of a frame and a model.

    Args:
      scene: folder of images, or PLY or PCD cloud.
      model: folder of surfaces, one a level, mm.
      id: of the case.
      unit: of the scene.
      unchecked: say what is doubtful about its cameras, and do not refuse it.

    Raises:
      ValueError: something is missing or broken; the message names it and the remedy.
    """
    scene = Path(scene)
    if not file_checks.NAME_PATTERN.fullmatch(id):
        raise ValueError(f"{id!r} is no name for a case; use letters and digits")
    surfaces = meshes.read_meshes(model)
    if scene.is_dir():
        image = read_image_folder(scene, unit, unchecked=unchecked)
        case = make_case(image, id=id, model=surfaces)
        file_checks.check_scene(case.points, scene)
        return case
    if scene.suffix.lower() not in (".ply", ".pcd"):
        raise ValueError(f"{scene}: give a folder of images, or a PLY or PCD cloud")
    if not scene.is_file():
        raise ValueError(f"{scene}: no such file; give a folder of images, or a cloud")
    return make_case(clouds.read_cloud(scene, unit), id=id, model=surfaces)


# Images -------------------------------------------------------------------------------------------


def read_image_folder(folder: PathLike, unit: Unit = "mm", *, unchecked: bool = False) -> RgbdImage:
    """Reads colour, depth and lens, and removes the distortion.

    Args:
      folder: see the module.
      unit: of the depth, after its scale.
      unchecked: say what is doubtful about the cameras, and do not refuse it.

    Raises:
      ValueError: something is missing or broken; the message names it and the remedy.
    """
    folder = Path(folder)
    color_path = find_file(folder, COLOR_NAMES, COLOR_SUFFIXES)
    depth_path = find_file(folder, DEPTH_NAMES, DEPTH_SUFFIXES)
    for path in (color_path, depth_path):
        pictures.check_orientation(path)
    color, values = pictures.read_color(color_path), depth_files.read_depth(depth_path)
    height, width = color.shape[:2]
    lens = camera_files.read_lens(find_lens(folder), (width, height), unchecked=unchecked)
    camera = find_depth_camera(folder, values.shape, unchecked=unchecked)
    if camera is None:
        check_aligned_size(color_path, color.shape[:2], depth_path, values.shape)
    check_size(depth_path if camera is None else color_path, color.shape[:2], lens)
    if camera is not None:
        check_size(depth_path, values.shape, camera.lens)
    scale, of_depth = depth_scale(lens, camera, folder), lens if camera is None else camera.lens
    depth = _to_mm(values, scale, unit, path=depth_path, focal=of_depth.fx)
    if camera is None:
        check_shift(color, depth, depth_path, unchecked=unchecked)
        return undistort_image(color, depth, lens)
    return _register(color, depth, camera, lens=lens, path=depth_path, unchecked=unchecked)


def _to_mm(
    values: Shaped[np.ndarray, "h w"], scale: float, unit: Unit, *, path: Path, focal: float
) -> Float[np.ndarray, "h w"]:
    """Depth in mm from the numbers of its file; 0 where unseen."""
    unseen = depth_files.unmeasured(values)
    if unseen.all():
        raise ValueError(f"{path}: no pixel has a depth; is it the right image?")
    depth = np.where(unseen, 0.0, values)
    median, whole = float(np.median(depth[~unseen])), values.dtype.kind in "ui"
    factor = depth_units.depth_mm_per_unit(
        median, scale, unit, whole=whole, path=path, widths=values.shape[1] / focal
    )
    found = depth / scale * factor
    return np.where(found > FARTHEST_MM, 0.0, found)


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


# Depth of another camera ------------------------------------------------------------------------


def register_image(
    color: UInt8[np.ndarray, "h w 3"],
    depth: Float[np.ndarray, "_ _"],
    camera: DepthCamera,
    *,
    lens: Lens,
) -> RgbdImage:
    """Moves the depth to the colour camera, and removes the distortion of both.

    Args:
      color: as taken.
      depth: as taken; mm along the depth camera's optical axis, 0 where unseen.
      camera: of the depth.
      lens: of the colour.
    """
    height, width = color.shape[:2]
    plain = Lens(lens.fx, lens.fy, lens.cx, lens.cy)
    straight = undistort_image(color, np.zeros((height, width), np.float32), lens).color
    found = depth_registration.register_depth(
        depth,
        camera.color_from_depth,
        depth_lens=camera.lens,
        color_lens=plain,
        size=(width, height),
    )
    return RgbdImage(straight, found, lens.fx, lens.fy, lens.cx, lens.cy)


def find_depth_camera(
    folder: Path, shape: tuple[int, ...], *, unchecked: bool
) -> DepthCamera | None:
    """The depth camera's own lens and its motion to the colour, if the folder holds both.

    Args:
      folder: of one frame, or of a recording.
      shape: of the depth, (H, W).
      unchecked: say what is doubtful about the lens, and do not refuse it.

    Raises:
      ValueError: the folder holds one of the two, or one is broken.
    """
    height, width = shape
    lens = find_file(folder, DEPTH_LENS_NAMES, LENS_SUFFIXES, needed=False)
    motion = find_file(folder, MOTION_NAMES, MOTION_SUFFIXES, needed=False)
    if lens is not None and motion is not None:
        matrix = extrinsics.read_color_from_depth(motion)
        own = camera_files.read_lens(lens, (width, height), unchecked=unchecked)
        return DepthCamera(own, matrix, motion)
    if lens is not None:
        raise ValueError(
            f"{folder / MOTION_NAMES[0]}.json: no such file, but {lens.name} is there; put the "
            f"motion from depth to colour there, or remove {lens.name} if the depth is aligned"
        )
    if motion is not None and motion.stem.lower() == MOTION_NAMES[0]:
        raise ValueError(
            f"{folder / DEPTH_LENS_NAMES[0]}.json: no such file, but {motion.name} is there; put "
            f"the depth camera's lens there, or remove {motion.name} if the depth is aligned"
        )
    if motion is not None:
        notices.say(motion, f"was not used; it needs {DEPTH_LENS_NAMES[0]}.json beside it")
    return None


def depth_scale(lens: Lens, camera: DepthCamera | None, folder: Path) -> float:
    """Units per mm: of the depth camera's lens, or else of the colour's.

    Args:
      lens: of the colour.
      camera: of the depth, if it has its own.
      folder: that messages name.

    Raises:
      ValueError: both name a scale, and not the same.
    """
    if camera is None or camera.lens.depth_scale in (1.0, lens.depth_scale):
        return lens.depth_scale
    if lens.depth_scale == 1.0:
        return camera.lens.depth_scale
    raise ValueError(
        f"{folder}: depth_scale is {lens.depth_scale:g} for the colour and "
        f"{camera.lens.depth_scale:g} for the depth; give it once, with the depth"
    )


def _register(
    color: UInt8[np.ndarray, "h w 3"],
    depth: Float[np.ndarray, "_ _"],
    camera: DepthCamera,
    *,
    lens: Lens,
    path: Path,
    unchecked: bool,
) -> RgbdImage:
    """Moves the depth to the colour camera, and refuses a motion that the pictures do not bear."""
    image = register_image(color, depth, camera, lens=lens)
    straight, found = image.color, image.depth
    if not (found > 0).any():
        raise ValueError(
            f"{camera.path}: moves all depth out of the colour; is it depth to colour?"
        )
    fit = picture_alignment.score_at_rest(straight, found)
    transposed = camera.color_from_depth.copy()
    transposed[:3, :3] = transposed[:3, :3].T
    others = {
        "the other way round; give the motion from depth to colour": np.linalg.inv(
            camera.color_from_depth
        ),
        "with its rotation transposed; write it as three rows": transposed,
    }
    for how, matrix in others.items() if fit < picture_alignment.GOOD else ():
        if picture_alignment.is_better(
            picture_alignment.score_at_rest(
                straight,
                register_image(
                    color, depth, camera._replace(color_from_depth=matrix), lens=lens
                ).depth,
            ),
            fit,
        ):
            raise ValueError(f"{camera.path}: fits the pictures better {how}")
    if depth.shape == color.shape[:2]:
        given = undistort_image(color, depth, lens).depth
        if picture_alignment.is_better(picture_alignment.score_at_rest(straight, given), fit):
            raise ValueError(
                f"{path}: lies on the colour already; remove {camera.path.name} and the depth "
                "camera's lens"
            )
    if fit < picture_alignment.MIN_PEAK:
        notices.doubt(
            camera.path,
            "could not be checked, for the edges of these pictures say too little",
            remedy="align the depth to the colour by the camera's own software",
            unchecked=unchecked,
        )
    check_shift(straight, found, path, unchecked=unchecked)
    return image


def check_shift(
    color: UInt8[np.ndarray, "h w 3"],
    depth: Float[np.ndarray, "h w"],
    path: Path,
    *,
    unchecked: bool,
) -> None:
    """Refuses a depth whose edges do not lie on those of the colour.

    Args:
      color: of the frame.
      depth: mm, 0 where unseen, on the same pixels.
      path: of the depth, that messages name.
      unchecked: only say so.

    Raises:
      ValueError: they lie elsewhere.
    """
    shift = picture_alignment.find_shift(color, depth)
    if shift is not None and shift.is_certain:
        larger = f"is {shift.scale:.2f} times as large and " if shift.scale != 1.0 else ""
        notices.doubt(
            path,
            f"seems not to be aligned: its edges fit the colour best when it {larger}moves by "
            f"{shift.right} pixels to the right and {shift.down} down",
            remedy="align the depth to the colour, give the depth camera's own "
            f"{DEPTH_LENS_NAMES[0]}.json and {MOTION_NAMES[0]}.json",
            unchecked=unchecked,
        )
