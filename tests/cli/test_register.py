"""``e2r register`` and ``e2r view`` on one case, good and broken."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets.test_case_folder import BROKEN

from e2r.cli import register, view
from e2r.cli.errors import run_command
from e2r.config import EvaluationConfig
from e2r.pipeline import ProgramConfig
from e2r.visualisation import snapshots, viewer


def test_register_prints_poses_and_writes_one_line(checkpoint, data_set, tmp_path, capsys):
    path = sorted(data_set.iterdir())[0]
    output = tmp_path / "p.jsonl"
    truth = EvaluationConfig(start="truth", batch=1)
    assert register.run(register.Options(path, checkpoint, output, job=truth)) == 0
    shown = capsys.readouterr().out
    assert "L3  T_camera_model =" in shown
    assert "TRE against truth.json" in shown
    assert (path / "model" / "surface.npz").is_file()  # for the next frame of this patient
    (line,) = output.read_text().splitlines()
    assert json.loads(line)["id"] == path.name
    # The prediction file holds the initial pose of another registration.
    output.write_text(line)
    given, again = EvaluationConfig(start=str(output), batch=1), tmp_path / "q.jsonl"
    assert register.run(register.Options(path, checkpoint, again, job=given)) == 0
    assert len(again.read_text().splitlines()) == 1


@pytest.mark.slow
def test_view_registers_a_case(checkpoint, data_set, monkeypatch):
    shown = []
    monkeypatch.setattr(viewer, "serve", lambda found, **_: shown.extend(found))
    path = sorted(data_set.iterdir())[1]
    assert view.run(view.Options(path, checkpoint, port=0)) == 0
    (snapshot,) = shown
    assert snapshot.id == path.name and np.isfinite(snapshot.tre_mm)
    x = [float(step["L3"].translation[0]) for step in snapshots.poses_by_step(snapshot)]
    assert len(x) == ProgramConfig().schedule.steps + 1
    assert len(set(x)) > 5  # the steps differ


@pytest.mark.parametrize(
    "name", ["mirrored", "scaled", "empty", "NaN", "cloud in metres", "no colour", "gone"]
)
def test_register_refuses_broken_cases_in_one_sentence(
    name, checkpoint, data_set, tmp_path, capsys
):
    copy = Path(shutil.copytree(sorted(data_set.iterdir())[0], tmp_path / "copy"))
    spoil, words = BROKEN[name]
    spoil(copy)
    options = register.Options(copy, checkpoint, tmp_path / "p.jsonl")
    assert run_command(lambda: register.run(options)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(words, line)
    assert not (tmp_path / "p.jsonl").exists()
