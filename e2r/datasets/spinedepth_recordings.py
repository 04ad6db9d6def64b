"""Recordings of SpineDepth: the frames of one camera that were extracted as images.

The layout is that of :mod:`e2r.datasets.spinedepth`. What is opened is the folder of a camera::

    Specimen_N/recording_R/cam_C/frame_F/image.png, depth.png

The data set holds no times, so frames are 1/30 s apart by their numbers, from the first one. The
surfaces are assembled as the levels lie in the first frame of the specimen's recordings.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from e2r.datasets import recordings, spinedepth
from e2r.datasets import spinedepth_files as files
from e2r.datasets.recordings import RATE, Patient, RecordedFrame, Recording
from e2r.formats import file_checks, notices, pictures
from e2r.runtime.prefetch import prefetch
from e2r.types import Float

PLACE = re.compile(
    r"(?:^|/)specimen_?(\d+)/(?:recordings/)?recording_?(\d+)(?:/cam_?([01]))?$", re.IGNORECASE
)
"""The end of a path of a recording, or of a camera in it."""
BESIDE = {"stl", "recordings", "calib", "calib_a", "calib_b"}
"""Folders of a specimen, in lower case; one of them tells that it is one of SpineDepth."""


class CameraPlace(NamedTuple):
    """Where a path lies in the data set."""

    specimen_folder: Path
    specimen: int
    recording: int
    camera: int | None  # None: the path is that of a whole recording


class _Camera(NamedTuple):
    """What the frames of a camera share."""

    number: int
    calibration: Path  # folder
    size: tuple[int, int]  # width and height, pixels


def find_place(path: Path) -> CameraPlace | None:
    """Where a path lies in SpineDepth; None if it does not.

    Args:
      path: any; it need not be there, but its specimen must.
    """
    whole = path.absolute()
    match = PLACE.search(whole.as_posix())
    if match is None:
        return None
    folder = whole.parents[match[0].strip("/").count("/") - 1]
    if not folder.is_dir() or not BESIDE & {one.name.lower() for one in folder.iterdir()}:
        return None
    camera = None if match[3] is None else int(match[3])
    return CameraPlace(folder, int(match[1]), int(match[2]), camera)


def open_camera(path: Path, place: CameraPlace) -> Recording:
    """Finds the extracted frames of a camera, and checks its calibration.

    Args:
      path: that messages name.
      place: of the path.

    Raises:
      ValueError: pictures or the calibration are missing or broken; the message names the remedy.
    """
    if place.camera is None:
        one = place.specimen_folder / f"recording_{place.recording}"
        raise ValueError(f"{path}: is no camera's folder; give {one / 'cam_0'} or {one / 'cam_1'}")
    frames = files.extracted_frames(place.specimen_folder, place.recording, place.camera)
    if not frames:
        raise ValueError(_say_missing(path, place, place.camera))
    size = _first_size(list(frames.values()))
    calibration = files.calibration_folder(place.specimen_folder, place.specimen, place.recording)
    files.read_lens(files.find_child(calibration, f"{files.SERIALS[place.camera]}.conf"), *size)
    read_one = partial(_read_frame, _Camera(place.camera, calibration, size))
    numbers = list(frames)
    seconds = {number: (number - numbers[0]) / RATE for number in numbers}
    return Recording(
        path,
        numbers,
        lambda wanted: prefetch(read_one, [(n, seconds[n], frames[n]) for n in wanted], workers=2),
        first_seconds=0.0,
        read_patient=partial(_read_patient, place, numbers),
    )


def _say_missing(path: Path, place: CameraPlace, camera: int) -> str:
    """Why a camera without extracted frames is none to track, and what to do."""
    folder = f"Specimen_{place.specimen}/recording_{place.recording}/cam_{camera}"
    return (
        f"{path}: holds no extracted frame, and clouds are no pictures; extract the frames of "
        f"Video_{camera}.svo to {folder}/frame_F/image.png and depth.png"
    )


def _first_size(folders: list[Path]) -> tuple[int, int]:
    """Width and height of the first picture that can be read."""
    for folder in folders:
        try:
            height, width, _ = pictures.read_color(folder / "image.png").shape
            return width, height
        except (ValueError, OSError):
            continue
    height, width, _ = pictures.read_color(folders[0] / "image.png").shape  # says why not
    return width, height


def _read_frame(camera: _Camera, frame: tuple[int, float, Path]) -> RecordedFrame:
    number, seconds, folder = frame
    try:
        image = files.read_image(folder, camera.calibration, camera.number)
        recordings.check_frame_size(folder / "image.png", image.color, camera.size)
    except (ValueError, OSError) as error:
        return RecordedFrame(number, seconds, None, file_checks.one_line(error, 300))
    return RecordedFrame(number, seconds, image)


def _read_patient(place: CameraPlace, numbers: list[int]) -> Patient:
    """The assembled surfaces, and the true poses of the frames that have one."""
    tables = _find_pose_tables(place.specimen_folder)
    if not tables:
        raise ValueError(
            f"{place.specimen_folder}: has no Recordings/Recording{place.recording}/Poses_0.txt, "
            "by which its surfaces are assembled; put it there, or name surfaces with --model"
        )
    surfaces = files.read_surfaces(place.specimen_folder)
    own = tables.get((place.recording, place.camera))
    matrices = None if own is None else files.read_poses(own)
    first = next(iter(tables.values()))
    reference = matrices if first == own and matrices is not None else files.read_poses(first)
    model = spinedepth.assemble_model(surfaces, reference[0])
    known = _known(numbers, matrices, own)
    truth = {n: spinedepth.true_poses(model, one) for n, one in known.items()}
    return Patient(model.surfaces, truth)


def _known(
    numbers: list[int], matrices: Float[np.ndarray, "f 5 4 4"] | None, path: Path | None
) -> dict[int, Float[np.ndarray, "5 4 4"]]:
    """The frames that have a pose, with the poses of their levels."""
    if matrices is None or path is None:
        return {}
    if numbers[-1] >= len(matrices):
        notices.say(
            path, f"ends at frame {len(matrices) - 1}; the error of later frames is not known"
        )
    return {number: matrices[number] for number in numbers if number < len(matrices)}


def _find_pose_tables(specimen: Path) -> dict[tuple[int, int | None], Path]:
    """The files of poses by recording and camera, in order."""
    if not any(one.name.lower() == "recordings" for one in specimen.iterdir()):
        return {}
    found: dict[tuple[int, int | None], Path] = {}
    for recording, folder in files.recordings(specimen).items():
        inside = {one.name.lower(): one for one in folder.iterdir()}
        for camera in files.SERIALS:
            if f"poses_{camera}.txt" in inside:
                found[recording, camera] = inside[f"poses_{camera}.txt"]
    return found
