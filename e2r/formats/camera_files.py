"""Intrinsics and distortion of a camera, as programs write them."""

from __future__ import annotations

from typing import Any

import numpy as np

from e2r.formats import file_checks
from e2r.formats.file_checks import PathLike
from e2r.geometry.lens_distortion import COEFFICIENTS, Lens


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
