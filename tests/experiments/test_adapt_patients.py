"""Several patients: each has a folder, and one that is refused does not end the others."""

import json

import pytest

from e2r.adaptation.report import Report
from e2r.evaluation.models import read_model
from e2r.formats import meshes
from experiments import adapt_patients

SMALL = ["--steps", "2", "--frames", "4", "--specimens", "1", "--held-out", "4", "--batch", "2"]


@pytest.mark.slow
def test_each_patient_has_a_model_and_a_refused_one_a_sentence(
    calibrated, simulated_cases, tmp_path, capsys
):
    meshes.write_meshes(simulated_cases[0].model, tmp_path / "models" / "ann")
    (tmp_path / "models" / "bob").mkdir()
    (tmp_path / "models" / "bob" / "L1.stl").write_bytes(b"no surface")
    words = ["--patients", tmp_path / "models", "--output", tmp_path / "out"]
    words = [*map(str, words), "--checkpoint", str(calibrated), *SMALL]
    assert adapt_patients.main(words) == 3
    said = capsys.readouterr()
    assert "e2r: bob: " in said.err and "Traceback" not in said.err
    ann, bob = json.loads((tmp_path / "out" / "patients.json").read_text())
    assert [row["model"] for row in ann["report"]["models"]] == ["base", "adapted", "both"]
    assert bob["error"] and not bob["report"]
    assert read_model(tmp_path / "out" / "ann").patient


def test_the_table_has_each_patient_and_all_with_their_intervals():
    def report(*errors):
        rows = [
            {"model": name, "median_tre_mm": 1.0, "interval_mm": [0.5, 2.0], "tre_mm": errors}
            for name in ("base", "adapted", "both")
        ]
        return Report(rows, (), steps=3, seconds=90.0, believed="base")

    one, two = (
        adapt_patients.Adapted("ann", report(1.0, 1.0)),
        adapt_patients.Adapted("eve", report(3.0)),
    )
    refused = adapt_patients.Adapted("bob", None, "no surface")
    lines = adapt_patients.results_table([one, refused, two]).splitlines()
    ann, bob, eve, both = lines[-4:]
    assert ann.split()[:5] == ["ann", "1.00", "(0.50", "to", "2.00)"]
    assert ann.split()[-2:] == ["base", "1.5"]
    assert set(bob.split()[1:]) == {"-"} and eve.startswith("eve")
    # Patients are drawn, not levels: ann or eve alone give the ends.
    assert both.split()[:5] == ["all", "1.00", "(1.00", "to", "3.00)"]


def test_a_report_of_an_older_build_is_named(tmp_path, capsys, monkeypatch):
    (tmp_path / "models" / "ann").mkdir(parents=True)
    (tmp_path / "out" / "ann").mkdir(parents=True)
    old = {"models": [{"model": "base", "median_tre_mm": 1.0}], "seconds": 9.0}
    (tmp_path / "out" / "ann" / "report.json").write_text(json.dumps(old))
    monkeypatch.setattr(adapt_patients, "load_model", lambda _: None)
    monkeypatch.setattr(adapt_patients, "adapt", lambda *_, **__: None)
    words = ["--patients", str(tmp_path / "models"), "--output", str(tmp_path / "out")]
    assert adapt_patients.main(words) == 3
    assert "report.json: is no report of this e2r; delete it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps", "0"], "--steps is 0"),
        (["--patients", "nowhere"], "nowhere: no such folder"),
        (["--patients", "."], "holds no folder"),
    ],
)
def test_what_cannot_be_is_refused(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--patients", "x", *words, "--output", str(tmp_path / "out")]
    assert adapt_patients.main(words) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
