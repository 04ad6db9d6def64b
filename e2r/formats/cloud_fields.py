"""Points, colours and normals from the named fields of a cloud's file, PLY or PCD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from e2r.formats.file_checks import PathLike, to_float64
from e2r.formats.scenes import ScenePoints
from e2r.types import Bool, Float, Shaped

POINTS = ("x", "y", "z")
COLORS = (
    ("red", "green", "blue"),
    ("r", "g", "b"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
)
NORMALS = (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z"))
MAX_ROUNDED = 1.01
"""Largest value of colours from 0 to 1, with what resampling adds."""
MIN_TOP = 8.0
"""Colours from 0 to 255 have a larger maximum, or the cloud is black."""


def to_scene(columns: Mapping[str, np.ndarray], path: PathLike) -> ScenePoints:
    """The points, colours and raw normals of a file, with points that are no measurement.

    Args:
      columns: one value a point, by the field's name in any case.
      path: the file, for the message.

    Returns:
      Points and normals as the file holds them: no unit, length or direction is checked.

    Raises:
      ValueError: x, y, z or the colours are missing, or the colours have no known range.
    """
    columns = {name.lower(): column for name, column in columns.items()} | dict(columns)
    if not set(POINTS) <= columns.keys():
        raise ValueError(f"{path}: it has no x y z; write them as fields of each point")
    points = to_float64(_stack(columns, POINTS))
    names = _present(columns, COLORS)
    if names is None:
        raise ValueError(
            f"{path}: has no red, green, blue; the cloud needs colours from 0 to 255, "
            "which tell bone from tissue"
        )
    colors = to_colors(_stack(columns, names), measured(points), path)
    names = _present(columns, NORMALS)
    normals = None if names is None else to_float64(_stack(columns, names))
    return ScenePoints(points, colors, normals)


def measured(points: Float[np.ndarray, "m 3"]) -> Bool[np.ndarray, "m"]:
    """Whether each point is finite and off the origin.

    Args:
      points: as the file holds them.
    """
    return np.isfinite(points).all(axis=1) & (points != 0).any(axis=1)


def to_colors(
    values: Shaped[np.ndarray, "m 3"], used: Bool[np.ndarray, "m"], path: PathLike
) -> Float[np.ndarray, "m 3"]:
    """Colours from 0 to 1, by the type and the largest value.

    Integers reach 255 or, in 16 bits or more, 65535. Other numbers reach 1 or 255.

    Args:
      values: as the file holds them.
      used: the points that are a measurement; the colours of others may be anything.
      path: the file, for the message.

    Raises:
      ValueError: a colour is not finite, negative, or beyond its range.
    """
    chosen = to_float64(values[used])
    if not np.isfinite(chosen).all() or (chosen < 0).any():
        raise ValueError(f"{path}: has colours below 0 or NaN; write them from 0 to 255")
    top = float(chosen.max(initial=0.0))
    if values.dtype.kind in "ui":
        limit = 255.0 if values.dtype.itemsize == 1 or top <= 255 else 65535.0
    else:
        limit = 1.0 if top <= MAX_ROUNDED else 255.0
        if limit == 255.0 and top < MIN_TOP:
            raise ValueError(f"{path}: has colours from 0 to {top:.3g}; write them from 0 to 255")
    if top > MAX_ROUNDED * limit:
        raise ValueError(f"{path}: has colours up to {top:.6g}; write them from 0 to 255")
    colors = to_float64(values) / limit
    return np.clip(np.where(used[:, None], colors, np.nan_to_num(colors, posinf=0.0)), 0.0, 1.0)


def _present(
    columns: Mapping[str, np.ndarray], choices: Sequence[tuple[str, ...]]
) -> tuple[str, ...] | None:
    return next((names for names in choices if set(names) <= columns.keys()), None)


def _stack(columns: Mapping[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    return np.stack([np.ravel(columns[name]) for name in names], 1)
