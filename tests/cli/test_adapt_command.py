"""``e2r adapt`` from its words to its folder; careless words get one sentence."""

import shutil

import pytest

from e2r.cli import main
from e2r.formats import meshes

SMALL = ["--steps", "1", "--frames", "4", "--specimens", "0", "--held-out", "4", "--batch", "2"]


@pytest.fixture(scope="module")
def surfaces(simulated_cases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    meshes.write_meshes(simulated_cases[0].model, folder)
    return folder


def test_the_folder_registers_the_patients_frames(calibrated, data_set, surfaces, tmp_path, capsys):
    patient = tmp_path / "patient"
    words = ["adapt", str(surfaces), "--output", str(patient), "--checkpoint", str(calibrated)]
    assert main([*words, *SMALL]) == 0
    said = capsys.readouterr().out
    assert "both" in said and "give it to the other commands as --checkpoint" in said
    case = shutil.copytree(sorted(data_set.iterdir())[0], tmp_path / "case")
    words = ["register", str(case), "--checkpoint", str(patient)]
    assert main([*words, "--output", str(tmp_path / "p.jsonl")]) == 0
    assert (tmp_path / "p.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere", "--output", "out"], "nowhere: no such folder"),
        (["MODEL", "--output", "out", "--minutes", "-1"], "--minutes is -1"),
        (["MODEL", "--output", "out", "--steps", "100001"], "--steps is 100001; use at most"),
        (["MODEL", "--output", "out", "--camera", "lens.json"], "lens.json"),
        (["MODEL", "--output", "out", "--exposed", "L9"], "has no L9 to expose"),
        (["ONE", "--output", "out"], "at least two levels"),
    ],
)
def test_careless_words_get_one_sentence(
    words, sentence, surfaces, calibrated, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").mkdir()
    shutil.copy(next(surfaces.glob("*.*")), tmp_path / "one")
    places = {"MODEL": str(surfaces), "ONE": "one"}
    words = [places.get(word, word) for word in words]
    assert main(["adapt", *words, "--checkpoint", str(calibrated)]) == 2
    said = capsys.readouterr().err
    assert sentence in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()
