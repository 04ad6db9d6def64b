"""Other programs read what is written: SimpleITK the transforms, trimesh the surfaces."""

import json

import numpy as np
import pytest
import SimpleITK
import trimesh

from e2r.cli import commands
from e2r.evaluation import slicer
from e2r.geometry import poses

LPS = np.array([-1.0, -1.0, 1.0])


@pytest.fixture
def written(simulated_cases, tmp_path):
    case = simulated_cases[0]
    slicer.export_prediction(
        tmp_path, case.model, case.truth, case.targets, surfaces=("ply", "stl", "glb")
    )
    return case, tmp_path


def test_itk_maps_the_models_landmarks_onto_the_cameras(written):
    case, folder = written
    for name, mesh in case.model.items():
        read = SimpleITK.ReadTransform(str(folder / f"{name}.tfm"))
        back = SimpleITK.ReadTransform(str(folder / f"{name}_slicer.tfm"))
        for landmark in mesh.vertices[:: len(mesh.vertices) // 7]:
            goal = case.truth[name].rotation @ landmark + case.truth[name].translation
            found = LPS * read.TransformPoint((LPS * landmark).tolist())  # RAS in, RAS out
            np.testing.assert_allclose(found, goal, atol=1e-3)
            np.testing.assert_allclose(
                LPS * back.TransformPoint((LPS * goal).tolist()), landmark, atol=1e-3
            )


def test_text_surfaces_and_markups_agree(written):
    case, folder = written
    name = next(iter(case.targets))
    matrix = np.loadtxt(folder / f"{name}.txt")
    np.testing.assert_allclose(matrix, poses.to_matrix(case.truth[name]), atol=1e-5)
    moved = trimesh.transform_points(case.model[name].vertices, matrix)
    for kind in ("ply", "stl"):
        mesh = trimesh.load(folder / f"{name}.{kind}")
        np.testing.assert_allclose(mesh.bounds, [moved.min(0), moved.max(0)], atol=1e-3)
    assert set(trimesh.load(folder / "levels.glb").geometry) == set(case.model)
    (markup,) = json.loads((folder / "targets.mrk.json").read_text())["markups"]
    assert markup["coordinateSystem"] == "LPS"
    points = {p["label"]: LPS * p["position"] for p in markup["controlPoints"]}
    goal = trimesh.transform_points(case.targets[name], matrix)
    np.testing.assert_allclose(points[f"{name}-1"], goal[0], atol=1e-3)
    assert len(points) == sum(map(len, case.targets.values()))


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["e2r", "export", *map(str, arguments)])
    return commands.main()


def test_a_prediction_is_exported_from_the_command_line(
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
    assert run(monkeypatch, *arguments) == 0
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
        assert run(monkeypatch, *arguments) == 2
        assert message in capsys.readouterr().err
    path.unlink()
    assert run(monkeypatch, *arguments) == 2
    assert "no such file" in capsys.readouterr().err


def test_an_unknown_surface_gets_one_sentence(simulated_cases, tmp_path):
    case = simulated_cases[0]
    with pytest.raises(ValueError, match="--surfaces obj: use some of ply, stl, glb"):
        slicer.export_prediction(tmp_path, case.model, case.truth, surfaces=("obj",))
