"""The files of a track, and its summary."""

import json

import numpy as np
import pytest

from e2r.datasets.case import vertex_targets
from e2r.geometry import poses
from e2r.tracking.summary import Scored, frame_errors, score, seen_errors, summary_table
from e2r.tracking.track_files import open_track, tum_line
from e2r.tracking.tracked_frame import TrackedFrame, TrackedLevel
from e2r.types import Pose
from tests import ellipsoid_scene as scene

POSE = Pose(
    np.asarray(poses.exp_rotation(np.float32([0.0, 0.0, np.pi / 2]))), np.float32([10, 20, 400])
)


def frame(number=0, state="tracking", accepted=False):
    levels = {"L1": TrackedLevel(POSE, 0.5, 1.0, accepted)} if state == "tracking" else {}
    return TrackedFrame(number, 0.1 * number, state, levels, state == "tracking", 0.9, 0.0, 0.012)


def test_a_trajectory_is_in_metres_with_unit_quaternions():
    values = [float(value) for value in tum_line(1.5, POSE).split()]
    half = np.sqrt(0.5)
    np.testing.assert_allclose(values, [1.5, 0.01, 0.02, 0.4, 0, 0, half, half], atol=1e-6)


def test_each_frame_is_a_line_at_once(tmp_path):
    with open_track(tmp_path, ["L1"]) as files:
        files.add(frame(), number=7, tre_mm={"L1": 0.25})
        files.add(frame(1, "lost"), number=8, tre_mm={})
        assert (tmp_path / "trajectory_L1.txt").read_text() == ""
        files.add_broken(9, 0.2, "no picture")
        files.add(frame(3, accepted=True), number=10, tre_mm={})
        lines = [json.loads(line) for line in (tmp_path / "poses.jsonl").read_text().splitlines()]
        assert (tmp_path / "trajectory_L1.txt").read_text().count("\n") == 1
    assert [line["number"] for line in lines] == [7, 8, 9, 10]
    assert lines[0]["levels"]["L1"]["tre_mm"] == 0.25 and lines[1]["levels"] == {}
    assert lines[0]["latency_ms"] == pytest.approx(12.0) and lines[2]["error"] == "no picture"
    np.testing.assert_allclose(lines[0]["levels"]["L1"]["T_camera_model"], poses.to_matrix(POSE))


def test_errors_are_those_of_the_levels_with_a_truth():
    moved = POSE._replace(translation=POSE.translation + np.float32([0, 3, 4]))
    targets = vertex_targets(scene.model())
    assert frame_errors(frame(), {"L1": moved, "L2": moved}, targets) == {
        "L1": pytest.approx(5.0, abs=1e-4)
    }


def test_a_level_that_is_not_seen_is_not_scored():
    one = frame()
    hidden = one._replace(levels={**one.levels, "L2": TrackedLevel(POSE, None, None)})
    assert seen_errors(hidden, {"L1": 1.0, "L2": 9.0}) == {"L1": 1.0}
    unknown = one._replace(levels={"L2": TrackedLevel(POSE, None, None)})
    assert seen_errors(unknown, {"L2": 9.0}) == {"L2": 9.0}  # without a calibration


@pytest.mark.parametrize("accepted", [False, True])
def test_a_frame_is_wrong_where_an_accepted_level_is(accepted):
    one = frame()._replace(levels={"L1": TrackedLevel(POSE, 0.5, 1.0, accepted)})
    assert score(one, {"L1": 6.0}).wrong is accepted
    assert not score(one, {"L1": 4.0}).wrong


def test_the_summary_counts_what_is_accepted_and_wrong():
    rows = [
        Scored("tracking", True, 0.01, {"L1": 6.0}, wrong=True),
        Scored("tracking", True, 0.03, {"L1": 1.0}, wrong=False),
        Scored("lost", False, 0.02, {}, wrong=False),
    ]
    text = summary_table(rows, broken=2)
    found = {line.rsplit(None, 1)[0]: line.rsplit(None, 1)[1] for line in text.splitlines()[1:]}
    assert found["frames"] == "5" and found["not readable"] == "2" and found["tracking"] == "2"
    assert found["an accepted level 5 mm off or more"] == "1"
    assert found["latency, median (ms)"] == "20.0" and found["median TRE (mm)"] == "3.50"
    assert "TRE" not in summary_table(rows[2:], broken=0)
