"""A place that takes no results is refused before the work, by every command."""

import shutil

import pytest
from conftest import TINY, refused
from small_cases import small_case

from e2r.cli import evaluate as evaluate_command
from e2r.cli import main, register
from e2r.datasets import case_folder
from e2r.evaluation.models import Model
from e2r.formats import meshes
from e2r.simulation import simulator
from e2r.training import loop
from experiments import calibrate, evaluate, publish, train


@pytest.fixture
def top(tmp_path, monkeypatch):
    """A case, a model, and a file that is in the way; all work fails."""
    monkeypatch.chdir(tmp_path)
    case_folder.write_case(small_case(), tmp_path / "case")
    (tmp_path / "taken").write_text("precious")

    def work(*_, **__):
        pytest.fail("the work began")

    for module, name in (
        (register, "load_model"),
        (simulator, "simulate_specimens"),
        (meshes, "read_mesh"),
        (meshes, "read_meshes"),
        (evaluate_command, "read_model"),
        (publish, "export_trained"),
        (calibrate, "fitted_cases"),
        (loop, "steps_done"),
    ):
        monkeypatch.setattr(module, name, work)
    return tmp_path


COMMANDS = {
    "register": ("register", "case", "--output", "PLACE/p.jsonl"),
    "register several": ("register", "case", "case", "--output", "PLACE/p.jsonl"),
    "simulate": ("simulate", "--output", "PLACE"),
    "export": ("export", "case", "--output", "PLACE"),
    "convert ct": ("convert", "ct", "labels.nii.gz", "PLACE"),
    "convert rgbd": ("convert", "rgbd", "frame", "PLACE", "--model", "stl"),
    "convert rgbd, several": ("convert", "rgbd", "one", "two", "PLACE", "--model", "stl"),
    "convert spinedepth": ("convert", "spinedepth", "SpineDepth", "PLACE"),
    "convert pairs": ("convert", "pairs", "PAIRS", "PLACE"),
    "convert spinealign": ("convert", "spinealign", "SpineAlign", "PLACE"),
}
PLACES = {
    "a file": ("taken", "a file where a folder is needed"),
    "below a file": ("taken/below", "a file where a folder is needed"),
    "a name that is too long": ("x" * 300, "its name is too long"),
    "below the system's own": ("/proc/e2r/out", "cannot be written"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_refuses_a_place_before_the_work(command, place, top, capsys):
    path, words = PLACES[place]
    arguments = [word.replace("PLACE", path) for word in COMMANDS[command]]
    before = sorted(top.rglob("*"))
    refused(capsys, words, *arguments)
    assert sorted(top.rglob("*")) == before
    assert (top / "taken").read_text() == "precious"


def test_the_file_of_predictions_is_no_folder(top, capsys):
    refused(capsys, "case: is a folder; name a file in it", "register", "case", "--output", "case")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("experiment", [evaluate, train, publish])
def test_an_experiment_refuses_a_place_before_the_work(experiment, place, top, capsys):
    path, words = PLACES[place]
    arguments = {
        evaluate: ["--output", path],
        train: ["tiny", "--output", path],
        publish: ["--checkpoint", "run", "--output", path],
    }
    assert experiment.main(arguments[experiment]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_a_calibration_that_cannot_be_written_is_not_made(top, monkeypatch, capsys):
    monkeypatch.setattr(calibrate, "read_model", lambda _: Model(TINY, {}))
    (top / "run" / "calibration.json").mkdir(parents=True)
    assert calibrate.main(["--checkpoint", "run"]) == 2
    assert "calibration.json: is a folder; name a file in it" in capsys.readouterr().err


def test_a_refused_convert_leaves_the_case_that_was_there(top, capsys):
    """The second conversion fails in its source; the case of the first stays."""
    before = {path: path.read_bytes() for path in (top / "case").rglob("*") if path.is_file()}
    shutil.copytree(top / "case", top / "frame")
    (top / "frame" / "depth.png").write_bytes(b"torn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meshes, "read_meshes", lambda _: small_case().model)
        refused(capsys, "depth.png", "convert", "rgbd", "frame", "case", "--model", "case/model")
    after = {path: path.read_bytes() for path in (top / "case").rglob("*") if path.is_file()}
    assert after == before


def test_main_says_what_the_system_refused(top, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(case_folder, "read_case", full)
    monkeypatch.setattr("e2r.cli.register.read_case", full)
    assert main(["register", "case"]) == 2
    assert capsys.readouterr().err.startswith("e2r: the disk is full; free some space")
