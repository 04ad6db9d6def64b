"""Opens a recording of any kind: a folder of frames, a bag of ROS, or one of the RealSense SDK."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from e2r.datasets import bags, realsense_bags, recordings, rgbd
from e2r.datasets.recordings import Recording
from e2r.formats.file_checks import Unit


def is_recording(path: Path) -> bool:
    """Whether a path is a bag, or a folder of numbered frames.

    Args:
      path: any.
    """
    return bags.is_bag(path) or recordings.is_recording(path)


def open_any(
    path: Path, unit: Unit = "mm", topics: Sequence[str] = (), *, unchecked: bool = False
) -> Recording:
    """Finds the frames of a recording, and reads its lens.

    Args:
      path: file or folder.
      unit: of the depth of a folder.
      topics: of a bag of ROS: of the colour and of the depth, where there are several.
      unchecked: say what is doubtful about the cameras, and do not refuse it.

    Raises:
      ValueError: something is missing or broken; the message names it and the remedy.
    """
    if not bags.is_bag(path):
        return _aligned(recordings.open_recording(path, unit, unchecked=unchecked), unchecked)
    if not path.exists():
        raise ValueError(f"{path}: no such file; give a bag")
    if not topics and realsense_bags.is_realsense_bag(path):
        return realsense_bags.open_realsense_bag(path)
    return _aligned(bags.open_bag(path, topics), unchecked)


def _aligned(recording: Recording, unchecked: bool) -> Recording:
    """The recording; its depth must lie on its colour in the first frame that has a depth."""
    try:
        image = recording.first_image()
    except ValueError:
        return recording  # each frame is told as broken
    rgbd.check_shift(image.color, image.depth, recording.path, unchecked=unchecked)
    return recording
