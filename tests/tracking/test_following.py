"""A recording is shown to a tracker at its own rate, and one bad frame does not end it."""

from pathlib import Path

import numpy as np
import pytest

from e2r.datasets.recordings import RecordedFrame, Recording
from e2r.formats.scenes import RgbdImage
from e2r.tracking import following
from e2r.tracking.following import follow
from e2r.tracking.past_frames import FrameError
from e2r.tracking.summary import score, summary_table
from e2r.tracking.tracked_frame import TrackedFrame
from e2r.tracking.tracker import Tracker

IMAGE = RgbdImage(np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 400.0), 5.0, 5.0, 1.5, 1.5)


class FakeTracker(Tracker):
    """Takes a while, and refuses some frames."""

    def __init__(self, takes=0.0, refuses=()):
        self.takes, self.refuses, self.times = takes, refuses, []

    def update(self, image, seconds):
        following.time.sleep(self.takes)
        if len(self.times) in self.refuses:
            self.refuses = tuple(n for n in self.refuses if n != len(self.times))
            raise FrameError("frame: give it in mm")
        self.times.append(seconds)
        return TrackedFrame(len(self.times), seconds, "searching", {}, False, 0.0, 0.0, self.takes)


def recording(count, rate):
    def read(numbers):
        return (RecordedFrame(n, n / rate, IMAGE) for n in numbers)

    return Recording(Path("fake"), range(1, count + 1), read, first_seconds=1 / rate)


def shown(tracker, count=8, rate=20.0, live=False):
    return [*follow(recording(count, rate), tracker, truth={}, targets={}, live=live)]


def test_all_frames_are_shown_where_nothing_is_live():
    found = shown(FakeTracker(0.02), rate=1000.0)
    assert not any(one.dropped for one in found) and len(found) == 8


class Clock:
    """Time that passes only while somebody sleeps."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.mark.parametrize("rate", [5.0, 50.0])
def test_a_live_frame_is_dropped_once_the_next_one_is_due(rate, monkeypatch):
    """By the rate of the recording; each frame here takes 1.6 periods."""
    monkeypatch.setattr(following, "time", Clock())
    tracker = FakeTracker(1.6 / rate)
    found = shown(tracker, rate=rate, live=True)
    dropped = [one.dropped for one in found]
    assert dropped == [False, False, True, False, False, True, False, False]
    assert len(tracker.times) == 8 - sum(dropped)
    scored = [score(one.tracked, {}) for one in found if one.tracked is not None]
    table = summary_table(scored, 0, sum(dropped))
    assert "dropped" in table


def test_a_bad_frame_is_broken_but_the_first_one_is_refused():
    found = shown(FakeTracker(refuses=(3,)))
    assert [one.recorded.number for one in found if one.tracked is None] == [4]
    assert found[3].line()["error"] == "frame: give it in mm"
    with pytest.raises(ValueError, match="in mm"):
        shown(FakeTracker(refuses=(0,)))
