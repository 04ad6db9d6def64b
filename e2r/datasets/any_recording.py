"""Opens a recording of any kind, and finds its patient's surfaces.

It is a folder of frames, a camera of SpineDepth, a bag of ROS, or one of the RealSense SDK.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from e2r.datasets import bags, realsense_bags, recordings, rgbd, spinedepth_recordings
from e2r.datasets.recordings import Patient, Recording
from e2r.formats import meshes, notices
from e2r.formats.file_checks import Unit


def is_recording(path: Path) -> bool:
    """Whether a path is a bag, a folder of numbered frames, or one of SpineDepth's recordings.

    Args:
      path: any.
    """
    return (
        bags.is_bag(path)
        or recordings.is_recording(path)
        or spinedepth_recordings.find_place(path) is not None
    )


def open_any(
    path: Path, unit: Unit = "mm", topics: Sequence[str] = (), *, unchecked: bool = False
) -> Recording:
    """Finds the frames of a recording, and reads its lens.

    Args:
      path: file or folder.
      unit: of the depth of a folder; that of SpineDepth is in mm.
      topics: of a bag of ROS: of the colour and of the depth, where there are several.
      unchecked: say what is doubtful about the cameras, and do not refuse it.

    Raises:
      ValueError: something is missing or broken; the message names it and the remedy.
    """
    if not bags.is_bag(path):
        place = spinedepth_recordings.find_place(path)
        if place is not None and not recordings.is_recording(path):
            return _aligned(spinedepth_recordings.open_camera(path, place), unchecked)
        return _aligned(recordings.open_recording(path, unit, unchecked=unchecked), unchecked)
    if not path.exists():
        raise ValueError(f"{path}: no such file; give a bag")
    if not topics and realsense_bags.is_realsense_bag(path):
        return realsense_bags.open_realsense_bag(path, unchecked=unchecked)
    return _aligned(bags.open_bag(path, topics, unchecked=unchecked), unchecked)


def find_patient(recording: Recording, model: Path | None = None) -> Patient:
    """Reads the patient's surfaces and, where they are known, the true poses.

    Args:
      recording: opened.
      model: folder of the surfaces; by default, those of the data set, or ``model`` in the
        recording.

    Raises:
      ValueError: there are no surfaces, or something cannot be read.
    """
    if model is None and recording.read_patient is not None:
        return recording.read_patient()
    folder = model or recording.path / "model"
    if not folder.exists():
        raise ValueError(f"{folder}: no such folder; name the patient's surfaces with --model")
    levels = meshes.read_meshes(folder)
    own = recording.path / "model"
    others = model is not None and own.exists() and own.resolve() != model.resolve()
    truth = {} if recording.read_patient else recordings.read_truth(recording.path)
    if recording.read_patient is None and not (others and truth):
        return Patient(levels, truth)
    notices.say(
        recording.path,
        "its true poses are those of its own surfaces; with --model, no error is measured",
    )
    return Patient(levels, {})


def _aligned(recording: Recording, unchecked: bool) -> Recording:
    """The recording; its depth must lie on its colour in the first frame that has a depth."""
    image = recording.first_image_or_none()  # without one, each frame is told as broken
    if image is not None:
        rgbd.check_shift(image.color, image.depth, recording.path, unchecked=unchecked)
    return recording
