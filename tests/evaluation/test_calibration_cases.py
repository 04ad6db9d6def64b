"""Calibration cases: foreign models and cloths."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from e2r.evaluation import calibration_cases
from e2r.evaluation.calibration_cases import with_cloths, with_foreign_models
from e2r.evaluation.models import read_model


def test_every_fourth_frame_has_the_model_of_the_specimen_before(simulated_cases):
    first = [replace(simulated_cases[0], id=f"a{k}", source="a") for k in range(3)]
    second = [replace(simulated_cases[1], id=f"b{k}", source="b") for k in range(5)]
    made = list(with_foreign_models(first + second, 4))
    assert [one.id for one in made] == [case.id for case in first + second]
    assert [one.id for one in made if one.truth is None] == ["b0", "b4"]
    for one in made:
        foreign = one.truth is None
        expected = first[0].model if foreign or one.source == "a" else second[0].model
        assert one.model is expected
    assert all(one.truth is not None for one in with_foreign_models(first + second, 0))


def test_a_case_is_foreign_by_itself_and_not_by_its_id(checkpoint, simulated_cases, monkeypatch):
    right = simulated_cases[0]
    strange = replace(right, model=simulated_cases[1].model, truth=None)
    seen = []
    monkeypatch.setattr(calibration_cases, "Registered", SimpleNamespace)
    monkeypatch.setattr(
        calibration_cases.runner,
        "run",
        lambda cases, *_, **__: (SimpleNamespace(case=case) for case in cases),
    )
    monkeypatch.setattr(
        calibration_cases, "fitted_case", lambda _, *, foreign: seen.append(foreign)
    )
    list(calibration_cases.register_cases([strange, right], read_model(checkpoint)))
    assert seen == [True, False]


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
