"""The files of a track: ``poses.jsonl``, one line a frame, and a TUM trajectory of each level.

A trajectory holds accepted poses only, for its format has no room to say which are.

A line is whole or not there, so an interrupted track keeps all its frames.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import trimesh
from scipy.spatial.transform import Rotation

from e2r.formats import file_checks
from e2r.formats.scenes import RgbdImage
from e2r.geometry import poses
from e2r.runtime.atomic_files import atomic_write
from e2r.tracking.tracked_frame import TrackedFrame
from e2r.types import Pose

POSES_FILE = "poses.jsonl"
RECORD_FILE = "track.json"
"""Says of which recording and of which surfaces the track is."""


OTHERS = {"recording": "of another recording", "surfaces": "of other surfaces"}


class TrackFiles:
    """Writes the frames of a track, each at once.

    Args:
      folder: is there.
      levels: names of the levels.
    """

    def __init__(self, folder: Path, levels: list[str]) -> None:
        self._lines = (folder / POSES_FILE).open("a")
        self._trajectories = {
            name: (folder / f"trajectory_{name}.txt").open("a") for name in levels
        }

    def add(self, frame: TrackedFrame, *, number: int, tre_mm: Mapping[str, float]) -> None:
        """Writes a frame.

        Args:
          frame: what the tracker says.
          number: of the frame in its recording.
          tre_mm: level -> target registration error; empty without a truth.
        """
        self._write(frame_json(frame, number=number, tre_mm=tre_mm))
        for name, level in frame.levels.items():
            if level.accepted:
                self._trajectories[name].write(tum_line(frame.seconds, level.pose))
                self._trajectories[name].flush()

    def add_broken(self, number: int, seconds: float, message: str) -> None:
        """Writes the line of a frame that cannot be read.

        Args:
          number: of the frame in its recording.
          seconds: when it was taken.
          message: why, in one sentence.
        """
        self._write(broken_json(number, seconds, message))

    def _write(self, line: Mapping[str, Any]) -> None:
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()

    def close(self) -> None:
        """Closes all files."""
        for file in (self._lines, *self._trajectories.values()):
            file.close()


@contextmanager
def open_track(
    folder: Path, levels: list[str], *, record: Mapping[str, str] | None = None
) -> Iterator[TrackFiles]:
    """The files of a track in a folder, closed at the end.

    Args:
      folder: is there.
      levels: names of the levels.
      record: of :func:`track_record`; None: the track does not say of what it is.
    """
    if record is not None:
        with atomic_write(folder / RECORD_FILE) as part:
            part.write_text(json.dumps(record, indent=1) + "\n")
    files = TrackFiles(folder, levels)
    try:
        yield files
    finally:
        files.close()


def track_record(
    first: RgbdImage | None, surfaces: Mapping[str, trimesh.Trimesh]
) -> dict[str, str]:
    """Digests of the recording's first picture and of the patient's surfaces.

    Args:
      first: picture of the recording; None where it has none.
      surfaces: of the patient, by level.
    """
    found = {} if first is None else {"recording": _digest(first.color)}
    vertices = [np.asarray(mesh.vertices, np.float32) for mesh in surfaces.values()]
    return {**found, "surfaces": _digest(*vertices)}


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a track; empty for one of an older version.

    Args:
      folder: of the track.

    Raises:
      ValueError: it is broken.
    """
    path = folder / RECORD_FILE
    return file_checks.read_json(path) if path.is_file() else {}


def frame_json(frame: TrackedFrame, *, number: int, tre_mm: Mapping[str, float]) -> dict[str, Any]:
    """A frame as JSON values.

    Args:
      frame: what the tracker says.
      number: of the frame in its recording.
      tre_mm: level -> target registration error; empty without a truth.
    """
    return {
        "number": number,
        "seconds": frame.seconds,
        "state": frame.state,
        "accepted": frame.accepted,
        "agreeing": round(frame.agreeing, 4),
        "covered": round(frame.covered, 4),
        "latency_ms": round(1e3 * frame.latency, 3),
        "levels": {
            name: {
                "T_camera_model": poses.to_matrix(level.pose).tolist(),
                "expected_tre_mm": level.expected_tre_mm,
                "bound95_mm": level.bound95_mm,
                "accepted": level.accepted,
                **({"tre_mm": tre_mm[name]} if name in tre_mm else {}),
            }
            for name, level in frame.levels.items()
        },
    }


