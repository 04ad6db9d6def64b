"""``e2r export``: own poses only, accepted ones unless asked for, and a folder that says so."""

import json

import numpy as np
import pytest
import SimpleITK
import trimesh
from conftest import refused
from small_cases import prediction_line, small_case, write_lines

from e2r.cli import main
from e2r.datasets import case_folder
from e2r.formats import mesh_space


def run_export(*arguments):
    return main(["export", *map(str, arguments)])


@pytest.fixture
def patients(tmp_path, monkeypatch):
    """Two patients' folders with one id, and a file of predictions, in the folder of the work."""
    monkeypatch.chdir(tmp_path)
    cases = {}
    for number, name in enumerate(("patientA", "patientB")):
        folder = tmp_path / name / "frame1"
        case_folder.write_case(small_case("frame1", seed=number), folder)
        cases[folder] = case_folder.read_case(folder)
    lines = [prediction_line(case, 144.0 * i) for i, case in enumerate(cases.values())]
    write_lines(tmp_path / "predictions.jsonl", *lines)
    return cases


def exported_x(folder):
    return {float(np.loadtxt(path)[0, 3]) for path in folder.glob("L*.txt")}


def glb_document(path):
    content = path.read_bytes()
    return json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])


def test_each_patient_gets_its_own_pose(patients, tmp_path, capsys):
    for number, folder in enumerate(patients):
        out = tmp_path / f"out{number}"
        assert run_export(folder, "--output", out) == 0
        assert "accepted, expected TRE 0.8 mm" in capsys.readouterr().out
        assert exported_x(out) == {144.0 * number}
        record = json.loads((out / "export.json").read_text())
        case = patients[folder]
        assert record["case"] == "frame1" and record["accepted"] is True
        assert record["case_digest"] == prediction_line(case)["case_digest"]
        assert record["expected_tre_mm"] == 0.8
        assert {*record["files"], "export.json"} == {path.name for path in out.iterdir()}
        assert not any("see the manual" in what for what in record["files"].values())


