"""Calibration cases: foreign models and cloths."""

from dataclasses import replace

import numpy as np

from e2r.evaluation.calibration_cases import with_cloths, with_foreign_models


def test_every_fourth_frame_has_the_model_of_the_specimen_before(simulated_cases):
    first = [replace(simulated_cases[0], id=f"a{k}", source="a") for k in range(3)]
    second = [replace(simulated_cases[1], id=f"b{k}", source="b") for k in range(5)]
    made = list(with_foreign_models(first + second, 4))
    assert [one.case.id for one in made] == [case.id for case in first + second]
    assert [one.case.id for one in made if one.foreign] == ["b0", "b4"]
    for one in made:
        assert (one.case.truth is None) == one.foreign
        expected = first[0].model if one.foreign or one.case.source == "a" else second[0].model
        assert one.case.model is expected
    assert not any(one.foreign for one in with_foreign_models(first + second, 0))


def test_every_third_frame_lies_under_a_cloth(simulated_cases):
    cases = [replace(simulated_cases[k % 2], id=f"c{k}") for k in range(6)]
    covered = list(with_cloths(cases, 3, seed=0))
    for number, (before, after) in enumerate(zip(cases, covered, strict=True)):
        if number % 3 != 2:
            assert after is before
            continue
        assert after.id == before.id
        hidden = 1.0 - after.bone.sum() / before.bone.sum()
        assert 0.0 <= hidden <= 0.65
        assert np.any(after.points != before.points)
    again = list(with_cloths(cases, 3, seed=0))
    np.testing.assert_array_equal(again[2].points, covered[2].points)
    assert [*with_cloths(cases, 0, seed=0)] == cases
