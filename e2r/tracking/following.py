"""Follows the levels through a whole recording."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from e2r.datasets.recordings import RATE, RecordedFrame, Recording
from e2r.formats import file_checks
from e2r.tracking.past_frames import FrameError
from e2r.tracking.summary import frame_errors
from e2r.tracking.track_files import broken_json, frame_json
from e2r.tracking.tracked_frame import TrackedFrame
from e2r.tracking.tracker import Tracker
from e2r.types import Float, Pose


class Followed(NamedTuple):
    """One frame of a recording, and what the tracker says of it."""

    recorded: RecordedFrame
    tracked: TrackedFrame | None  # None where the frame cannot be read or used, or was dropped
    tre_mm: Mapping[str, float]  # of the levels whose truth is known
    dropped: bool = False  # it came while the tracker was busy, and was not looked at

    def line(self) -> dict[str, Any]:
        """The frame as a line of ``poses.jsonl``."""
        if self.tracked is None:
            return broken_json(self.recorded.number, self.recorded.seconds, self.recorded.message)
        return frame_json(self.tracked, number=self.recorded.number, tre_mm=self.tre_mm)


def follow(
    recording: Recording,
    tracker: Tracker,
    *,
    truth: Mapping[int, Mapping[str, Pose]],
    targets: Mapping[str, Float[np.ndarray, "_ 3"]],
    live: bool = False,
) -> Iterator[Followed]:
    """Shows a tracker the frames of a recording.

    Args:
      recording: its frames are read one after the other.
      tracker: fresh.
      truth: number of a frame -> level -> true pose; may be empty.
      targets: level -> points, mm, model frame, whose error is measured.
      live: play at the recorded rate, and leave out frames that come too soon.

    Raises:
      FrameError: the first frame cannot be used; a later one is broken.
    """
    began: float | None = None
    before, used = recording.first_seconds - 1.0 / RATE, False
    for frame in recording.read():
        apart, before = frame.seconds - before, frame.seconds
        if frame.image is None:
            yield Followed(frame, None, {})
            continue
        if live:
            began = time.perf_counter() if began is None else began
            ahead = frame.seconds - recording.first_seconds - (time.perf_counter() - began)
            if ahead < -apart:  # the camera has taken the next one already
                yield Followed(frame, None, {}, dropped=True)
                continue
            time.sleep(max(ahead, 0.0))
        try:
            found = tracker.update(frame.image, frame.seconds)
        except FrameError as error:
            if not used:
                raise
            message = file_checks.one_line(error, 300)
            yield Followed(frame._replace(image=None, message=message), None, {})
            continue
        used = True
        yield Followed(frame, found, frame_errors(found, truth.get(frame.number, {}), targets))
