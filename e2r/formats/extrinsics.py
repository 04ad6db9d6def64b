"""The motion from a depth camera to its colour camera, as programs write it.

A file is JSON, YAML, or text of 4 rows of 4 numbers. It holds one of:

- a 4x4 or 3x4 matrix by rows, bare or in a field such as ``depth_to_color`` or ``matrix``;
- ``rotation`` and ``translation``: 9 numbers by columns in metres (librealsense and ROS's
  realsense2_camera), 9 by rows in mm (Azure Kinect SDK), or 3 rows;
- ``transform`` with ``rot`` by rows and ``trans`` in mm (Orbbec, Femto);
- ``CalibrationInformation``, the factory's calibration of an Azure Kinect, in metres;
- a transform of ROS: ``translation`` x y z in metres, ``rotation`` x y z w, perhaps
  ``header.frame_id`` and ``child_frame_id``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from e2r.formats import file_checks, notices
from e2r.formats.cameras import documents
from e2r.formats.file_checks import PathLike
from e2r.geometry import poses
from e2r.types import Float

MATRICES = (
    "matrix",
    "depth_to_color",
    "color_from_depth",
    "t_color_depth",
    "transform",
    "transformation",
    "extrinsics",
    "extrinsic",
    "extrinsic_matrix",
    "depth2color",
    "depth_to_rgb",
    "rt",
    "data",
)
INVERSES = ("color_to_depth", "depth_from_color", "t_depth_color", "color2depth", "rgb_to_depth")
ROTATIONS, TRANSLATIONS = ("rotation", "rot", "r"), ("translation", "trans", "t")
UNITS = {
    "m": 1000.0,
    "meter": 1000.0,
    "meters": 1000.0,
    "metre": 1000.0,
    "metres": 1000.0,
    "mm": 1.0,
    "millimeter": 1.0,
    "millimeters": 1.0,
    "millimetres": 1.0,
    "cm": 10.0,
}
MAX_BASELINE_MM, MAX_ANGLE_DEG = 300.0, 45.0
"""Two cameras in one housing are nearer and more alike than this."""


class _Motion(NamedTuple):
    """What a file says, before its unit is known."""

    rotation: np.ndarray
    translation: np.ndarray
    mm_per_unit: float | None  # None: by the size of the numbers
    how: str  # continues "was read as"


def read_color_from_depth(path: PathLike) -> Float[np.ndarray, "4 4"]:
    """Reads the rigid motion from the depth camera's frame to the colour camera's, mm.

    Args:
      path: the file; see the module.

    Raises:
      ValueError: the file is missing, holds no rigid motion, or one of no RGB-D camera.
    """
    motion = _find(_load(Path(path)), path)
    length = float(np.linalg.norm(motion.translation))
    scale = motion.mm_per_unit or _guess_unit(length, path)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = motion.rotation, motion.translation * scale
    poses.from_matrix(matrix, str(path))
    angle = float(np.rad2deg(Rotation.from_matrix(matrix[:3, :3]).magnitude()))
    if length * scale > MAX_BASELINE_MM or angle > MAX_ANGLE_DEG:
        raise ValueError(
            f"{path}: moves the camera by {length * scale:.4g} mm and {angle:.3g} degrees, too "
            "far for depth and colour of one camera; give the motion from depth to colour"
        )
    unit = "metres" if scale == 1000.0 else f"units of {scale:g} mm"
    notices.say(path, f"was read as {motion.how}, from depth to colour, in {unit}")
    return matrix


def _guess_unit(length: float, path: PathLike) -> float:
    """mm per unit: a baseline is 5 to 300 mm, or none at all."""
    if length < 0.5:
        return 1000.0
    if length >= 1.0:
        return 1.0
    raise ValueError(f'{path}: may be in mm or in m; say "unit": "mm" or "unit": "m"')


def _load(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = file_checks.one_line(error)
        raise ValueError(f"{path}: cannot be read ({reason}); write it as JSON") from None
    try:
        if path.suffix.lower() == ".json":
            return file_checks.parse_json(text)
        if path.suffix.lower() == ".txt":
            return file_checks.parse_table(text.splitlines()).tolist()
        return documents.parse_yaml(text)
    except ValueError as error:
        reason = file_checks.one_line(error)
        raise ValueError(f"{path}: cannot be read ({reason}); write it again") from None


# What the file says -------------------------------------------------------------------------------


def _find(value: Any, path: PathLike) -> _Motion:
    """The motion from depth to colour in a file's value."""
    if not isinstance(value, Mapping):
        return _from_matrix(value, path)
    given = {str(key).lower(): entry for key, entry in value.items()}
    if "calibrationinformation" in given:
        return _from_kinect(given["calibrationinformation"], path)
    unit = next((str(given[name]).lower() for name in ("unit", "units") if name in given), None)
    if unit is not None and unit not in UNITS:
        raise ValueError(f"{path}: unit is {unit[:20]}; write mm or m")
    turn = next((given[name] for name in ROTATIONS if name in given), None)
    shift = next((given[name] for name in TRANSLATIONS if name in given), None)
    if turn is not None and shift is not None:
        found = _from_parts(turn, shift, value, path=path)
    elif "rows" in given and "data" in given:  # a matrix of OpenCV
        found = _from_matrix(given["data"], path)
    else:
        name = next((name for name in (*MATRICES, *INVERSES) if name in given), None)
        if name is None:
            raise ValueError(
                f"{path}: has no motion from depth to colour; write a 4x4 matrix, depth_to_color"
            )
        found = _find(given[name], path)
        if name in INVERSES:
            found = _inverse(found)
    if unit is not None:
        found = found._replace(mm_per_unit=UNITS[unit])
    return _by_frames(found, given, path)


