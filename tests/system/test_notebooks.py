"""Every notebook runs in its small setting, draws its plots, and shows what its text claims."""

import runpy
from pathlib import Path

import jupytext
import numpy as np
import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def run(name, monkeypatch):
    """Runs a notebook, checks its plots, and returns its variables."""
    monkeypatch.setenv("E2R_SMALL", "1")
    found = runpy.run_path(str(NOTEBOOKS / f"{name}.py"))
    assert len(found["plots"]) >= 3
    for title, plot in found["plots"].items():
        traces = [trace for part in (plot, *plot.frames) for trace in part.data]
        assert traces, title
        assert any([varies(trace, title) for trace in traces]), title
    return found


def varies(trace, title) -> bool:
    """Whether the values of a trace differ; asserts that all of its numbers are finite."""
    values = [getattr(trace, axis, None) for axis in "xyz"]
    arrays = [np.asarray(value) for value in values if value is not None]
    numbers = [array.astype(float) for array in arrays if array.dtype.kind in "iufb"]
    assert numbers and all(array.size and np.isfinite(array).all() for array in numbers), title
    return bool(np.ptp(numbers[-1]) > 0)


def test_quickstart_learns_bone_from_the_error(monkeypatch, capsys):
    found = run("01_quickstart", monkeypatch)
    assert "true bone" in capsys.readouterr().out
    assert float(found["error"](found["bone"])) < 1.0
    assert found["influence"] > 1.5  # of eight such specimens: 1.7 to 2.8
    assert found["share"] > 5 * found["on_bone"].mean()


@pytest.mark.slow
def test_gradient_paths_shows_which_steps_pass_the_gradient_on(monkeypatch):
    """Hard point-to-point matches with detached robust weights give a gradient to the last step
    only; tangent planes give one to earlier steps, too."""
    found = run("02_gradient_paths", monkeypatch)
    curves = {trace.name: np.asarray(trace.y) for trace in found["plots"]["shares"].data}
    hard, planes = curves["points, hard matches"], curves["planes, hard matches"]
    assert hard[-1] == planes[-1] == 1.0
    assert hard[:-1].max() < 1e-5
    assert planes[-2] > 0.01 > 1e3 * hard[-2]
    cut, whole = found["checks"]["cut weights"], found["checks"]["whole"]
    assert whole.passed and whole.cosine > cut.cosine


@pytest.mark.slow
def test_mask_estimators_are_compared_with_the_exact_gradient(monkeypatch):
    found = run("03_mask_estimators", monkeypatch)["found"]
    assert all(np.isfinite(figure) for quality in found.values() for figure in quality)
    assert found["gumbel_rao"].deviation < found["gumbel_straight_through"].deviation
    assert found["soft"].deviation < 1e-5 < found["soft"].bias


@pytest.mark.slow
def test_the_basin_of_convergence_ends(monkeypatch):
    maps = run("04_registration_and_its_basin", monkeypatch)["maps"]
    middle = maps["symmetric"].shape[0] // 2
    assert maps["symmetric"][middle, middle] < 2.0, maps["symmetric"]  # a success
    assert maps["symmetric"][0, 0] > 5.0


def test_own_data_are_registered_and_broken_files_explained(monkeypatch):
    found = run("05_your_own_data", monkeypatch)
    assert found["error"] < 20.0  # a rough initial pose and few steps
    wanted = ("in metres", "no such file", "behind the camera", "mirrored", "no scene", "not JSON")
    for words, said in zip(wanted, found["said"], strict=True):
        assert words in said


@pytest.mark.slow
def test_training_changes_the_mask(monkeypatch):
    found = run("06_training_dynamics", monkeypatch)
    first, last = found["story"][0][1], found["story"][-1][1]
    assert np.abs(first - last).max() > 1e-3
    assert found["watched"] == [0, 2, 4, 6, 8]


@pytest.mark.slow
def test_own_functions_are_trained_and_evaluated(monkeypatch):
    """The functions stand in the notebook; a constant that changes later changes the figures."""
    found = run("07_extend", monkeypatch)
    assert all(np.isfinite(line["loss"]) for line in found["lines"])
    first, second = (np.array(values) for values in found["errors"].values())
    assert len(first) == 3 and np.isfinite(first).all()
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.py")), ids=lambda path: path.stem)
def test_each_notebook_has_a_title_and_ends_with_something_to_change(path):
    cells = jupytext.read(path).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    assert cells[-1].cell_type == "markdown" and cells[-1].source.startswith("## Your turn")
    assert sum(cell.cell_type == "code" for cell in cells) >= 5
