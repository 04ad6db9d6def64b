"""The mistakes of the study of causes do what they say, and the studies of frames count rightly."""

from dataclasses import replace

import numpy as np
import pytest
from small_cases import small_case

from e2r.datasets import case_folder
from e2r.evaluation import level_scores
from experiments.studies import causes, size_guard, visible_levels


def made(case, name):
    return causes.MISTAKES[name].make(case, np.random.default_rng(3))


def test_a_wrong_model_is_mirrored_or_of_another_size(simulated_cases):
    case = simulated_cases[0]
    mirrored, large = made(case, "mirrored"), made(case, "size 1.1")
    for name, mesh in case.model.items():
        vertices = np.asarray(mesh.vertices)
        np.testing.assert_allclose(mirrored.model[name].vertices, vertices * [-1, 1, 1])
        assert mirrored.model[name].volume == pytest.approx(mesh.volume)  # normals stay outside
        np.testing.assert_allclose(large.model[name].vertices, 1.1 * vertices)


def test_wrong_focal_lengths_move_points_and_truth_alike(simulated_cases):
    case, mistake = simulated_cases[0], causes.MISTAKES["focal length 0.85"]
    changed = made(case, "focal length 0.85")
    np.testing.assert_allclose(changed.points, mistake.moved(case.points))
    np.testing.assert_allclose(changed.points[:, 2], case.points[:, 2])


def test_covered_bone_leaves_a_patch_and_a_drape_leaves_nothing(simulated_cases):
    case = simulated_cases[0]
    covered = made(case, "little bone")
    seen = case.image.depth > 0
    bone = np.zeros(seen.shape, bool)
    bone[seen] = case.bone
    same = (covered.image.color == case.image.color).all(-1) & bone
    assert 0.02 < same.sum() / bone.sum() < 0.15
    np.testing.assert_array_equal(covered.image.color[~bone], case.image.color[~bone])
    drape = made(case, "no wound")
    assert drape.truth is None and np.ptp(drape.points[:, 2]) < 60.0


def test_causes_are_counted_by_mistake():
    row = {"mistake": "mirrored", "accepted": False, "named": "size", "worst_level_mm": 9.0}
    rows = [row, row | {"named": None}, row | {"accepted": True}]
    columns, table = causes.count_causes(rows)
    found = dict(zip(columns, next(line for line in table if line[0] == "mirrored"), strict=True))
    assert (found["cases"], found["accepted"], found["of these 5 mm off"]) == (3, 1, 1)
    assert (found["size"], found["mirrored"], found["no cause"]) == (1, 0, 1)


def test_limits_of_the_size_are_counted():
    row = {"without_check": True, "lateral": 1.01, "worst_level_mm": 1.0, "mirror_gain": -0.15}
    rows = [row, row | {"lateral": 1.09}, row | {"lateral": 0.9, "worst_level_mm": 8.0}]
    _, table = size_guard.count_limits([*rows, row | {"without_check": False}])
    assert table[0] == ["none", "", 4, 3, 2, 0, 0]
    assert ["size", "0.06", 4, 1, 1, 1, 1] in table
    assert ["mirror image", "-0.2", 4, 0, 0, 2, 1] in table
    assert ["mirror image", "0.05", 4, 3, 2, 0, 0] in table


def level(tre, expected=1.0, bound=3.0):
    return {"tre_mm": tre, "expected_tre_mm": expected, "bound95_mm": bound}


def test_visible_levels_are_counted_one_by_one_and_by_posture():
    frame = {"arm": "as it is", "moved": False, "accepted": True}
    rows = [
        frame | {"id": "a", "levels": {"L1": level(0.6), "L2": level(1.8)}},
        frame | {"id": "b", "levels": {"L1": level(2.5), "L2": level(7.0)}},
        frame | {"id": "c", "levels": {"L1": level(90.0)}, "accepted": False},
        frame | {"id": "d", "levels": {"L1": level(1.0, None, None)}, "moved": True},
    ]
    columns, table = visible_levels.tabulate(rows)
    still, moved = (dict(zip(columns, row, strict=True)) for row in table)
    assert (still["frames"], still["levels"], still["median TRE (mm)"]) == (3, 5, 2.5)
    assert (still["< 2 mm (%)"], still["< 5 mm (%)"]) == (40.0, 60.0)
    assert still["accepted (%)"] == 66.7
    assert still["a level 5 mm off, of these (%)"] == 50.0
    assert still["bound holds (%)"] == 75.0
    assert still["expected within a factor of 2 (%)"] == 50.0
    assert moved["posture"] == "moved" and moved["bound holds (%)"] is None


def test_levels_that_moved_are_told_from_the_posture_of_the_scan(simulated_cases):
    case = simulated_cases[0]
    assert not level_scores.has_moved(case)
    bent = dict(case.truth)
    bent["L3"] = bent["L3"]._replace(translation=bent["L3"].translation + np.float32(1.0))
    assert level_scores.has_moved(replace(case, truth=bent))


def test_a_case_without_truth_is_named_before_the_work(tmp_path, capsys):
    case_folder.write_case(small_case(truth=False), tmp_path / "cases" / "bare")
    arguments = ["--cases", str(tmp_path / "cases"), "--output", str(tmp_path / "out")]
    assert visible_levels.main(arguments) == 2
    assert "bare: has no truth.json to be scored by; leave the case out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_arm_is_named(tmp_path, capsys):
    arguments = ["--cases", str(tmp_path), "--output", str(tmp_path / "out"), "--arms", "both"]
    assert visible_levels.main(arguments) == 2
    assert "--arms 'both': use some of as it is, one look" in capsys.readouterr().err
