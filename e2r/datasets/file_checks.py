"""Checks of what users' files hold: each failure is one sentence that names the file and the remedy."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

BOMB = Image.DecompressionBombError
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")


def parse_table(lines: Sequence[str], delimiter: str | None = None) -> np.ndarray:
    """The table (R, C) that lines of text hold; (0, 0) where they hold none.

    Raises:
      ValueError: they are no table of numbers.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "loadtxt: input contained no data")
        rows = np.loadtxt(lines, delimiter=delimiter, ndmin=2)
    return rows if rows.size else np.zeros((0, 0))


def face_camera(normals: np.ndarray, points: np.ndarray, path: Path) -> np.ndarray:
    """Normals (M, 3) of a file, made unit and turned to the camera.

    Raises:
      ValueError: a normal is not finite, or far from unit.
    """
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    if not np.isfinite(length).all() or (length < 0.5).any():
        raise ValueError(f"{path}: has normals that are not unit; leave nx ny nz out")
    normals = normals / length
    return np.where((normals * points).sum(1, keepdims=True) > 0, -normals, normals)


def check_scene(points: np.ndarray, path: Path) -> None:
    """Refuses points (M, 3) that cannot be what a camera sees, in mm, before it.

    Raises:
      ValueError: not finite, too few, behind the camera, or in metres; names ``path``.
    """
    if not np.isfinite(points).all():
        bad = int((~np.isfinite(points).all(axis=1)).sum())
        raise ValueError(f"{path}: {bad} points are not finite; leave invalid points out")
    if len(points) < 32:
        raise ValueError(f"{path}: holds {len(points)} points; a scene needs 32 at least")
    far = float(np.median(points[:, 2]))
    if far <= 0:
        raise ValueError(f"{path}: lies behind the camera (median z {far:.3g}); z points forward")
    if far < 20.0:
        raise ValueError(
            f"{path}: is {far:.3g} mm away, so it is in metres; e2r works in millimetres, "
            "multiply by 1000 (for a depth picture: divide depth_scale by 1000)"
        )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      ValueError: no such file, or not one object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; a case needs it") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON ({error}); write it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must hold one JSON object, not a {type(value).__name__}")
    return value


def check_names(value: Any, where: Path, field: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f'{where}: {field} must be a list of names, such as ["L3", "L4"]')
    for name in value:
        if not NAME.fullmatch(name):
            raise ValueError(f"{where}: {field}: {name!r} is no level name; use letters and digits")
    if len(set(value)) < len(value):
        raise ValueError(f"{where}: {field} names a level twice; name each once")
    return value


def check_known(names: Sequence[str], levels: Sequence[str], where: str) -> None:
    unknown = sorted(set(names) - set(levels))
    if unknown:
        raise ValueError(f"{where}: {unknown[0]} is not among the levels {list(levels)}")


def read_image(path: Path) -> np.ndarray:
    """A picture's values, as the file has them."""
    try:
        with Image.open(path) as image:
            return np.array(image)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; a picture needs color.png and depth.png") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, BOMB) as error:
        raise ValueError(f"{path}: cannot be read as a PNG ({error}); write it again") from None
