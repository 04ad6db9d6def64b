"""Checks of users' files. A refusal is one sentence that names the file and the remedy."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from e2r.types import Float

PathLike: TypeAlias = str | os.PathLike[str]
"""A path as a text or as a ``pathlib.Path``."""
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")
"""Names of levels and cases; they become file names."""
LEFT_BY_FILE_MANAGERS = ("thumbs.db", "desktop.ini", "__macosx")
"""Names, in lower case, of files that Windows and macOS leave in folders."""
MIN_POINTS = 32
"""Smallest number of points of a scene."""
MIN_LINE_ENDS = 8
"""So many bytes 10 do not all follow a byte 13 by chance."""
Unit: TypeAlias = Literal["mm", "m"]
MIN_DISTANCE_MM = 20.0
"""A scene with a smaller median depth is in metres."""


def one_line(error: BaseException, limit: int = 100) -> str:
    """The text of an exception on one line.

    Args:
      error: the exception.
      limit: largest number of characters.
    """
    return " ".join(str(error).split())[:limit]


def to_float64(values: np.ndarray) -> np.ndarray:
    """Numbers of a file in double precision; a signalling NaN becomes NaN without a warning.

    Args:
      values: numbers of any type.
    """
    with np.errstate(invalid="ignore"):
        return values.astype(np.float64)


def check_binary(body: bytes) -> None:
    """Refuses binary data whose line ends a copy in text mode has changed.

    Args:
      body: the binary part of a file.

    Raises:
      ValueError: each of many bytes 10 follows a byte 13; the message lacks the path.
    """
    ends = body.count(b"\n")
    if ends >= MIN_LINE_ENDS and body.count(b"\r\n") == ends:
        raise ValueError(
            "was copied as text, which changed its binary data; copy it again in binary mode"
        )


def visible(paths: Iterable[Path]) -> list[Path]:
    """The paths, sorted, without hidden ones and those that file managers leave in folders.

    Args:
      paths: the content of a folder, for example.
    """
    return sorted(
        path
        for path in paths
        if not path.name.startswith(".") and path.name.lower() not in LEFT_BY_FILE_MANAGERS
    )


# Texts --------------------------------------------------------------------------------------------


def parse_json(text: str | bytes) -> Any:
    """Reads a JSON value.

    Args:
      text: of the value.

    Raises:
      ValueError: it is not JSON, or its brackets are too deep.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its brackets are too deep") from None


def read_json(path: PathLike) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
      path: the file.

    Raises:
      ValueError: the file is missing or holds anything else.
    """
    path = Path(path)
    try:
        value = parse_json(path.read_bytes())  # UTF-8 or UTF-16, with or without its mark
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; a case needs it") from None
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON ({error}); write it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must hold one JSON object, not a {type(value).__name__}")
    return value


def parse_table(lines: Sequence[str], delimiter: str | None = None) -> Float[np.ndarray, "r c"]:
    """Reads lines of text as a table of numbers.

    Args:
      lines: one row each; empty lines and comments are skipped.
      delimiter: between the columns; white space by default.

    Returns:
      The rows; (0, 0) if there are none.

    Raises:
      ValueError: a value is no number, or rows differ in length.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "loadtxt: input contained no data")
        rows = np.loadtxt(lines, delimiter=delimiter, ndmin=2)
    return rows if rows.size else np.zeros((0, 0))


def check_names(names: Any, path: PathLike, field: str) -> list[str]:
    """Returns the level names of a field, or refuses them.

    Args:
      names: the value of the field.
      path: the file or folder, for the message.
      field: the field, for the message.

    Raises:
      ValueError: no list of texts, a text that is no level name, or one name twice.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f'{path}: {field} must be a list of names, such as ["L3", "L4"]')
    for name in names:
        if not NAME_PATTERN.fullmatch(name):
            raise ValueError(f"{path}: {field}: {name!r} is no level name; use letters and digits")
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: {field} names a level twice; name each once")
    return names


def check_known(names: Sequence[str], levels: Sequence[str], field: str) -> None:
    """Refuses names that are not among the levels.

    Args:
      names: the names.
      levels: the levels of the case.
      field: file and field, for the message.

    Raises:
      ValueError: a name is unknown.
    """
    unknown = sorted(set(names) - set(levels))
    if unknown:
        raise ValueError(f"{field}: {unknown[0]} is not among the levels {list(levels)}")


# Points -------------------------------------------------------------------------------------------


def check_scene(points: Float[np.ndarray, "m 3"], path: PathLike) -> None:
    """Refuses points that no camera can have measured.

    Args:
      points: mm, camera frame.
      path: their file, for the message.

    Raises:
      ValueError: points that are not finite, too few, behind the camera, or in metres.
    """
    if not np.isfinite(points).all():
        bad = int((~np.isfinite(points).all(axis=1)).sum())
        raise ValueError(f"{path}: {bad} points are not finite; leave invalid points out")
    if len(points) < MIN_POINTS:
        raise ValueError(f"{path}: holds {len(points)} points; a scene needs at least {MIN_POINTS}")
    distance = float(np.median(points[:, 2]))
    if distance <= 0:
        raise ValueError(
            f"{path}: lies behind the camera (median z is {distance:.3g}); z must point forward"
        )
    if distance < MIN_DISTANCE_MM:
        raise ValueError(
            f"{path}: is {distance:.3g} mm away, so it is in metres; multiply it by 1000 "
            "(or divide the depth_scale of a depth image by 1000)"
        )


def orient_normals(
    normals: Float[np.ndarray, "m 3"], points: Float[np.ndarray, "m 3"], path: PathLike
) -> Float[np.ndarray, "m 3"]:
    """Makes normals unit and turns them towards the camera.

    Args:
      normals: about unit.
      points: mm, camera frame.
      path: their file, for the message.

    Raises:
      ValueError: a normal is not finite, or much shorter than unit.
    """
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    if not np.isfinite(length).all() or (length < 0.5).any():
        raise ValueError(f"{path}: has normals that are not unit; leave nx ny nz out")
    normals = normals / length
    return np.where((normals * points).sum(1, keepdims=True) > 0, -normals, normals)
