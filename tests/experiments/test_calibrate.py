"""A calibration from its command line to its file."""

import shutil
from dataclasses import replace
from pathlib import Path

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
    own, other = simulated_cases[:2]
    found = [own, replace(other, truth=None, targets=None)]  # as with another specimen's model
    arguments = ["--checkpoint", str(run), "--specimens", "1", "--frames", "2"]
    monkeypatch.setattr(calibrate.simulator, "held_out_cases", lambda *_, **__: found)
    monkeypatch.setattr(calibration_fit, "SUCCESS_THRESHOLD_MM", 0.0)
    assert calibrate.main(arguments) == 2
    assert "train the network first" in capsys.readouterr().err
    assert load_calibration(run) is None
    monkeypatch.setattr(calibration_fit, "SUCCESS_THRESHOLD_MM", 1e4)
    assert calibrate.main(arguments) == 0
    assert load_calibration(run).cases == 2


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
