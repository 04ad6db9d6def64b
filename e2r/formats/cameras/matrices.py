"""Focal lengths, principal point and size of one camera, however its file names them."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from e2r.formats import notices
from e2r.formats.cameras.choice import FOCAL_NAMES, MATRIX_NAMES, PAIR_NAMES, PROJECTION_NAMES
from e2r.formats.cameras.fields import Field, Fields, as_array, is_numbers, numbers, shown
from e2r.formats.file_checks import PathLike

NEW_MATRIX_NAMES = ("newcameramatrix", "newcameramtx", "optimalcameramatrix", "newk")
"""Plain names of the matrix that an undistorted picture has."""
CENTER_NAMES = ("principalpoint", "cc", "center", "centre")
WIDTH_NAMES = ("width", "imagewidth", "imgwidth", "w")
HEIGHT_NAMES = ("height", "imageheight", "imgheight", "h")
MATLAB_LABELS = frozenset(
    (
        "RadialDistortion",
        "TangentialDistortion",
        "ImageSize",
        "FocalLength",
        "PrincipalPoint",
        "IntrinsicMatrix",
        "WorldUnits",
        "EstimateSkew",
        "NumRadialDistortionCoefficients",
    )
)
"""Fields of MATLAB's cameraParameters, whose first pixel is (1, 1)."""


class Pinhole(NamedTuple):
    """Intrinsics without distortion, pixels."""

    fx: float
    fy: float
    cx: float
    cy: float


def read_pinhole(fields: Fields) -> Pinhole:
    """Takes focal lengths and principal point out of the fields of a camera.

    Args:
      fields: of one camera.

    Raises:
      ValueError: they are missing, broken, skewed, or given twice and differ.
    """
    path = fields.path
    matlab = len(fields.labels & MATLAB_LABELS) >= 2
    found = [each for each in (_scalars(fields), _pairs(fields)) if each is not None]
    matrix = fields.take(*(name for name in MATRIX_NAMES if fields.has(name)))
    if matrix is not None:
        found.append((matrix.label, _of_matrix(matrix, path)))
    projection = fields.take(*PROJECTION_NAMES)
    if not found and projection is not None and is_numbers(projection.value):
        found.append((projection.label, _of_matrix(projection, path)))
        projection = None
    if not found:
        raise ValueError(
            f"{path}: fx must be a number, or give a camera_matrix of 3 rows; it holds neither"
        )
    label, lens = found[0]
    for other, values in found[1:]:
        if not np.allclose(lens, values, rtol=1e-4, atol=1e-2):
            raise ValueError(f"{path}: {label} and {other} differ; leave the wrong one out")
    _refuse_skew(fields)
    for other_matrix in (projection, fields.take(*NEW_MATRIX_NAMES)):
        _compare_projection(other_matrix, lens, path)
    if matlab:
        notices.say(
            path, "is of MATLAB, whose first pixel is (1, 1); 1 is subtracted from cx and cy"
        )
        lens = lens._replace(cx=lens.cx - 1.0, cy=lens.cy - 1.0)
    return lens


def _scalars(fields: Fields) -> tuple[str, Pinhole] | None:
    parts = {
        "fx": fields.take(*FOCAL_NAMES),
        "fy": fields.take("fy", "fly", "fv", "focaly", "focallengthy"),
        "cx": fields.take("cx", "ppx", "u0", "pu", "principalpointx"),
        "cy": fields.take("cy", "ppy", "v0", "pv", "principalpointy"),
    }
    if all(part is None for part in parts.values()):
        return None
    missing = [name for name, part in parts.items() if part is None]
    if missing and fields.has(*MATRIX_NAMES, *PAIR_NAMES, *PROJECTION_NAMES):
        raise ValueError(
            f"{fields.path}: gives a matrix, and only some of fx, fy, cx and cy; leave these out"
        )
    values = [
        numbers(part and part.value, 0, path=fields.path, name=part.label if part else name)[0]
        for name, part in parts.items()
    ]
    return "fx", Pinhole(*map(float, values))


def _pairs(fields: Fields) -> tuple[str, Pinhole] | None:
    """MATLAB's FocalLength and PrincipalPoint, and Bouguet's fc and cc."""
    focal = fields.take(*PAIR_NAMES)
    center = fields.take(*CENTER_NAMES)
    if focal is None or center is None:
        if focal is not None and not fields.has(*MATRIX_NAMES):
            raise ValueError(
                f"{fields.path}: has {focal.label}, but no principal point; add cx, cy"
            )
        return None
    fx, fy = numbers(focal.value, 2, path=fields.path, name=focal.label)
    cx, cy = numbers(center.value, 2, path=fields.path, name=center.label)
    return focal.label, Pinhole(float(fx), float(fy), float(cx), float(cy))


# Matrices -----------------------------------------------------------------------------------------


