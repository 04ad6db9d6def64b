"""Two jobs are compared case by case, in any order."""

import json

import numpy as np

from e2r.evaluation.job_poses import pose_difference, read_poses


def write(folder, shifts):
    folder.mkdir()
    lines = []
    for name, shift in shifts.items():
        matrix = np.eye(4)
        matrix[0, 3] = shift
        lines.append(json.dumps({"id": name, "T_camera_model": {"L1": matrix.tolist()}}))
    (folder / "predictions.jsonl").write_text("\n".join(lines) + "\n")
    return read_poses(folder)


def test_the_largest_difference_counts_whatever_the_order(tmp_path):
    first = write(tmp_path / "a", {"x": 1.0, "y": 2.0})
    assert pose_difference(first, write(tmp_path / "b", {"y": 2.5, "x": 1.0})) == 0.5


def test_jobs_of_other_cases_differ_without_bound(tmp_path):
    first = write(tmp_path / "a", {"x": 1.0, "y": 2.0})
    assert pose_difference(first, write(tmp_path / "b", {"x": 1.0})) == np.inf
    assert pose_difference(first[:1] * 2, first[:1] * 2) == np.inf
    assert pose_difference([("x", {})], [("x", {})]) == 0.0
