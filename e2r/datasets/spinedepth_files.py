"""The files of SpineDepth: calibrations, poses, surfaces, images, clouds, SVO videos."""

from __future__ import annotations

import configparser
import importlib.util
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import trimesh

from e2r.formats import depth_files, file_checks, meshes, pictures
from e2r.formats.file_checks import PathLike
from e2r.formats.scenes import RgbdImage, ScenePoints
from e2r.geometry import poses
from e2r.geometry.lens_distortion import Lens
from e2r.types import Float

LEVELS = ("L1", "L2", "L3", "L4", "L5")
SERIALS = {0: "SN10027879", 1: "SN10028650"}
"""Camera -> serial number; it names the camera's calibration file."""
RECALIBRATED = {2: 32, 5: 8, 7: 12, 9: 12}
"""Specimen -> first recording with the second calibration, if no CamParams_<a>_<b> says it."""
RESOLUTIONS = {(2208, 1242): "2K", (1920, 1080): "FHD", (1280, 720): "HD", (672, 376): "VGA"}
"""Width and height in pixels -> the name of a resolution in calibration files."""


# Folders ------------------------------------------------------------------------------------------


def numbered_folders(folder: PathLike, word: str) -> dict[int, Path]:
    """Finds the folders called ``word`` and a number, in any case.

    Args:
      folder: where to look.
      word: before the number.

    Returns:
      number -> path, by number.

    Raises:
      ValueError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder; give the folder that holds Specimen_1 and so on"
        )
    return _by_number(folder.iterdir(), rf"{word}_?(\d+)")


def _by_number(paths: Iterator[Path], pattern: str) -> dict[int, Path]:
    """The paths whose name matches, by the number in it."""
    compiled = re.compile(pattern, re.IGNORECASE)
    found = {int(m[1]): path for path in paths if (m := compiled.fullmatch(path.name))}
    return dict(sorted(found.items()))


def find_child(folder: PathLike, name: str) -> Path:
    """Finds a file or folder inside a folder, its name in any case.

    Args:
      folder: where to look.
      name: of the file or folder.

    Raises:
      ValueError: it is not there.
    """
    folder = Path(folder)
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.lower() == name.lower():
            return path
    raise ValueError(f"{folder / name}: no such file or folder; download this specimen again")


def recordings(specimen: PathLike) -> dict[int, Path]:
    """Finds the recordings of a specimen, by number.

    Args:
      specimen: its folder.

    Raises:
      ValueError: there is no folder of recordings.
    """
    return numbered_folders(find_child(specimen, "Recordings"), "recording")


def extracted_frames(specimen: PathLike, recording: int, camera: int) -> dict[int, Path]:
    """Finds the frames that were extracted as images: ``recording_R/cam_C/frame_F/``.

    Args:
      specimen: its folder.
      recording: its number.
      camera: 0 or 1.

    Returns:
      frame -> folder, by number.
    """
    recording_folder = numbered_folders(specimen, "recording").get(recording)
    if recording_folder is None:
        return {}
    camera_folder = numbered_folders(recording_folder, "cam").get(camera)
    return numbered_folders(camera_folder, "frame") if camera_folder else {}


def labelled_clouds(root: PathLike) -> dict[tuple[int, int, int], dict[int, Path]]:
    """Finds all labelled clouds: ``Specimen_X_recording_R_cam_C_frame_F.npz``.

    Args:
      root: the folder that holds them, at any depth.

    Returns:
      (specimen, recording, camera) -> frame -> file, by number.
    """
    name = re.compile(r"specimen_(\d+)_recording_(\d+)_cam_(\d+)_frame_(\d+)\.npz", re.IGNORECASE)
    found: dict[tuple[int, int, int], dict[int, Path]] = {}
    for path in Path(root).rglob("*.npz"):
        if match := name.fullmatch(path.name):
            specimen, recording, camera, frame = map(int, match.groups())
            found.setdefault((specimen, recording, camera), {})[frame] = path
    return {place: dict(sorted(frames.items())) for place, frames in found.items()}


def calibration_folder(specimen: PathLike, number: int, recording: int) -> Path:
    """Finds the calibration of a recording; some cameras were calibrated twice.

    Args:
      specimen: its folder.
      number: of the specimen.
      recording: its number.

    Raises:
      ValueError: the folder is not there.
    """
    specimen = Path(specimen)
    marks = sorted(
        (int(m[1]), int(m[2]))
        for path in specimen.iterdir()
        if (m := re.match(r"CamParams_(\d+)_(\d+)", path.name, re.IGNORECASE))
    )
    if marks:
        return find_child(specimen, "Calib_b" if recording > marks[0][1] else "Calib_a")
    if number in RECALIBRATED and recording >= RECALIBRATED[number]:
        return find_child(specimen, "Calib_b")
    return find_child(specimen, "Calib")


# Files --------------------------------------------------------------------------------------------


def read_lens(path: PathLike, width: int, height: int) -> Lens:
    """Reads the raw left camera of a ZED calibration file (INI, keys in any case).

    Args:
      path: the file.
      width: of the image, pixels.
      height: of the image, pixels.

    Raises:
      ValueError: the file is missing or broken, or does not know this size.
    """
    resolution = RESOLUTIONS.get((width, height))
    if resolution is None:
        known = ", ".join(f"{w}x{h}" for w, h in RESOLUTIONS)
        raise ValueError(f"{path}: knows no image of {width}x{height}; use {known}")
    parser = configparser.ConfigParser()
    try:
        parser.read_string(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; download this specimen again") from None
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: is no calibration file ({reason}); download it again") from None
    name = next((s for s in parser.sections() if s.upper() == f"LEFT_CAM_{resolution}"), None)
    if name is None:
        raise ValueError(f"{path}: has no section LEFT_CAM_{resolution}; download it again")
    section = {key.lower(): value for key, value in parser[name].items()}

    def number(key: str, default: float | None = None) -> float:
        try:
            value = float(section[key]) if key in section or default is None else default
        except (KeyError, ValueError):
            raise ValueError(f"{path}: {name} has no number {key}; download it again") from None
        if not np.isfinite(value) or (key in ("fx", "fy") and value <= 0):
            raise ValueError(f"{path}: {name} has {key} = {value}; download it again")
        return value

    distortion = tuple(number(key, 0.0) for key in ("k1", "k2", "p1", "p2", "k3"))
    return Lens(
        number("fx"),
        number("fy"),
        number("cx"),
        number("cy"),
        distortion=distortion,
        size=(width, height),
    )


def read_poses(path: PathLike) -> Float[np.ndarray, "f 5 4 4"]:
    """Reads the poses of all frames, camera from STL, mm: five rows a frame, 16 values a row.

    Args:
      path: the file.

    Raises:
      ValueError: the file is missing or broken, or a pose is not rigid.
    """
    path = Path(path)
    try:
        rows = file_checks.parse_table(path.read_text(encoding="utf-8").splitlines(), ",")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; download this recording again") from None
    except (ValueError, UnicodeDecodeError, OSError) as error:
        raise ValueError(
            f"{path}: is no table of numbers ({str(error).splitlines()[0][:99]}); download it again"
        ) from None
    if rows.shape[1:] != (16,) or not len(rows):
        raise ValueError(f"{path}: has rows of {rows.shape[1]} values; each has 16, a 4x4 matrix")
    if len(rows) % len(LEVELS):
        raise ValueError(f"{path}: has {len(rows)} rows, not five a frame; download it again")
    matrices = rows.reshape(-1, len(LEVELS), 4, 4)
    for index, matrix in enumerate(matrices.reshape(-1, 4, 4)):
        frame, level = divmod(index, len(LEVELS))
        poses.from_matrix(matrix, f"{path}: frame {frame}, {LEVELS[level]}")
    return matrices


def read_surfaces(specimen: PathLike) -> dict[str, trimesh.Trimesh]:
    """Reads each level's surface in its own coordinates, mm.

    Args:
      specimen: its folder.

    Raises:
      ValueError: a surface is missing or broken.
    """
    folder = find_child(specimen, "STL")
    return {name: meshes.read_mesh(find_child(folder, f"{name}.stl")) for name in LEVELS}


def read_image(folder: PathLike, calibration: PathLike, camera: int) -> RgbdImage:
    """Reads an extracted frame: 8-bit ``image.png`` and 16-bit ``depth.png`` in mm.

    Args:
      folder: of the frame.
      calibration: folder of the calibration files.
      camera: 0 or 1.

    Raises:
      ValueError: an image or the calibration is missing or broken.
    """
    color_path, depth_path = Path(folder) / "image.png", Path(folder) / "depth.png"
    color, depth = pictures.read_color(color_path), pictures.read_image(depth_path)
    if depth.ndim != 2 or depth.dtype == np.uint8:
        raise ValueError(f"{depth_path}: must be one 16-bit channel, mm; extract it again")
    if depth.shape != color.shape[:2]:
        raise ValueError(f"{depth_path}: is not as large as image.png; extract both again")
    depth = np.where(depth_files.unmeasured(depth), 0, depth)
    height, width = depth.shape
    lens = read_lens(find_child(calibration, f"{SERIALS[camera]}.conf"), width, height)
    return RgbdImage(color, depth.astype(np.float32), lens.fx, lens.fy, lens.cx, lens.cy)


def read_cloud(path: PathLike) -> ScenePoints:
    """Reads the points and colours of a labelled cloud; its labels are not read.

    Args:
      path: the file. No code in it is run.

    Raises:
      ValueError: the file is missing or no such cloud.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            rows = archive["arr_0"]
    except Exception as error:  # numpy and zipfile raise whatever they meet
        raise ValueError(
            f"{path}: cannot be read ({file_checks.one_line(error)}); download it again"
        ) from None
    if rows.ndim != 2 or rows.shape[1] != 7 or rows.dtype.kind not in "fiu":
        raise ValueError(f"{path}: arr_0 must have columns x y z r g b label; download it again")
    rows = rows[np.isfinite(rows[:, :3]).all(axis=1)].astype(np.float64)
    file_checks.check_scene(rows[:, :3], path)
    colors = rows[:, 3:6]
    colors = colors / 255.0 if colors.max(initial=0.0) > 1.0 else colors
    return ScenePoints(rows[:, :3], np.clip(colors, 0.0, 1.0))