def broken_json(number: int, seconds: float, message: str) -> dict[str, Any]:
    """A frame that cannot be read, as JSON values.

    Args:
      number: of the frame in its recording.
      seconds: when it was taken.
      message: why, in one sentence.
    """
    return {"number": number, "seconds": seconds, "error": message}


def read_track(folder: Path) -> list[dict[str, Any]]:
    """Reads the lines of a track.

    Args:
      folder: that ``e2r track`` wrote.

    Returns:
      The lines of ``poses.jsonl``; those of unreadable frames have the field ``error``.

    Raises:
      ValueError: there is no track, it holds no frame, or a line is broken.
    """
    path = folder / POSES_FILE
    if not path.is_file():
        raise ValueError(f"{folder}: has no {POSES_FILE}; name the output folder of e2r track")
    lines: list[dict[str, Any]] = []
    for row, text in enumerate(_lines(path), 1):
        where = f"{path}: line {row}"
        try:
            line = file_checks.parse_json(text)
            known = line["number"], line["seconds"]
            if "error" not in line:
                known += tuple(line[field] for field in ("agreeing", "covered", "latency_ms"))
                line["state"], line["accepted"]
                levels = line["levels"]
                [(one["T_camera_model"], one["accepted"]) for one in levels.values()]
            if not np.isfinite(np.asarray(known, np.float64)).all():
                raise ValueError
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(
                f"{where}: is no line that e2r track wrote; delete it, or track again"
            ) from None
        for name, one in levels.items() if "error" not in line else ():
            poses.from_matrix(one["T_camera_model"], f"{where}: {name}")
            one["T_camera_model"] = np.array(one["T_camera_model"])  # a third of the lists' memory
        lines.append(line)
    if not any("error" not in line for line in lines):
        raise ValueError(f"{path}: holds no frame; track the recording again")
    return lines


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from file


def check_fits(
    lines: Iterable[Mapping[str, Any]],
    *,
    recording: Path,
    numbers: Container[int],
    levels: Container[str],
    record: Mapping[str, Any] = MappingProxyType({}),
    expected: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Refuses a track of another recording, or of another patient.

    Args:
      lines: of the track.
      recording: its file or folder, for messages.
      numbers: of its frames.
      levels: names of the patient's surfaces.
      record: of the track, by :func:`read_record`.
      expected: the record that a track of this recording would have.

    Raises:
      ValueError: the track has a frame or a level that is not there, or its record is another.
    """
    for field, remedy in (
        ("recording", "name the track of this recording with --track"),
        ("surfaces", "name the surfaces of this patient with --model"),
    ):
        if field in record and field in expected and record[field] != expected[field]:
            raise ValueError(f"{recording}: the track is {OTHERS[field]}; {remedy}")
    for line in lines:
        if line["number"] not in numbers:
            raise ValueError(
                f"{recording}: has no frame {line['number']}, but the track does; name the track "
                "of this recording with --track"
            )
        for name in line.get("levels", ()):
            if name not in levels:
                raise ValueError(
                    f"{recording}: the track follows {name}, of which there is no surface; name "
                    "the surfaces of this patient with --model"
                )


def tum_line(seconds: float, pose: Pose) -> str:
    """A line of a TUM trajectory: time (s), translation (m) and quaternion (x y z w).

    Args:
      seconds: when the frame was taken.
      pose: camera from model, mm.
    """
    rotation = Rotation.from_matrix(np.asarray(pose.rotation, np.float64)).as_quat(canonical=True)
    values = [*(1e-3 * np.asarray(pose.translation, np.float64)), *rotation]
    return f"{seconds:.6f} " + " ".join(f"{value:.7f}" for value in values) + "\n"
