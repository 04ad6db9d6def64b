"""The benchmarks of speed, at their smallest."""

import json

import pytest

from e2r.evaluation.benchmark import Timing
from experiments.benchmarks import registration, speed

KEYS = {"name", "ours_ms", "peer", "peer_ms", "ratio", "ours_tre_mm", "peer_tre_mm"}


def test_rotations_are_timed_beside_the_svd(tmp_path):
    path = tmp_path / "speed.json"
    assert speed.main(["--parts", "rotation", "--repeats", "1", "--output", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert {"8,192 rotations", "8,192 rotations, gradient"} == {row["name"] for row in rows}
    for row in rows:
        assert set(row) == KEYS
        assert row["ratio"] == pytest.approx(row["peer_ms"] / row["ours_ms"])


@pytest.mark.slow
def test_registrations_are_timed_and_the_model_is_named(tmp_path, capsys):
    path = tmp_path / "registration.json"
    assert registration.main(["--repeats", "1", "--output", str(path)]) == 0
    record = json.loads(path.read_text())
    assert record["model"] == "simulated spine"
    assert "model: simulated spine" in capsys.readouterr().out
    assert len(record["rows"]) >= 6
    for row in record["rows"]:
        assert set(row) == KEYS and row["ours_ms"] > 0
        assert row["ours_tre_mm"] < 0.2


def test_a_missing_anatomy_is_refused_and_not_replaced(tmp_path, capsys):
    arguments = ["--anatomy", str(tmp_path / "none"), "--output", str(tmp_path / "out.json")]
    assert registration.main(arguments) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("command", [speed, registration])
def test_an_unknown_part_is_refused_in_one_sentence(command, capsys):
    assert command.main(["--parts", "rotations"]) == 2
    assert "--parts rotations: use some of" in capsys.readouterr().err


def test_the_fastest_setup_that_is_accurate_enough_is_shown():
    times = {"Open3D a": 5.0, "Open3D b": 9.0, "small_gicp a": 8.0, "small_gicp b": 3.0}
    tres = {"Open3D a": 0.3, "Open3D b": 0.02, "small_gicp a": 0.055, "small_gicp b": 0.056}
    best = registration.best_peers(times, tres, ours=0.02)
    assert best == ["Open3D b", "small_gicp b", "small_gicp b"]
    assert registration.best_peers({}, {}, ours=0.02) == []


def test_a_row_without_a_peer_has_no_ratio():
    assert Timing("task", 2.0).ratio is None
    assert Timing("task", 2.0, "peer", 5.0).ratio == 2.5
