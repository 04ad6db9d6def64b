"""Snapshots keep the worst cases, and come back from their files."""

from dataclasses import replace

import numpy as np
import pytest
from made_up_job import SCRIPT_ID, TARGETS, made_up_result

from e2r.visualisation import snapshots


def test_only_the_worst_cases_are_kept(tmp_path):
    worst = snapshots.WorstCases("learnt", max_snapshots=3)
    results = [made_up_result(i, mm) for i, mm in enumerate((3.0, 1.0, 40.0, 2.0, 7.0, 0.5))]
    offered = [worst.offer(result) for result in results]
    assert [one is not None for one in offered] == [True, True, True, True, True, False]
    for one in offered[:5]:
        snapshots.keep_worst(tmp_path, one, max_snapshots=3)
    assert [one.id for one in snapshots.read_worst(tmp_path)] == ["case2", "case4", "case0"]
    before = sorted(tmp_path.iterdir())
    # A job that continues offers a case again.
    snapshots.keep_worst(tmp_path, offered[4], max_snapshots=3)
    assert sorted(tmp_path.iterdir()) == before
    assert snapshots.read_worst(tmp_path)[0].tre_mm == pytest.approx(40.0)


def test_without_a_truth_the_disagreement_counts():
    result = made_up_result(0, 1.0, truth=False)
    assert snapshots.error_or_disagreement(result, "learnt") == pytest.approx(0.0, abs=1e-6)
    levels = result.levels["learnt"]
    half = levels._replace(inlier_weight=levels.inlier_weight / 2)
    disagreeing = result._replace(levels={"learnt": half})
    assert snapshots.error_or_disagreement(disagreeing, "learnt") == pytest.approx(0.5)


def test_a_snapshot_comes_back_from_its_file(tmp_path):
    result = made_up_result(0, 4.0, case_id=SCRIPT_ID)
    snapshot = snapshots.make_snapshot(result, "learnt")
    assert len(snapshot.points) == result.cloud.valid.sum()
    np.testing.assert_array_equal(snapshot.weights > 0.5, snapshot.points[:, 2] < 400)
    assert (snapshot.overlay[12, 16] != 90).all() and (snapshot.overlay[0, 0] == 90).all()
    path = tmp_path / "views" / "00.npz"
    snapshots.write_snapshot(snapshot, path)
    again = snapshots.read_snapshot(path)
    assert again.id == SCRIPT_ID and again.tre_mm == pytest.approx(4.0)
    for name in ("points", "weights", "overlay"):
        np.testing.assert_array_equal(getattr(again, name), getattr(snapshot, name))
    np.testing.assert_allclose(again.colors, snapshot.colors, atol=1 / 255)
    for name in ("L1", "L2"):
        vertices = snapshot.surfaces[name].vertices
        np.testing.assert_allclose(again.surfaces[name].vertices, vertices)
        np.testing.assert_array_equal(again.poses[name].translation, [4, 0, 400])
        np.testing.assert_array_equal(again.truth[name].translation, [0, 0, 400])
    np.testing.assert_allclose(
        snapshots.true_targets(again), TARGETS + np.array([0, 0, 400]), atol=1e-4
    )


def test_a_snapshot_of_a_cloud_without_truth_comes_back(tmp_path):
    path = tmp_path / "views" / "00.npz"
    result = made_up_result(1, 4.0, truth=False)
    result = result._replace(case=replace(result.case, image=None))
    snapshots.write_snapshot(snapshots.make_snapshot(result, "learnt"), path)
    again = snapshots.read_snapshot(path)
    assert again.overlay is None and again.tre_mm is None
    assert not again.truth and not again.targets
    path.write_bytes(b"not a snapshot")
    with pytest.raises(ValueError, match=r"00\.npz: is not a snapshot"):
        snapshots.read_snapshot(path)


def test_the_keys_of_a_file_stay(tmp_path):
    """Snapshots of earlier versions stay readable."""
    path = tmp_path / "00.npz"
    snapshots.write_snapshot(snapshots.make_snapshot(made_up_result(0, 4.0), "learnt"), path)
    keys = {"id", "points", "weights", "colours", "levels", "scored", "tre_mm", "doubt", "picture"}
    keys |= {"R trajectory", "t trajectory", "targets L1"}
    for level in ("L1", "L2"):
        keys |= {f"vertices {level}", f"faces {level}", f"R found {level}", f"t found {level}"}
        keys |= {f"R truth {level}", f"t truth {level}"}
    with np.load(path) as file:
        assert set(file.files) == keys


def test_poses_by_step_and_distances():
    snapshot = snapshots.make_snapshot(made_up_result(0, 4.0), "learnt")
    steps = snapshots.poses_by_step(snapshot)
    assert [float(step["L1"].translation[0]) for step in steps] == [13, 10, 7, 4, 4]
    points = np.array([[4.0, 0, 350], [4, 0, 400], [104, 0, 400]], np.float32)
    distances = snapshots.distance_to_model(points, snapshot.surfaces, steps[-1])
    np.testing.assert_allclose(distances, [30, 20, 80], atol=1.0)  # the ball has many facets
