"""The initial poses that ``--start`` names: one pose for all cases, or each case's prediction."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from e2r.datasets.case import Case
from e2r.evaluation.stored_predictions import Line, find_line, read_lines
from e2r.formats import file_checks
from e2r.geometry import poses
from e2r.types import Pose


class InitialPoses(NamedTuple):
    """The initial poses of a job; without a pose and a file, none is given."""

    pose: Pose | None = None  # of every case, camera from model
    path: Path | None = None  # the file of predictions
    lines: tuple[Line, ...] = ()  # of this file

    def of(self, case: Case) -> Pose | None:
        """The initial pose of a case, or None.

        Args:
          case: the case.

        Raises:
          ValueError: the file of predictions holds none of this very case.
        """
        if self.path is None:
            return self.pose
        return _pose_in(find_line(self.lines, case, self.path), self.path)


def read_initial_poses(start: str) -> InitialPoses:
    """Reads the file that ``--start`` names; ``auto`` and ``truth`` name none.

    Args:
      start: auto, truth, or the path of a JSON file: a 4x4 matrix, an object whose
        ``T_camera_model`` holds one or one a level, or predictions, one a line. An object with an
        ``id`` is a prediction. It serves only its own case.

    Raises:
      ValueError: no such file, or a file without a pose.
    """
    if start in ("auto", "truth"):
        return InitialPoses()
    path = Path(start)
    if not path.is_file():
        raise ValueError(f"--start {start}: use auto, truth, or the path of a pose file")
    try:
        value: Any = file_checks.parse_json(path.read_bytes())
    except ValueError:
        lines = _predictions(path)
    else:
        if not (isinstance(value, dict) and "id" in value):
            return InitialPoses(pose=_pose_in(value, path))
        lines = [value]
    for line in lines:
        if line.get("T_camera_model"):
            _pose_in(line, path)  # a bad pose is refused before the work
    return InitialPoses(path=path, lines=tuple(lines))


def _predictions(path: Path) -> list[Line]:
    try:
        lines = read_lines(path)
    except ValueError:
        lines = []
    if not lines:
        raise ValueError(f"{path}: is not JSON; write a 4x4 matrix, row-major")
    return lines


def _pose_in(value: Any, path: Path) -> Pose:
    """The pose of a matrix or of an object; of one matrix a level, the middle level's."""
    if isinstance(value, Mapping):
        value = value.get("T_camera_model")
    if isinstance(value, Mapping) and value:
        matrices = list(value.values())
        value = matrices[len(matrices) // 2]
    return poses.from_matrix(value, f"{path}: T_camera_model")
