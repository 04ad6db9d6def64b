"""The files of a frame in a folder: their names, and whether their sizes agree."""

from __future__ import annotations

from pathlib import Path
from typing import overload

from e2r.formats import notices
from e2r.geometry.lens_distortion import Lens

COLOR_NAMES = ("color", "rgb", "image")
COLOR_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
DEPTH_NAMES = ("depth",)
DEPTH_SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".npz", ".exr", ".pfm", ".pgm")
LENS_NAMES = ("intrinsics", "camera", "camera_info", "calibration")
DEPTH_LENS_NAMES = ("depth_intrinsics", "depth_camera")
LENS_SUFFIXES = (".json", ".yaml", ".yml", ".xml", ".conf")
MOTION_NAMES, MOTION_SUFFIXES = ("depth_to_color", "extrinsics"), (".json", ".yaml", ".yml", ".txt")


def find_lens(folder: Path) -> Path:
    """The file of the colour camera's intrinsics.

    Args:
      folder: of one frame, or of a recording.

    Raises:
      ValueError: there is none.
    """
    return find_file(folder, LENS_NAMES, LENS_SUFFIXES)


def check_aligned_size(
    color_path: Path, color: tuple[int, ...], depth_path: Path, depth: tuple[int, ...]
) -> None:
    """Refuses a depth of another size than the colour on which it lies.

    Args:
      color_path: of the colour.
      color: its shape, (H, W).
      depth_path: of the depth.
      depth: its shape, (H, W).

    Raises:
      ValueError: the sizes differ.
    """
    if color != depth:
        raise ValueError(
            f"{depth_path}: is {depth[1]}x{depth[0]}, but {color_path.name} is "
            f"{color[1]}x{color[0]}; align the depth to the colour, or give the depth camera's "
            f"{DEPTH_LENS_NAMES[0]}.json and {MOTION_NAMES[0]}.json"
        )


def check_size(path: Path, shape: tuple[int, ...], lens: Lens) -> None:
    """Refuses a picture of another size than that for which its lens is.

    Args:
      path: of the picture.
      shape: of the picture, (H, W).
      lens: of it.

    Raises:
      ValueError: the sizes differ.
    """
    if lens.size is not None and lens.size != shape[::-1]:
        raise ValueError(
            f"{path}: is {shape[1]}x{shape[0]}, but the intrinsics are for "
            f"{lens.size[0]}x{lens.size[1]}; give those of this size"
        )


@overload
def find_file(folder: Path, names: tuple[str, ...], suffixes: tuple[str, ...]) -> Path: ...


@overload
def find_file(
    folder: Path, names: tuple[str, ...], suffixes: tuple[str, ...], *, needed: bool
) -> Path | None: ...


def find_file(
    folder: Path, names: tuple[str, ...], suffixes: tuple[str, ...], *, needed: bool = True
) -> Path | None:
    """The first file of these names, in any case; others beside it are named in a note.

    Args:
      folder: of one frame, or of a recording.
      names: without suffix, the preferred one first.
      suffixes: the preferred one first.
      needed: refuse a folder without such a file.

    Raises:
      ValueError: there is none.
    """
    inside = {path.name.lower(): path for path in folder.iterdir()}
    wanted = [name + suffix for name in names for suffix in suffixes]
    found = [inside[name] for name in wanted if name in inside]
    if not found and needed:
        other = next((path.name for name, path in inside.items() if Path(name).stem in names), None)
        there = f", but {other} is there; write it in this format" if other else "; put it there"
        raise ValueError(f"{folder / wanted[0]}: no such file{there}")
    if len(found) > 1:
        others = ", ".join(path.name for path in found[1:])
        notices.say(found[0], f"was read, and {others} beside it was not")
    return found[0] if found else None
