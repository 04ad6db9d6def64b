"""Reads the files of SpineDepth: calibrations, poses, surfaces, pictures, clouds, SVO videos."""

from __future__ import annotations

import configparser
import importlib.util
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trimesh

from e2r.datasets import file_checks, meshes
from e2r.datasets.case import RgbdImage
from e2r.geometry import poses

LEVELS = ("L1", "L2", "L3", "L4", "L5")
SERIALS = {0: "SN10027879", 1: "SN10028650"}
"""Camera number -> serial number, which names its calibration file."""
SWITCH = {2: 32, 5: 8, 7: 12, 9: 12}
"""Specimen -> first recording with the second calibration, where no CamParams_<a>_<b> tells."""
RESOLUTIONS = {(2208, 1242): "2K", (1920, 1080): "FHD", (1280, 720): "HD", (672, 376): "VGA"}


class Lens(NamedTuple):
    """Raw intrinsics of a left camera; what the SDK rectifies has others."""

    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...]  # k1, k2, p1, p2, k3


def numbered(folder: Path, word: str) -> dict[int, Path]:
    """Folders called ``word`` and a number, in any case: number -> path, by number."""
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder; give the folder that holds Specimen_1 and so on"
        )
    pattern = re.compile(rf"{word}_?(\d+)", re.IGNORECASE)
    found = {int(m[1]): p for p in folder.iterdir() if (m := pattern.fullmatch(p.name))}
    return dict(sorted(found.items()))


def child(folder: Path, *names: str) -> Path:
    """A file or folder below ``folder``, by names in any case.

    Raises:
      ValueError: it is not there.
    """
    for name in names:
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
        found = next((p for p in inside if p.name.lower() == name.lower()), None)
        if found is None:
            raise ValueError(
                f"{folder / name}: no such file or folder; download this specimen again"
            )
        folder = found
    return folder


def recordings(specimen: Path) -> dict[int, Path]:
    """Recordings of a specimen, by number."""
    return numbered(child(specimen, "Recordings"), "recording")


def calibration_folder(specimen: Path, number: int, recording: int) -> Path:
    """The calibration that holds for a recording: cameras were calibrated again half-way.

    Args:
      specimen: its folder.
      number: its number.
      recording: the recording's number.
    """
    marks = sorted(
        (int(m[1]), int(m[2]))
        for p in specimen.iterdir()
        if (m := re.match(r"CamParams_(\d+)_(\d+)", p.name, re.IGNORECASE))
    )
    if marks:
        return child(specimen, "Calib_b" if recording > marks[0][1] else "Calib_a")
    if number in SWITCH and recording >= SWITCH[number]:
        return child(specimen, "Calib_b")
    return child(specimen, "Calib")


def read_lens(path: Path, width: int, height: int) -> Lens:
    """The left camera of a ZED calibration file (INI, keys in any case) at a picture size.

    Raises:
      ValueError: no calibration file, or not for this size.
    """
    size = RESOLUTIONS.get((width, height))
    if size is None:
        known = ", ".join(f"{w}x{h}" for w, h in RESOLUTIONS)
        raise ValueError(f"{path}: knows no picture of {width}x{height}; use {known}")
    parser = configparser.ConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; download this specimen again") from None
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{path}: is no calibration file ({first}); download it again") from None
    name = next((s for s in parser.sections() if s.upper() == f"LEFT_CAM_{size}"), None)
    if name is None:
        raise ValueError(f"{path}: has no section LEFT_CAM_{size}; download it again")
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
    return Lens(number("fx"), number("fy"), number("cx"), number("cy"), distortion)


def read_poses(path: Path) -> np.ndarray:
    """Camera-from-STL matrices (F, 5, 4, 4) mm of a pose file: five rows a frame, 16 values each.

    Raises:
      ValueError: no such file, or not of this form.
    """
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


def read_surfaces(specimen: Path) -> dict[str, trimesh.Trimesh]:
    """Each level's surface in its own frame, mm."""
    folder = child(specimen, "STL")
    return {name: meshes.read_mesh(child(folder, f"{name}.stl")) for name in LEVELS}


def extracted(specimen: Path, recording: int, camera: int) -> dict[int, Path]:
    """Frames extracted as pictures, by number: ``recording_N/cam_C/frame_F/``."""
    folder = numbered(specimen, "recording").get(recording)
    inside = folder and numbered(folder, "cam").get(camera)
    return numbered(inside, "frame") if inside else {}


def labelled(root: Path, specimen: int, recording: int, camera: int) -> dict[int, Path]:
    """Labelled clouds, by frame: ``Specimen_X_recording_N_cam_C_frame_F.npz`` anywhere below."""
    pattern = re.compile(
        rf"specimen_{specimen}_recording_{recording}_cam_{camera}_frame_(\d+)\.npz", re.IGNORECASE
    )
    found = {int(m[1]): p for p in root.rglob("*.npz") if (m := pattern.fullmatch(p.name))}
    return dict(sorted(found.items()))


def read_picture(folder: Path, calibration: Path, camera: int) -> RgbdImage:
    """An extracted frame: 8-bit ``image.png``, 16-bit ``depth.png`` in mm, lens of the camera."""
    color, depth = (
        file_checks.read_image(folder / "image.png"),
        file_checks.read_image(folder / "depth.png"),
    )
    if color.ndim != 3 or color.dtype != np.uint8 or color.shape[2] < 3:
        raise ValueError(f"{folder / 'image.png'}: must be an 8-bit RGB picture")
    if depth.ndim != 2 or depth.dtype == np.uint8:
        raise ValueError(
            f"{folder / 'depth.png'}: must be one 16-bit channel, mm; extract it again"
        )
    if depth.shape != color.shape[:2]:
        raise ValueError(
            f"{folder / 'depth.png'}: is not as large as image.png; extract both again"
        )
    height, width = depth.shape
    lens = read_lens(child(calibration, f"{SERIALS[camera]}.conf"), width, height)
    return RgbdImage(color[..., :3], depth.astype(np.float32), lens.fx, lens.fy, lens.cx, lens.cy)


def read_cloud(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Points (M, 3) mm and colours (M, 3) of a labelled cloud; its labels are not read.

    Raises:
      ValueError: not such a file. Nothing in it is ever run.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            rows = archive["arr_0"]
    except Exception as error:  # numpy and zipfile raise whatever they meet
        raise ValueError(
            f"{path}: cannot be read ({' '.join(str(error).split())[:100]}); download it again"
        ) from None
    if rows.ndim != 2 or rows.shape[1] != 7 or rows.dtype.kind not in "fiu":
        raise ValueError(f"{path}: arr_0 must have columns x y z r g b label; download it again")
    rows = rows[np.isfinite(rows[:, :3]).all(axis=1)]
    file_checks.check_scene(rows[:, :3], path)
    colors = rows[:, 3:6].astype(np.float64)
    colors = colors / 255.0 if colors.max(initial=0.0) > 1.0 else colors
    return rows[:, :3].astype(np.float64), np.clip(colors, 0.0, 1.0)


def svo_frames(path: Path, wanted: Sequence[int]) -> Iterator[tuple[int, RgbdImage]]:
    """Rectified left pictures with depth in mm, by the ZED SDK.

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
        for frame in wanted:
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
