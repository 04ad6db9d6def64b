"""Recordings: folders of RGB-D frames in the order in which a camera took them.

All frames have one lens. The depth is aligned to the colour; otherwise depth_intrinsics.json and
depth_to_color.json are there as well, as beside a single frame (see e2r.datasets.rgbd)::

    color_000001.png   8-bit RGB (also rgb, image; .jpg, .tif, .bmp)
    depth_000001.png   16 bit (also .tif, .pfm, .pgm), or depth_000001.npy, .npz, .exr
    camera.json        (also intrinsics; .yaml, .xml, .conf); see e2r.formats.camera_files
    timestamps.csv     number,seconds; without it, 30 frames a second
    truth.jsonl        of a simulated recording: the true pose of each level, a line a frame
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trimesh
from jaxtyping import UInt8

from e2r.datasets import case_folder, rgbd
from e2r.datasets.frame_files import (
    COLOR_NAMES,
    COLOR_SUFFIXES,
    DEPTH_NAMES,
    DEPTH_SUFFIXES,
    check_aligned_size,
    check_size,
    find_lens,
)
from e2r.datasets.rgbd import DepthCamera
from e2r.formats import camera_files, depth_files, depth_units, file_checks, notices, pictures
from e2r.formats.file_checks import PathLike, Unit
from e2r.formats.scenes import RgbdImage
from e2r.geometry import poses
from e2r.geometry.lens_distortion import Lens
from e2r.runtime.prefetch import prefetch
from e2r.types import Pose

SLOW_SECONDS = 5.0  # a longer time between frames is probably one in milliseconds
RATE = 30.0
"""Frames a second of a recording without timestamps."""
TIMESTAMPS, TRUTH = "timestamps.csv", "truth.jsonl"


class FrameFiles(NamedTuple):
    """The files of one frame."""

    number: int
    seconds: float
    color: Path  # one of the two may not be there: the frame is broken
    depth: Path


class RecordedFrame(NamedTuple):
    """One frame of a recording."""

    number: int
    seconds: float
    image: RgbdImage | None  # without distortion; None where it is broken
    message: str = ""  # why it is broken, in one sentence


class Patient(NamedTuple):
    """What is known of the patient beside the frames."""

    levels: Mapping[str, trimesh.Trimesh]  # preoperative surfaces, mm, model frame
    truth: Mapping[int, Mapping[str, Pose]]  # by frame and level; empty where it is not known


@dataclass(frozen=True)
class Recording:
    """A recording, opened: its lens and its times are checked, its frames are not read yet."""

    path: Path
    numbers: Sequence[int]
    """of its frames, in order"""
    read_frames: Callable[[Sequence[int]], Iterator[RecordedFrame]]
    """reads the frames of some numbers, which rise"""
    first_seconds: float
    """when the first frame was taken"""
    read_patient: Callable[[], Patient] | None = None
    """reads what a data set knows of its patient; None where no data set does"""

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self.numbers)

    def read(self, numbers: Sequence[int] | None = None) -> Iterator[RecordedFrame]:
        """Frames in order, one after the other; a broken one has a message and no image.

        Args:
          numbers: of the frames, rising; all of them by default.
        """
        return self.read_frames(self.numbers if numbers is None else numbers)

    def first_image(self) -> RgbdImage:
        """The image of the first frame that can be read and has a depth.

        Raises:
          ValueError: there is none.
        """
        found = self.first_image_or_none()
        if found is None:
            raise ValueError(f"{self.path}: no frame with a depth can be read; record it again")
        return found

    def first_image_or_none(self) -> RgbdImage | None:
        """The image of the first frame that can be read and has a depth, or None."""
        images = (frame.image for frame in self.read())
        return next((one for one in images if one is not None and (one.depth > 0).any()), None)


class _Folder(NamedTuple):
    """What the frames of a folder share."""

    lens: Lens
    mm_per_unit: float  # of the stored depth
    size: tuple[int, int]  # width and height of the colour, pixels
    depth_shape: tuple[int, ...]  # rows and columns of the depth
    depth_camera: DepthCamera | None  # of a depth that is not aligned


def open_recording(folder: PathLike, unit: Unit = "mm", *, unchecked: bool = False) -> Recording:
    """Finds the frames of a recording, and reads its lens and its timestamps.

    Args:
      folder: see the module.
      unit: of the depth, after its scale.
      unchecked: say what is doubtful about the lenses, and do not refuse them.

    Raises:
      ValueError: something is missing or broken; the message names it and the remedy.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give the folder of a recording")
    colors = _numbered(folder, COLOR_NAMES, COLOR_SUFFIXES)
    depths = _numbered(folder, DEPTH_NAMES, DEPTH_SUFFIXES)
    whole = sorted(colors.keys() & depths.keys())
    if not whole:
        raise ValueError(
            f"{folder}: holds no frame; name its pictures color_000001.png and depth_000001.png, "
            "with one number a frame"
        )
    halves = sorted(colors.keys() ^ depths.keys())
    one_kind = not (colors.keys() - depths.keys() and depths.keys() - colors.keys())
    between = sum(whole[0] < number < whole[-1] for number in halves)
    if one_kind and len(whole) > 2 and 5 * between >= 2 * (len(whole) - 1):  # two rates
        notices.say(folder, f"{len(halves)} of its pictures have no other half; they are left out")
        halves = []
    seconds = _read_timestamps(folder / TIMESTAMPS, whole, halves)
    files = [
        FrameFiles(
            n,
            seconds[n],
            colors.get(n, _named_like(colors[whole[0]], n)),
            depths.get(n, _named_like(depths[whole[0]], n)),
        )
        for n in seconds
    ]
    first = next((one for one in files if _is_readable(one)), files[0])
    for path in (first.color, first.depth):
        pictures.check_orientation(path)
    color, values = pictures.read_color(first.color), depth_files.read_depth(first.depth)
    size = (color.shape[1], color.shape[0])
    lens = camera_files.read_lens(find_lens(folder), size, unchecked=unchecked)
    camera = rgbd.find_depth_camera(folder, values.shape, unchecked=unchecked)
    if camera is None:
        check_aligned_size(first.color, color.shape[:2], first.depth, values.shape)
    scale, of_depth = (
        rgbd.depth_scale(lens, camera, folder),
        lens if camera is None else camera.lens,
    )
    check_size(first.color, color.shape[:2], lens)
    unseen = depth_files.unmeasured(values)
    if unseen.all():
        raise ValueError(f"{first.depth}: no pixel has a depth; is it the right picture?")
    factor = depth_units.depth_mm_per_unit(
        float(np.median(values[~unseen])),
        scale,
        unit,
        whole=values.dtype.kind in "ui",
        path=first.depth,
        widths=values.shape[1] / of_depth.fx,
    )
    read_one = partial(_read_frame, _Folder(lens, factor / scale, size, values.shape, camera))
    by_number = {one.number: one for one in files}
    return Recording(
        folder,
        list(seconds),
        lambda wanted: prefetch(read_one, [by_number[number] for number in wanted], workers=2),
        first_seconds=files[0].seconds,
    )