def read_video(path: PathLike, frames: Sequence[int]) -> Iterator[tuple[int, RgbdImage]]:
    """Yields rectified left images with their depth, by the ZED SDK.

    Args:
      path: an SVO file.
      frames: their numbers.

    Raises:
      ValueError: the SDK is not installed, or cannot open the file.
    """
    if importlib.util.find_spec("pyzed") is None:
        raise ValueError(
            f"{path}: needs the ZED SDK with pyzed; install it, or extract the frames elsewhere to "
            "Specimen_X/recording_N/cam_C/frame_F/image.png and depth.png"
        )

    from pyzed import sl  # noqa: PLC0415

    setup = sl.InitParameters()
    setup.set_from_svo_file(str(path))
    setup.svo_real_time_mode = False
    setup.coordinate_units = sl.UNIT.MILLIMETER
    zed = sl.Camera()
    if zed.open(setup) != sl.ERROR_CODE.SUCCESS:
        raise ValueError(f"{path}: the ZED SDK cannot open it; download it again")
    try:
        information = zed.get_camera_information().camera_configuration
        lens = information.calibration_parameters.left_cam
        image, depth = sl.Mat(), sl.Mat()
        for frame in frames:
            zed.set_svo_position(frame)
            if zed.grab() != sl.ERROR_CODE.SUCCESS:
                return
            zed.retrieve_image(image, sl.VIEW.LEFT)
            zed.retrieve_measure(depth, sl.MEASURE.DEPTH)
            color = np.ascontiguousarray(image.get_data()[..., 2::-1])
            mm = np.nan_to_num(depth.get_data(), nan=0.0, posinf=0.0, neginf=0.0)
            yield frame, RgbdImage(color, mm, lens.fx, lens.fy, lens.cx, lens.cy)
    finally:
        zed.close()
