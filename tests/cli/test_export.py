"""``e2r export`` on good and broken files of predictions."""

import json

import numpy as np

from e2r.cli import main
from e2r.geometry import poses


def run_export(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["e2r", "export", *map(str, arguments)])
    return main()


def test_the_last_prediction_of_a_case_is_exported(
    simulated_cases, data_set, tmp_path, capsys, monkeypatch
):
    case = simulated_cases[0]
    path = tmp_path / "predictions.jsonl"
    lines = [{"id": "other", "T_camera_model": {}}]
    for shift in (9.0, 0.0):  # the last one counts
        matrices = {}
        for name, pose in case.truth.items():
            matrix = poses.to_matrix(pose)
            matrix[0, 3] += shift
            matrices[name] = matrix.tolist()
        lines.append({"id": case.id, "T_camera_model": matrices})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = (data_set / case.id, "--predictions", path, "--output", tmp_path / "out")
    assert run_export(monkeypatch, *arguments) == 0
    name = next(iter(case.model))
    assert f"{name}.tfm" in capsys.readouterr().out
    found = np.loadtxt(tmp_path / "out" / f"{name}.txt")
    np.testing.assert_allclose(found, poses.to_matrix(case.truth[name]), atol=1e-4)
    for text, message in (
        ("{", "line 1 is not JSON"),
        ('{"id": "x"}', "no prediction of"),
        (json.dumps({"id": case.id, "T_camera_model": {}, "error": "lost"}), "has no poses (lost)"),
        (json.dumps({"id": case.id, "T_camera_model": {name: np.eye(4).tolist()}}), "no pose of"),
        (
            json.dumps({"id": case.id, "T_camera_model": {name: np.diag([1, 1, -1, 1]).tolist()}}),
            "predictions.jsonl",
        ),
    ):
        path.write_text(text)
        assert run_export(monkeypatch, *arguments) == 2
        assert message in capsys.readouterr().err
    path.unlink()
    assert run_export(monkeypatch, *arguments) == 2
    assert "no such file" in capsys.readouterr().err