def is_recording(path: PathLike) -> bool:
    """Whether a folder holds numbered frames."""
    folder = Path(path)
    return folder.is_dir() and bool(_numbered(folder, COLOR_NAMES, COLOR_SUFFIXES))


def read_truth(folder: PathLike) -> dict[int, dict[str, Pose]]:
    """The true poses of a recording by frame and level; empty where it has none.

    Args:
      folder: of the recording.

    Raises:
      ValueError: a line is broken.
    """
    path = Path(folder) / TRUTH
    if not path.is_file():
        return {}
    found: dict[int, dict[str, Pose]] = {}
    for row, line in enumerate(path.read_text().splitlines(), 1):
        where = f"{path}: line {row}"
        try:
            value = file_checks.parse_json(line)
            number, matrices = int(value["number"]), dict(value["T_camera_model"])
        except (ValueError, TypeError, KeyError):
            raise ValueError(
                f"{where}: is no object with a number and T_camera_model; delete the line"
            ) from None
        found[number] = {name: poses.from_matrix(m, where) for name, m in matrices.items()}
    return found


def write_recording(
    folder: PathLike, frames: Iterable[tuple[RecordedFrame, Mapping[str, Pose]]]
) -> int:
    """Writes a recording with its truth.

    Args:
      folder: is there, and holds no recording.
      frames: each with the true pose of each level.

    Returns:
      The number of frames.
    """
    folder, count = Path(folder), 0
    with (folder / TIMESTAMPS).open("w", newline="") as times, (folder / TRUTH).open("w") as truth:
        table = csv.writer(times)
        table.writerow(["number", "seconds"])
        for frame, levels in frames:
            image = frame.image
            if image is None:
                continue
            if not count:
                case_folder.write_camera(
                    image, folder / "camera.json", depth_scale=case_folder.DEPTH_SCALE
                )
            name = f"{frame.number:06d}.png"
            case_folder.write_images(image, folder / f"color_{name}", folder / f"depth_{name}")
            table.writerow([frame.number, f"{frame.seconds:.6f}"])
            matrices = {level: poses.to_matrix(pose).tolist() for level, pose in levels.items()}
            truth.write(json.dumps({"number": frame.number, "T_camera_model": matrices}) + "\n")
            count += 1
    return count


