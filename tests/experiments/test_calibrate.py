"""A calibration from its command line to its file."""

import shutil
from dataclasses import replace

import pytest

from e2r.evaluation import calibration
from e2r.evaluation.calibration import load_calibration
from experiments import calibrate


@pytest.mark.slow
def test_an_untrained_network_cannot_be_calibrated_but_hypotheses_can(
    checkpoint, simulated_cases, tmp_path, capsys, monkeypatch
):
    run = shutil.copytree(checkpoint, tmp_path / "run")
    arguments = ["--checkpoint", str(run), "--specimens", "1", "--frames", "2"]
    monkeypatch.setattr(calibrate.simulator, "held_out_cases", lambda *_, **__: simulated_cases[:2])
    monkeypatch.setattr(calibration, "SUCCESS_THRESHOLD_MM", 0.0)
    assert calibrate.main(arguments) == 2
    assert "train the network first" in capsys.readouterr().err
    assert load_calibration(run) is None
    monkeypatch.setattr(calibration, "SUCCESS_THRESHOLD_MM", 1e4)
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
