"""A calibration from its command line to its file."""

import shutil

import pytest

from e2r.evaluation.calibration import load_calibration
from experiments import calibrate


@pytest.mark.slow
def test_an_untrained_network_cannot_be_calibrated_but_hypotheses_can(
    checkpoint, simulated_cases, tmp_path, capsys, monkeypatch
):
    run = shutil.copytree(checkpoint, tmp_path / "run")
    arguments = ["--checkpoint", str(run), "--specimens", "1", "--frames", "2"]
    monkeypatch.setattr(calibrate.simulator, "held_out_cases", lambda *_, **__: simulated_cases[:2])
    monkeypatch.setattr(calibrate, "SUCCESS_THRESHOLD_MM", 0.0)
    assert calibrate.main(arguments) == 2
    assert "train the network first" in capsys.readouterr().err
    assert load_calibration(run) is None
    monkeypatch.setattr(calibrate, "SUCCESS_THRESHOLD_MM", 1e4)
    assert calibrate.main(arguments) == 0
    assert load_calibration(run).cases == 2