def check_frame_size(path: Path, color: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> None:
    """Refuses a picture of another size than that with which its recording began.

    Args:
      path: of the picture.
      color: of the frame.
      size: width and height, pixels.

    Raises:
      ValueError: the sizes differ.
    """
    height, width = color.shape[:2]
    if (width, height) != size:
        raise ValueError(
            f"{path}: is {width}x{height}, but the recording began with {size[0]}x{size[1]}, for "
            "which the intrinsics are"
        )


def _read_frame(recording: _Folder, files: FrameFiles) -> RecordedFrame:
    try:
        _check_both(files)
        color, values = pictures.read_color(files.color), depth_files.read_depth(files.depth)
        check_frame_size(files.color, color, recording.size)
        if values.shape != recording.depth_shape:
            height, width = recording.depth_shape
            raise ValueError(
                f"{files.depth}: is {values.shape[1]}x{values.shape[0]}, but the recording began "
                f"with {width}x{height}, for which the intrinsics are"
            )
        unseen = depth_files.unmeasured(values)
        depth = np.where(unseen, 0.0, values * recording.mm_per_unit)
        camera, lens = recording.depth_camera, recording.lens
        if camera is None:
            image = rgbd.undistort_image(color, depth, lens)
        else:
            image = rgbd.register_image(color, depth, camera, lens=lens)
    except (ValueError, OSError) as error:
        return RecordedFrame(files.number, files.seconds, None, file_checks.one_line(error, 300))
    return RecordedFrame(files.number, files.seconds, image)


def _check_both(files: FrameFiles) -> None:
    """Refuses a frame of which one file is not there."""
    for missing, other in ((files.color, files.depth), (files.depth, files.color)):
        if not missing.exists():
            raise ValueError(
                f"{missing}: no such file, but {other.name} is there; a frame needs both"
            )


def _named_like(path: Path, number: int) -> Path:
    """A path with another number, as long as its own where that has room."""
    digits = len(path.stem) - len(path.stem.rstrip("0123456789"))
    return path.with_name(f"{path.stem[: -digits or None]}{number:0{digits}d}{path.suffix}")


def _is_readable(files: FrameFiles) -> bool:
    try:
        pictures.read_color(files.color)
        return not depth_files.unmeasured(depth_files.read_depth(files.depth)).all()
    except (ValueError, OSError):
        return False


def _numbered(folder: Path, names: tuple[str, ...], suffixes: tuple[str, ...]) -> dict[int, Path]:
    """The files whose name is one of some names and a number, by the number."""
    pattern = re.compile(rf"(?:{'|'.join(names)})[_-]?(\d+)", re.IGNORECASE)
    found: dict[int, Path] = {}
    for path in sorted(file_checks.visible(folder.iterdir())):
        match = pattern.fullmatch(path.stem)
        if match is None or path.suffix.lower() not in suffixes:
            continue
        number = int(match[1])
        if number in found:
            raise ValueError(
                f"{path}: frame {number} is {found[number].name} already; keep one of the two"
            )
        found[number] = path
    return found


def _read_timestamps(path: Path, whole: list[int], halves: list[int]) -> dict[int, float]:
    """Seconds of each frame in order; 30 frames a second where there is no file.

    Args:
      path: of the file.
      whole: numbers of the frames whose two pictures are there; each needs a time.
      halves: of those that lack one; without a time they are left out.
    """
    numbers = sorted([*whole, *halves])
    if not path.is_file():
        return {number: (number - numbers[0]) / RATE for number in numbers}
    found = _read_times(path)
    missing = [number for number in whole if number not in found]
    if missing:
        raise ValueError(f"{path}: has no time of frame {missing[0]}; add it, or delete the file")
    without = [number for number in halves if number not in found]
    if without:
        notices.say(
            path.parent,
            f"is read without {len(without)} of its frames, which lack a picture and a time; the "
            f"first is frame {without[0]}",
        )
    times = {number: found[number] for number in numbers if number in found}
    values = np.array(list(times.values()))
    if not (np.isfinite(values).all() and (np.diff(values) > 0).all()):
        raise ValueError(f"{path}: the seconds must be finite and grow from frame to frame")
    if len(values) > 1 and (gap := float(np.median(np.diff(values)))) > SLOW_SECONDS:
        notices.say(path, f"says that {gap:.3g} s lie between frames; times are seconds, not ms")
    return times


def _read_times(path: Path) -> dict[int, float]:
    """Seconds by the number of a frame, as the file has them."""
    found: dict[int, float] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write its mark
            rows = [(row["number"], row["seconds"]) for row in csv.DictReader(file)]
        for number, seconds in rows:
            if int(number) in found:
                break
            found[int(number)] = float(seconds)
    except (KeyError, TypeError, ValueError, csv.Error):  # bytes that are no UTF-8 as well
        raise ValueError(
            f"{path}: must have the columns number and seconds, with a number in each row; save it "
            "as CSV in UTF-8"
        ) from None
    if len(found) < len(rows):
        raise ValueError(f"{path}: has two rows of frame {int(number)}; keep one of the two")
    return found
