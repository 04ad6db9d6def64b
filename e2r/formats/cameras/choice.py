"""Which camera of a document is meant, where it holds several."""

from __future__ import annotations

import re
from typing import Any

from e2r.formats import notices
from e2r.formats.cameras.fields import as_array, is_numbers, plain, shown
from e2r.formats.file_checks import PathLike

FOCAL_NAMES = ("fx", "flx", "fu", "focalx", "focallengthx")
MATRIX_NAMES = (
    "cameramatrix",
    "intrinsicmatrix",
    "intrinsicsmatrix",
    "cameraintrinsicmatrix",
    "cameraintrinsics",
    "intrinsics",
    "intrinsic",
    "cameramat",
    "cammat",
    "mtx",
    "kmatrix",
    "kk",
    "k",
)
"""Plain names of a camera matrix; Kalibr's ``intrinsics`` are fx, fy, cx, cy."""
PROJECTION_NAMES = ("projectionmatrix", "p")
"""Plain names of ROS's 3 by 4 matrix of the rectified picture."""
PAIR_NAMES = ("focallength", "fc")
"""Plain names of fx and fy in a list."""
COLOR = re.compile(r"colou?r|rgb", re.IGNORECASE)
MAX_PARTS = 5000
"""Largest number of dictionaries of a document."""

Camera = dict[Any, Any]


def choose_camera(document: dict[Any, Any], path: PathLike, size: tuple[int, int] | None) -> Camera:
    """The fields of the picture's camera: the only one, the one of its size, or the colour camera.

    Args:
      document: names and values, nested.
      path: its file, for messages.
      size: width and height of the picture, if known.

    Raises:
      ValueError: there are several cameras, and nothing says which one is meant.
    """
    found = _cameras(document, "", [MAX_PARTS], path)
    if not found:
        return document
    if len(found) == 1:
        return next(iter(found.values()))
    names = ", ".join(found)
    fitting = [name for name, camera in found.items() if size and _size(camera) == size]
    colored = [name for name in fitting or found if COLOR.search(name)]
    for names_left, reason in ((fitting, "of the picture's size"), (colored, "named a colour")):
        if len(names_left) == 1:
            notices.say(
                path, f"holds the cameras {names}; {names_left[0]} is read, the one {reason}"
            )
            return found[names_left[0]]
    raise ValueError(f"{path}: holds the cameras {names}; leave only the one of the picture")


def _cameras(
    node: dict[Any, Any], name: str, budget: list[int], path: PathLike
) -> dict[str, Camera]:
    """The cameras in a dictionary by name; what lies beside an only one is added to it."""
    budget[0] -= 1
    if budget[0] < 0:
        raise ValueError(f"{path}: has too many parts for camera parameters; give the right file")
    beside: Camera = {}
    found: dict[str, Camera] = {}
    for key, value in node.items():
        inside: dict[str, Camera] = {}
        for label, child in _children(key, value):
            cameras = _cameras(child, label, budget, path)
            for inner, camera in cameras.items():
                inside[label if len(cameras) == 1 else f"{label}.{inner}"] = camera
        if inside:
            found |= inside
        else:
            beside[key] = value
    if _has_intrinsics(beside):
        return {name or "top": beside} | found
    return {label: beside | camera for label, camera in found.items()}


def _children(key: Any, value: Any) -> list[tuple[str, dict[Any, Any]]]:
    """The dictionaries of a field with their names."""
    if isinstance(value, dict):
        return [(shown(key), value)]
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return [(_label(key, index, item), item) for index, item in enumerate(value)]
    return []


def _label(key: Any, index: int, item: dict[Any, Any]) -> str:
    for name, value in item.items():
        words = ("name", "stream", "streamtype", "type", "camera", "cameraname", "id", "sensor")
        if plain(name) in words and isinstance(value, str):
            return shown(value)
    return f"{shown(key)}[{index}]"


def _has_intrinsics(fields: Camera) -> bool:
    names = {plain(name): value for name, value in fields.items() if value is not None}
    if any(name in names for name in FOCAL_NAMES):
        return True
    for names_of, counts in (
        (MATRIX_NAMES, (9, 16)),
        (("intrinsics", "intrinsic"), (4, 5, 6)),  # Kalibr's; 5 and 6 are of wide-angle models
        (PROJECTION_NAMES, (12,)),
        (PAIR_NAMES, (2,)),
    ):
        for name in names_of:
            if name in names and is_numbers(names[name]) and as_array(names[name]).size in counts:
                return True
    return False


def _size(camera: Camera) -> tuple[Any, Any] | None:
    names = {plain(name): value for name, value in camera.items()}
    if "resolution" in names and is_numbers(names["resolution"]):
        return tuple(names["resolution"])[:2]
    return names.get("width", names.get("imagewidth")), names.get(
        "height", names.get("imageheight")
    )