def test_a_foreign_prediction_is_refused(patients, tmp_path, capsys):
    own, other = patients.values()
    folder = next(iter(patients))
    write_lines(tmp_path / "predictions.jsonl", prediction_line(other, 144.0))
    refused(capsys, "of another case of this id", "export", folder, "--output", "out")
    write_lines(tmp_path / "predictions.jsonl", {**prediction_line(own), "case_digest": None})
    refused(capsys, "register it again", "export", folder, "--output", "out")
    (tmp_path / "predictions.jsonl").unlink()
    refused(capsys, "no such file", "export", folder, "--output", "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("accepted", [False, None, "yes", "missing"])
def test_a_pose_that_was_not_accepted_is_exported_on_demand_only(
    accepted, patients, tmp_path, capsys
):
    folder, case = next(iter(patients.items()))
    line = prediction_line(case, 3.0, accepted=False) | {"accepted": accepted}
    if accepted == "missing":
        del line["accepted"]
    write_lines(tmp_path / "predictions.jsonl", line)
    refused(capsys, "was not accepted", "export", folder, "--output", "out")
    assert not (tmp_path / "out").exists()
    out = tmp_path / "out"
    assert (
        run_export(folder, "--output", out, "--unaccepted", "--surfaces", "ply", "stl", "glb") == 0
    )
    assert "not accepted, expected TRE 31.0 mm" in capsys.readouterr().out
    record = json.loads((out / "export.json").read_text())
    assert record["accepted"] is False and record["expected_tre_mm"] == 31.0
    warned = {path.name for path in out.iterdir() if b"NOT ACCEPTED" in path.read_bytes()}
    assert warned == {*record["files"]} >= {"L1.txt", "L1.stl", "L1.ply", "levels.glb"}
    # Other programs read them as before.
    assert exported_x(out) == {3.0}
    read = SimpleITK.ReadTransform(str(out / "L1.tfm"))
    assert read.TransformPoint((0.0, 0.0, 0.0)) == pytest.approx((-3.0, 0.0, 400.0))
    back = SimpleITK.ReadTransform(str(out / "L1_slicer.tfm"))
    assert back.TransformPoint((-3.0, 0.0, 400.0)) == pytest.approx((0.0, 0.0, 0.0))
    surface, same = trimesh.load(out / "L1.ply"), trimesh.load(out / "L1.stl")
    np.testing.assert_allclose(surface.bounds, same.bounds, atol=1e-3)
    assert mesh_space.declared_space((out / "L1.stl").read_bytes(), ".stl") == "RAS"
    assert mesh_space.declared_space((out / "L1.ply").read_bytes(), ".ply") == "RAS"
    scene = trimesh.load_scene(out / "levels.glb")
    np.testing.assert_allclose(1000.0 * scene.geometry["L1"].bounds, same.bounds, atol=1e-3)
    extras = glb_document(out / "levels.glb")["asset"]["extras"]
    assert extras["unit"] == "m" and extras["warning"].startswith("NOT ACCEPTED: the pose of")
    (markup,) = json.loads((out / "targets.mrk.json").read_text())["markups"]
    assert all("NOT ACCEPTED" in point["description"] for point in markup["controlPoints"])


def test_files_of_an_accepted_pose_hold_no_warning(patients, tmp_path):
    assert run_export(next(iter(patients)), "--output", tmp_path / "out") == 0
    assert not any(b"NOT ACC" in path.read_bytes() for path in (tmp_path / "out").iterdir())


def test_a_level_that_is_not_seen_is_marked(patients, tmp_path, capsys):
    folder, case = next(iter(patients.items()))
    line = prediction_line(case)
    first, *others = case.model
    line["levels"][first] = {"points": 0.0, "expected_tre_mm": None, "bound95_mm": None}
    write_lines(tmp_path / "predictions.jsonl", line)
    out = tmp_path / "out"
    assert run_export(folder, "--output", out, "--surfaces", "ply", "stl", "glb") == 0
    said = capsys.readouterr()
    assert f"accepted, expected TRE 0.8 mm, without {first})" in said.out
    record = json.loads((out / "export.json").read_text())
    assert record["not_seen"] == [first] and record["bound95_mm"] == 2.1
    for path in out.iterdir():
        marked = b"NOT SEEN" in path.read_bytes()
        own = path.name.startswith((f"{first}.", f"{first}_"))
        if path.name != "export.json":
            assert marked == (own or not path.name.startswith(tuple(others))), path.name


def test_surfaces_that_say_no_axes_are_told(patients, tmp_path, capsys):
    folder = next(iter(patients))
    assert run_export(folder, "--output", tmp_path / "a") == 0
    assert "SPACE=RAS" not in capsys.readouterr().err
    path = sorted((folder / "model").iterdir())[0]
    content = bytearray(path.read_bytes())
    content[:80] = bytes(80)
    path.write_bytes(content)
    assert run_export(folder, "--output", tmp_path / "b") == 0
    assert f"{path.name}: does not say SPACE=RAS" in capsys.readouterr().err


def test_an_export_replaces_the_one_before_and_nothing_else(patients, tmp_path, capsys):
    first, second = patients
    case = small_case("frame1", seed=7, levels=("L2", "L3"))
    case_folder.write_case(case, second)
    write_lines(
        tmp_path / "predictions.jsonl",
        prediction_line(patients[first]),
        prediction_line(case_folder.read_case(second), 9.0),
    )
    out = tmp_path / "out"
    assert run_export(first, "--output", out, "--surfaces", "stl", "glb") == 0
    (out / "notes.txt").write_text("mine")
    assert run_export(second, "--output", out) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {"notes.txt", "export.json", "targets.mrk.json"} | {
        f"{level}{end}" for level in ("L2", "L3") for end in (".txt", ".tfm", "_slicer.tfm", ".ply")
    }
    assert exported_x(out) == {9.0}
    (out / "export.json").unlink()  # as an older e2r left it
    refused(capsys, "L3_slicer.tfm of an older export", "export", first, "--output", out)


@pytest.mark.parametrize(
    "words", [["patientA/frame1", "patientB/frame1"], ["patient*/frame*"], ["patient[AB]/*"]]
)
def test_each_of_several_cases_gets_a_folder(words, patients, tmp_path):
    assert run_export(*words, "--output", "out") == 0
    assert exported_x(tmp_path / "out" / "patientA" / "frame1") == {0.0}
    assert exported_x(tmp_path / "out" / "patientB" / "frame1") == {144.0}


def test_one_of_several_cases_is_refused_and_the_rest_goes_on(patients, tmp_path, capsys):
    write_lines(tmp_path / "predictions.jsonl", prediction_line(list(patients.values())[1], 5.0))
    assert run_export("patientA", "patientB", "nowhere", "--output", "out") == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 3 and "of another case" in err[0] and "nowhere: no such" in err[1]
    assert "2 of 3 cases were refused" in err[2]
    assert [path.name for path in (tmp_path / "out").rglob("L1.tfm")] == ["L1.tfm"]


def test_broken_lines_are_refused(patients, tmp_path, capsys):
    folder, case = next(iter(patients.items()))
    path, line = tmp_path / "predictions.jsonl", prediction_line(case)
    mirrored = {name: np.diag([1, 1, -1, 1]).tolist() for name in case.model}
    for text, message in (
        ("{", "line 1 is not JSON"),
        ('{"id": "x"}', "no prediction of"),
        (json.dumps(prediction_line(case, error="lost")), "has no poses (lost)"),
        (json.dumps({**line, "T_camera_model": {"L1": np.eye(4).tolist()}}), "no pose of"),
        (json.dumps({**line, "T_camera_model": mirrored}), "predictions.jsonl"),
    ):
        path.write_text(text)
        refused(capsys, message, "export", folder, "--output", "out")