def _of_matrix(field: Field, path: PathLike) -> Pinhole:
    """fx, fy, cx and cy of a matrix by rows or by columns: its last row is 0 0 1."""
    values = _entries(field, path)
    if values.size == 4:  # Kalibr's intrinsics
        return Pinhole(*map(float, values))
    size = {9: (3, 3), 12: (3, 4), 16: (4, 4)}[values.size]
    matrix = values.reshape(size)
    if size == (4, 4) and not _last_row_is_unit(matrix) and _last_row_is_unit(matrix.T):
        matrix = matrix.T
    matrix = matrix[:3, :3]
    by_columns = field.label.replace("_", "").lower() == "intrinsicmatrix"
    rows, columns = _last_row_is_unit(matrix), _last_row_is_unit(matrix.T)
    if rows == columns:
        raise ValueError(
            f"{path}: {field.label} is no camera matrix; "
            "its rows must be fx 0 cx, 0 fy cy and 0 0 1"
        )
    if columns != by_columns:
        notices.say(
            path, f"{field.label} is written by {'columns' if columns else 'rows'}; it is read so"
        )
    matrix = matrix.T if columns else matrix
    skew, fy_zero = matrix[0, 1], matrix[1, 0]
    if fy_zero != 0 or abs(skew) > 1e-6 * abs(matrix[0, 0]):
        raise ValueError(
            f"{path}: {field.label} has a skew of {skew or fy_zero:g} pixels; "
            "calibrate the camera without skew"
        )
    return Pinhole(*map(float, (matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])))


def _entries(field: Field, path: PathLike) -> np.ndarray:
    try:
        values = as_array(field.value)
    except (TypeError, ValueError, OverflowError, KeyError):
        values = np.full(1, np.nan)
    counts = (9, 12, 16) if field.label.lower() not in ("intrinsics", "intrinsic") else (4, 9, 16)
    if values.size not in counts or not np.isfinite(values).all():
        raise ValueError(f"{path}: {field.label} must be 3 by 3 numbers, not {shown(field.value)}")
    return values.ravel()


def _last_row_is_unit(matrix: np.ndarray) -> bool:
    """Whether the last row is that of a camera matrix, and the last column could be its own."""
    return bool((matrix[-1, :-1] == 0).all() and matrix[-1, -1] == 1)


def _refuse_skew(fields: Fields) -> None:
    skew = fields.take("skew", "skewness", "alphac")
    if skew is not None:
        value = numbers(skew.value, 0, path=fields.path, name=skew.label)[0]
        if abs(value) > 1e-6:
            raise ValueError(
                f"{fields.path}: {skew.label} is {value:g}; calibrate the camera without skew"
            )


def _compare_projection(projection: Field | None, lens: Pinhole, path: PathLike) -> None:
    """Says that the matrix of the picture as taken is used, where ROS's P is another one."""
    if projection is None or not is_numbers(projection.value):
        return
    values = as_array(projection.value)
    if values.size not in (9, 12) or not values.any():
        return
    matrix = values.reshape(3, -1)
    other = (matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])
    if not np.allclose(other, lens, rtol=1e-3, atol=0.5):
        notices.say(
            path,
            f"K and {projection.label} differ; K is read, that of the picture as taken "
            f"(for a rectified picture, give only {projection.label})",
        )


# Size ---------------------------------------------------------------------------------------------


def read_size(fields: Fields, lens: Pinhole) -> tuple[int, int] | None:
    """Takes width and height of the picture out of the fields.

    Args:
      fields: of one camera.
      lens: of the camera; it tells the order of an ``image_size``, which is nowhere defined.

    Raises:
      ValueError: they are broken, or the picture is a part of the sensor's.
    """
    path = fields.path
    width, height = fields.take(*WIDTH_NAMES), fields.take(*HEIGHT_NAMES)
    ordered, either = fields.take("resolution"), fields.take("imagesize")
    size: tuple[int, int] | None = None
    if width is not None and height is not None:
        size = (_whole(width, path), _whole(height, path))
    elif ordered is not None:
        size = _two(ordered, path)
    elif either is not None:
        size = min(
            (_two(either, path), _two(either, path)[::-1]),
            key=lambda s: abs(lens.cx - s[0] / 2) + abs(lens.cy - s[1] / 2),
        )
    _refuse_parts(fields, size)
    return size if size and all(size) else None  # ROS writes 0 for a size that it does not know


def _whole(field: Field, path: PathLike) -> int:
    value = numbers(field.value, 0, path=path, name=field.label)[0]
    if value < 0 or value != round(value) or value > 1e5:
        raise ValueError(f"{path}: {field.label} is {value:g}; it must be a number of pixels")
    return int(value)


def _two(field: Field, path: PathLike) -> tuple[int, int]:
    text = re.fullmatch(r"\s*(\d+)\s*[x×, ]\s*(\d+)\s*", str(field.value))
    values = [float(n) for n in text.groups()] if text else field.value
    width, height = numbers(values, 2, path=path, name=field.label)
    return _whole(Field(field.label, float(width)), path), _whole(
        Field(field.label, float(height)), path
    )


def _refuse_parts(fields: Fields, size: tuple[int, int] | None) -> None:
    """Refuses ROS's binning and region of interest: K is of the whole sensor then."""
    for name in ("binningx", "binningy"):
        field = fields.take(name)
        if field is not None and numbers(field.value, 0, path=fields.path, name=field.label)[0] > 1:
            raise ValueError(
                f"{fields.path}: {field.label} is more than 1; give the intrinsics of the picture"
            )
    region = fields.take("roi")
    if region is not None and isinstance(region.value, dict):
        part = Fields(region.value, fields.path)
        offsets = [part.take(name) for name in ("xoffset", "yoffset")]
        sides = [part.take(name) for name in ("width", "height")]
        moved = any(field is not None and bool(field.value) for field in offsets)
        smaller = size is not None and any(
            side is not None and side.value not in (0, whole)
            for side, whole in zip(sides, size, strict=True)
        )
        if moved or smaller:
            raise ValueError(
                f"{fields.path}: {region.label} is a part of the picture; "
                "give the intrinsics of this part"
            )