def _from_matrix(value: Any, path: PathLike) -> _Motion:
    numbers = _numbers(value, path)
    if numbers.size == 16:
        numbers, how = numbers.reshape(4, 4), "a matrix by rows"
        if np.any(numbers[3, :3]) and not np.any(numbers[:3, 3]):
            numbers, how = numbers.T, "a matrix by columns"
        poses.from_matrix(numbers, str(path))
    elif numbers.size == 12:
        numbers, how = numbers.reshape(3, 4), "a matrix by rows"
    else:
        raise ValueError(f"{path}: holds {numbers.size} numbers; write a 4x4 matrix by rows")
    return _Motion(numbers[:3, :3], numbers[:3, 3], None, how)


def _from_parts(turn: Any, shift: Any, written: Mapping[str, Any], *, path: PathLike) -> _Motion:
    """Of a rotation and a translation, in any of their forms; Kinects write Rotation, by rows."""
    if isinstance(shift, Mapping) and "data" not in shift:
        shift = [shift.get(axis) for axis in "xyz"]
    translation = _numbers(shift, path).ravel()
    if isinstance(turn, Mapping) and "data" not in turn:
        quaternion = _numbers([turn.get(axis) for axis in "xyzw"], path)
        if not abs(np.linalg.norm(quaternion) - 1.0) < 1e-3:
            raise ValueError(f"{path}: rotation is no unit quaternion; write x, y, z and w")
        rotation, how = Rotation.from_quat(quaternion).as_matrix(), "a transform of ROS"
        scale: float | None = 1000.0
    else:
        numbers, scale = _numbers(turn, path), None
        rotation, how = numbers.reshape(-1)[:9], "a rotation by rows"
        if numbers.size != 9:
            raise ValueError(
                f"{path}: rotation holds {numbers.size} numbers; write 3 rows of 3 numbers"
            )
        rotation = rotation.reshape(3, 3)
        metres = float(np.linalg.norm(translation)) < 0.5
        if numbers.ndim == 1 and metres and "rotation" in written and not isinstance(turn, Mapping):
            rotation, how = rotation.T, "a rotation by columns, as librealsense writes it"
    if translation.shape != (3,):
        raise ValueError(f"{path}: translation holds {translation.size} numbers; write x y z")
    return _Motion(rotation, translation, scale, how)


def _from_kinect(value: Any, path: PathLike) -> _Motion:
    """Each camera's Rt leads from the device, which is the depth camera, to that camera."""
    matrices = {}
    cameras = value.get("Cameras", []) if isinstance(value, Mapping) else []
    for camera in cameras if isinstance(cameras, list) else []:
        purpose = str(camera.get("Purpose", "")) if isinstance(camera, Mapping) else ""
        motion = camera.get("Rt") if purpose else None
        if isinstance(motion, Mapping):
            matrix = np.eye(4)
            rotation = _numbers(motion.get("Rotation"), path)
            translation = _numbers(motion.get("Translation"), path)
            if rotation.size == 9 and translation.size == 3:
                matrix[:3, :3], matrix[:3, 3] = rotation.reshape(3, 3), translation.ravel()
                matrices[purpose.removeprefix("CALIBRATION_CameraPurpose")] = matrix
    if not {"Depth", "PhotoVideo"} <= matrices.keys():
        raise ValueError(f"{path}: has no Rt of depth and colour camera; write a 4x4 matrix")
    poses.from_matrix(matrices["Depth"], f"{path}: Rt of the depth camera")
    matrix = matrices["PhotoVideo"] @ np.linalg.inv(matrices["Depth"])
    return _Motion(matrix[:3, :3], matrix[:3, 3], 1000.0, "an Azure Kinect's calibration")


def _by_frames(found: _Motion, given: Mapping[str, Any], path: PathLike) -> _Motion:
    """Turned round if the frames' names say so: child's points become those of the frame."""
    header = given.get("header")
    header = header if isinstance(header, Mapping) else {}
    target = str(given.get("frame_id", header.get("frame_id", given.get("to", "")))).lower()
    source = str(given.get("child_frame_id", given.get("from", ""))).lower()
    if not target or not source:
        return found
    for name in (source, target):
        if ("child_frame_id" in given) and "optical" not in name:
            raise ValueError(
                f"{path}: {name[:40]} is no optical frame; give the transform between the optical "
                "frames, whose z points forward"
            )
    ends = [_kind(name) for name in (source, target)]
    if ends == ["depth", "color"]:
        return found
    if ends == ["color", "depth"]:
        return _inverse(found)
    raise ValueError(f"{path}: leads from {source[:40]} to {target[:40]}; name depth and color")


def _kind(name: str) -> str:
    if any(word in name for word in ("depth", "infra", "_ir_", "tof")):
        return "depth"
    return "color" if any(word in name for word in ("color", "colour", "rgb")) else ""


def _inverse(motion: _Motion) -> _Motion:
    return motion._replace(
        rotation=motion.rotation.T,
        translation=-motion.rotation.T @ motion.translation,
        how=f"the inverse of {motion.how}",
    )


def _numbers(value: Any, path: PathLike) -> np.ndarray:
    if isinstance(value, Mapping):
        value = value.get("data")
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.full(1, np.nan)
    if not np.isfinite(array).all() or array.ndim == 0:
        raise ValueError(f"{path}: must hold numbers, not {str(value)[:40]}")
    return array
