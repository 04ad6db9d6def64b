"""Recoveries, lag and jitter of recordings whose answers are known."""

import numpy as np
import pytest
import trimesh

from e2r.simulation.sequence_paths import SequenceConfig
from e2r.simulation.sequences import SequenceFrame
from e2r.tracking import measures
from e2r.tracking.measures import Played
from e2r.tracking.tracked_frame import TrackedFrame, TrackedLevel
from e2r.types import Pose

RATE = 30.0
BALL = trimesh.creation.icosphere(2, 10.0)
EYE = np.eye(3, dtype=np.float32)


def played(truth, ours, visible=None, states=None):
    """A recording of one level that moves along x, mm."""
    visible = np.ones(len(truth)) if visible is None else visible
    states = ["tracking"] * len(truth) if states is None else states
    at = lambda x: np.array([x, 0.0, 400.0])  # noqa: E731
    frames = [
        SequenceFrame(n / RATE, None, None, Pose(EYE[None], at(x)[None]), visible[n])
        for n, x in enumerate(truth)
    ]
    tracked = []
    for n, (x, state) in enumerate(zip(ours, states, strict=True)):
        level = TrackedLevel(Pose(EYE, at(x)), 0.5, 1.0, True)
        tracked.append(TrackedFrame(n, n / RATE, state, {"L1": level}, True, 1.0, 0.0, 0.01))
    config = SequenceConfig(frames=len(truth))
    return Played(frames, [], {"L1": BALL}, ("L1",), config, tracked, "not asked")


def test_the_lag_is_the_delay_of_the_track():
    seconds = np.arange(120) / RATE
    path = lambda t: 20.0 * np.sin(3.0 * t)  # noqa: E731
    for frames in (0.0, 0.5, 1.5):
        found = measures.lag_frames(played(path(seconds), path(seconds - frames / RATE)))
        assert found == pytest.approx(frames, abs=0.11)


def test_jitter_within_a_second_leaves_a_drift_out(rng):
    noise = 0.2 * rng.normal(size=300)
    still = played(np.zeros(300), noise)
    assert measures.jitter_mm(still) == pytest.approx(0.2, rel=0.15)
    steps = played(np.zeros(300), noise + np.repeat(np.arange(10.0), 30))
    assert measures.jitter_mm(steps, 1.0) == pytest.approx(0.2, rel=0.15)
    assert measures.jitter_mm(steps) == pytest.approx(np.std(np.arange(10)), rel=0.05)


def test_recoveries_are_counted_from_the_first_visible_frame():
    visible = np.ones(300)
    visible[60:80], visible[150:165] = 0.4, 0.0  # a hand, a cut
    ours = np.zeros(300)
    ours[80:92], ours[165:] = 9.0, 9.0  # right again after 12 frames, and not any more
    one = played(np.zeros(300), ours, visible)
    hand, cut = measures.recoveries(one, measures.errors_of(one))
    assert (hand.kind, cut.kind) == ("hand", "cut") and hand.before and cut.before
    assert hand.seconds == pytest.approx(12 / RATE) and cut.seconds == np.inf


def test_frames_that_are_not_followed_have_no_errors():
    one = played(np.zeros(4), np.ones(4), states=["tracking", "occluded", "lost", "tracking"])
    assert [len(errors) for errors in measures.errors_of(one)] == [1, 0, 0, 1]


def test_both_are_compared_on_the_levels_that_both_know():
    alone = {1: {"L1": 1.0, "L2": 9.0}, 2: {"L1": 2.0}}
    tracked = [{}, {"L1": 1.5, "L3": 7.0}, {}]
    assert measures.of_both(alone, tracked) == [(1.0, 1.5)]
