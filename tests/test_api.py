"""The front door: public names, the five lines, and the README's code as it stands."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import TINY

import e2r
from e2r import cli
from e2r.visualisation import viewer

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"


def test_public_names_are_listed_and_importable():
    names = [name for name in dir(e2r) if not name.startswith("_")]
    assert 20 <= len(names) <= 40
    assert {"load_model", "read_case", "register", "view", "icp", "target_error"} <= set(names)
    for name in names:
        assert getattr(e2r, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        e2r.no_such_name  # noqa: B018


def test_importing_the_package_loads_neither_jax_nor_trimesh():
    assert loaded_by("e2r", ("jax", "trimesh", "flax")) == []


def test_registering_loads_nothing_of_training():
    assert loaded_by("e2r.cli.register", ("grain", "plotly", "viser")) == []


def loaded_by(module: str, names: tuple[str, ...]) -> list[str]:
    """Which of these modules an import loads, in a process of its own."""
    code = f"import sys, {module}; print(*sorted(set({names}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_case_is_registered_from_its_path(checkpoint, data_set, monkeypatch):
    folder = str(sorted(data_set.iterdir())[0])
    model = e2r.load_model(str(checkpoint))
    result = e2r.register(folder, model)
    case = e2r.read_case(folder)
    assert list(result.poses) == list(case.model)
    assert all(matrix.shape == (4, 4) for matrix in result.poses.values())
    assert result.tre_mm is not None and result.tre_mm > 0
    assert case.id in repr(result) and "accepted" in repr(result)
    assert (Path(folder) / "model" / "surface.npz").exists()  # the next frame starts at once
    again = e2r.register(case, model)
    for level, matrix in result.poses.items():
        np.testing.assert_array_equal(again.poses[level], matrix)
    shown = []
    monkeypatch.setattr(viewer, "serve", lambda snapshots, **_: shown.extend(snapshots))
    e2r.view(result, port=0)
    assert shown[0].id == case.id


QUICK = e2r.EvaluationConfig(
    program=e2r.ProgramConfig(num_samples=2, schedule=e2r.Schedule(steps=12)),
    start="truth",
    batch=2,
)


def test_cases_are_evaluated_in_memory(checkpoint, data_set, tmp_path):
    model = e2r.load_model(checkpoint)
    found = e2r.evaluate(str(data_set), model, masks=("all", "learnt"), job=QUICK)
    assert found.summary.cases == found.summary.predicted == 3 and found.summary.mask == "learnt"
    assert {len(predictions) for predictions in found.predictions.values()} == {3}
    assert [(row["mask"], row["tre_mm"] > 0) for row in found.rows] == 3 * [
        ("all", True),
        ("learnt", True),
    ]
    assert "learnt" in found.to_table() and "median TRE" in repr(found)
    assert found.summary.versions["e2r sources"]
    # A case that cannot be read does not stop the others; another estimator has other weights.
    folders = [*sorted(data_set.iterdir()), tmp_path / "nowhere"]
    hard = e2r.evaluate(folders, model, estimator="deterministic", job=QUICK)
    assert hard.summary.cases == 4 and hard.summary.failed == 1
    assert "no such folder" in str(hard.predictions["learnt"][3].error)
    assert hard.predictions["learnt"][3].id == str(tmp_path / "nowhere")
    soft = [row["tre_mm"] for row in found.rows if row["mask"] == "learnt"]
    assert [row["tre_mm"] for row in hard.rows][:3] != soft


def test_a_case_with_the_id_of_another_is_told_and_not_merged(checkpoint, data_set):
    first, second = sorted(data_set.iterdir())[:2]
    twin = replace(e2r.read_case(second), id=e2r.read_case(first).id)
    found = e2r.evaluate([first, twin], e2r.load_model(checkpoint), job=QUICK)
    assert (found.summary.cases, found.summary.failed, len(found.rows)) == (2, 1, 2)
    (said,) = [one.error for one in found.predictions["learnt"] if one.error]
    assert said == f"{twin.id}: another case has this id; give it its own"


def test_a_model_is_trained_resumed_and_watched_from_python(simulated_cases, tmp_path):
    lines: list[dict] = []
    config = replace(TINY, optimisation=replace(TINY.optimisation, checkpoint_every=4))

    class EnoughError(Exception):
        pass

    def stops(line):
        lines.append(line)
        if line["step"] == 4:
            raise EnoughError

    with pytest.raises(EnoughError):
        e2r.train(config, simulated_cases, output=str(tmp_path / "a"), on_log=stops, log_every=2)
    assert [line["step"] for line in lines] == [2, 4]
    model = e2r.train(
        config, simulated_cases, output=tmp_path / "a", on_log=lines.append, log_every=2
    )
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    whole = e2r.train(config, simulated_cases)  # keeps nothing
    jax.tree.map(np.testing.assert_array_equal, model.params, whole.params)
    assert model.calibration is None and model.config == config
    with pytest.raises(ValueError, match="source is"):
        e2r.train(config, simulated_cases[:2], output=tmp_path / "a")


def test_scenes_may_be_folders(data_set):
    folders = [str(folder) for folder in sorted(data_set.iterdir())[:2]]
    config = replace(TINY, optimisation=replace(TINY.optimisation, steps=1))
    assert e2r.train(config, iter(folders)).config == config


def test_wrong_paths_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        e2r.read_case("nowhere")
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        e2r.load_model("nowhere")


def test_wrong_types_are_refused_in_one_sentence():
    """In a process of its own: here, the tests' own type checks would come first."""
    code = """
import e2r
for call in (
    lambda: e2r.register("nowhere", "base"),
    lambda: e2r.make_example(3),
    lambda: e2r.train("demo"),
    lambda: e2r.evaluate("nowhere", None),
    lambda: e2r.evaluate([], e2r.Model(None, None), job=e2r.ProgramConfig()),
    lambda: e2r.register("nowhere", e2r.Model(None, None), job=e2r.Schedule()),
):
    try:
        call()
    except TypeError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    model, case, config, none, program, schedule = done.stdout.splitlines()
    assert program == "job is a ProgramConfig; give an e2r.EvaluationConfig"
    assert schedule == "job is a Schedule; give an e2r.EvaluationConfig"
    assert model.startswith("model is a str; give what e2r.load_model returns")
    assert case == "case is a int; give a case or the path of its folder"
    assert config.startswith("config is a str; give an e2r.TrainingConfig")
    assert none.startswith("model is a NoneType; give what e2r.load_model returns")


def test_simulated_cases_follow_from_the_seed():
    config = e2r.SimulationConfig(wound_fraction=(0.3, 0.8), min_bone_fraction=0.05)
    (first,) = e2r.simulate(seed=11, config=config)
    (again,) = e2r.simulate(seed=11, config=config)
    np.testing.assert_array_equal(first.points, again.points)
    assert first.truth is not None and first.id == again.id


def test_the_readme_runs_as_it_stands(tmp_path, monkeypatch):
    """Its python blocks, one after the other, in a folder with the cases that its shell makes."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert len(blocks) >= 2
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(viewer, "serve", lambda *_, **__: None)
    names: dict = {}
    shell = re.search(r"^e2r (simulate .*)$", README.read_text(), re.M)
    assert cli.main(shell.group(1).split("#")[0].split()) == 0
    for block in blocks:
        exec(block, names)
    gradients = [v for v in names.values() if isinstance(v, jax.Array) and v.ndim == 1]
    assert any(np.isfinite(g).all() and (g != 0).any() for g in gradients)


def test_the_readme_shows_the_demo_as_it_was_measured():
    """Its table is typed, so each figure is held against the stored result."""
    stored = json.loads((ROOT / "experiments" / "results" / "demo.json").read_text())
    at = [stored["columns"].index(name) for name in ("median TRE (mm)", "< 2 mm (%)", "< 5 mm (%)")]
    for row in stored["rows"]:
        median, below_2, below_5 = (row[column] for column in at)
        assert f"| {median:.2f} mm | {below_2:.1f} % | {below_5:.1f} % |" in README.read_text()
