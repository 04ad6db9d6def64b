"""A calibration from its command line to its file."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from e2r.evaluation import calibration_fit
from e2r.evaluation.calibration import load_calibration
from e2r.simulation.simulator import SimulationConfig
from experiments import calibrate


@pytest.mark.slow
def test_an_untrained_network_cannot_be_calibrated_but_hypotheses_can(
    checkpoint, simulated_cases, tmp_path, capsys, monkeypatch
):
    run = shutil.copytree(checkpoint, tmp_path / "run")
    arguments = ["--checkpoint", str(run), "--specimens", "1", "--frames", "2"]
    monkeypatch.setattr(calibrate.simulator, "held_out_cases", lambda *_, **__: simulated_cases[:2])
    monkeypatch.setattr(calibration_fit, "SUCCESS_THRESHOLD_MM", 0.0)
    assert calibrate.main(arguments) == 2
    assert "train the network first" in capsys.readouterr().err
    assert load_calibration(run) is None
    monkeypatch.setattr(calibration_fit, "SUCCESS_THRESHOLD_MM", 1e4)
    assert calibrate.main(arguments) == 0
    assert load_calibration(run).cases == 2


def test_every_fourth_frame_has_the_model_of_the_specimen_before(simulated_cases):
    first = [replace(simulated_cases[0], id=f"a{k}", source="a") for k in range(3)]
    second = [replace(simulated_cases[1], id=f"b{k}", source="b") for k in range(5)]
    made = list(calibrate.with_foreign_models(first + second, 4))
    assert [one.case.id for one in made] == [case.id for case in first + second]
    assert [one.case.id for one in made if one.foreign] == ["b0", "b4"]
    for one in made:
        assert (one.case.truth is None) == one.foreign
        expected = first[0].model if one.foreign or one.case.source == "a" else second[0].model
        assert one.case.model is expected
    assert not any(one.foreign for one in calibrate.with_foreign_models(first + second, 0))


def test_every_third_frame_lies_under_a_cloth(simulated_cases):
    cases = [replace(simulated_cases[k % 2], id=f"c{k}") for k in range(6)]
    covered = list(calibrate.with_cloths(cases, 3, seed=0))
    for number, (before, after) in enumerate(zip(cases, covered, strict=True)):
        if number % 3 != 2:
            assert after is before
            continue
        assert after.id == before.id
        hidden = 1.0 - after.bone.sum() / before.bone.sum()
        assert 0.0 <= hidden <= 0.65
        assert np.any(after.points != before.points)
    again = list(calibrate.with_cloths(cases, 3, seed=0))
    np.testing.assert_array_equal(again[2].points, covered[2].points)
    assert [*calibrate.with_cloths(cases, 0, seed=0)] == cases


def test_half_of_the_specimens_are_seen_without_variety(monkeypatch):
    asked = []

    def held_out_cases(settings, *, specimens, seed, **_):
        asked.append((settings.variety, specimens, seed))
        return iter(())

    monkeypatch.setattr(calibrate.simulator, "held_out_cases", held_out_cases)
    options = calibrate.Calibrate(Path("run"), specimens=7, seed=4)
    varied = SimulationConfig(variety=("light", "paint"))
    assert [*calibrate.simulated_cases(options, varied)] == []
    assert asked == [(("light", "paint"), 4, 4), ((), 3, 5)]
    for options_, settings, expected in (
        (options, SimulationConfig(), [((), 7, 4)]),
        (replace(options, plain_every=0), varied, [(("light", "paint"), 7, 4)]),
        (replace(options, plain_every=1), varied, [((), 7, 5)]),
    ):
        asked.clear()
        assert [*calibrate.simulated_cases(options_, settings)] == []
        assert asked == expected
