"""Cases as people name them: one, several, a data set, a pattern that the shell left alone."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import TINY, refused
from small_cases import prediction_line, small_case

from e2r.api import models, registering
from e2r.cli import main, named_cases, register
from e2r.datasets import case_folder
from e2r.evaluation.predictions import Prediction
from e2r.formats import meshes

NAMES = ("a", "b", "c")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Three cases in ``cases``, among what file managers and people leave there."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(NAMES):
        case_folder.write_case(small_case(name, seed=seed), tmp_path / "cases" / name)
    (tmp_path / "cases" / ".b.123.part").mkdir()
    shutil.copy(tmp_path / "cases" / "b" / "case.json", tmp_path / "cases" / ".b.123.part")
    for name in (".DS_Store", "._a", "Thumbs.db", "notes.txt"):
        (tmp_path / "cases" / name).write_text("junk")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["cases/b"], "b"),
        (["cases"], "abc"),
        (["cases/*"], "abc"),
        (["cases/[ac]"], "ac"),
        (["c*s/?"], "abc"),
        (["cases/b", "cases/a"], "ba"),
        (["cases/b", "cases"], "bac"),
        (["cases/b", "cases/b/", "./cases/../cases/b"], "b"),
        (["cases/*", "cases/n*"], ["a", "b", "c", "n*"]),  # n* names a file, and no case
    ],
)
def test_words_name_cases(words, expected, place):
    found = named_cases.find_named_cases([Path(word) for word in words])
    assert [path.resolve().name for path in found] == [*expected]


def test_a_folder_whose_name_looks_like_a_pattern_is_itself(place):
    (place / "cases" / "a").rename(place / "cases" / "frame[1]")
    found = named_cases.find_named_cases([place / "cases" / "frame[1]"])
    assert [path.name for path in found] == ["frame[1]"]


def test_a_pattern_of_files_is_refused(place, capsys):
    refused(capsys, "cases/*.txt: ", "register", "cases/*.txt")
    refused(capsys, "cases/*.txt: ", "export", "cases/*.txt", "--output", "out")


def test_names_are_as_long_as_they_must_be():
    words = [Path("/a/x/base"), Path("/b/x/base"), Path("/a/y")]
    assert named_cases.shortest_names(words) == ["a/x/base", "b/x/base", "/a/y"]
    assert named_cases.shortest_names(words[1:]) == ["base", "y"]
    with pytest.raises(ValueError, match="base: is named twice"):
        named_cases.shortest_names([*words, words[0]])


# Register -----------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch):
    """A registration that takes no time, and what was asked of it."""
    asked = []

    def registered(case, model, *, job):
        asked.append(case.id)
        prediction = Prediction.from_json(prediction_line(case))
        return SimpleNamespace(
            prediction=prediction,
            accepted=prediction.accepted,
            expected_tre_mm=prediction.expected_tre_mm,
            tre_mm=None,
        )

    model = models.Model(TINY, {}, None)
    monkeypatch.setattr(register, "load_model", lambda _: asked.append("model") or model)
    monkeypatch.setattr(registering, "register", registered)
    monkeypatch.setattr(register, "_print_result", lambda _: print("all of one"))
    monkeypatch.setattr(register, "_print_cause", lambda *_: None)
    monkeypatch.setattr(register, "_line", untyped(register._line))
    return asked


def untyped(function):
    """The function without the tests' checks of types."""
    return getattr(function, "__wrapped__", function)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("words", [["cases"], ["cases/*"], ["cases/a", "cases/b", "cases/c"]])
def test_several_cases_are_registered_in_one_process(words, place, calls, capsys):
    assert main(["register", *words, "--output", "p.jsonl"]) == 0
    assert calls == ["model", *NAMES]
    out = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in out[:3]] == [f"cases/{name}" for name in NAMES]
    assert "accepted, expected TRE 0.80 mm" in out[0]
    assert out[3] == "3 predictions appended to p.jsonl"
    found = lines(place / "p.jsonl")
    assert [line["id"] for line in found] == list(NAMES)
    assert len({line["case_digest"] for line in found}) == 3


def test_a_broken_case_is_one_sentence_and_the_rest_goes_on(place, calls, capsys):
    (place / "cases" / "b" / "depth.png").write_bytes(b"torn")
    (place / "cases" / "d").mkdir()
    assert main(["register", "cases/a", "cases/b", "cases/c", "cases/d", "gone"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 4
    assert "depth.png" in err[0] and "cases/d: not a case" in err[1] and "gone: no such" in err[2]
    assert "3 of 5 cases were refused" in err[3]
    assert [line["id"] for line in lines(place / "predictions.jsonl")] == ["a", "c"]


@pytest.mark.parametrize(
    "content",
    [
        '{\n "steps": 400\n}\n',
        '{"T_camera_model": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}',
        "frame;x;y\n1;2;3\n",
        '"id T_camera_model"',
    ],
)
def test_predictions_are_appended_to_nothing_else(content, place, calls, capsys):
    (place / "p.json").write_text(content)
    refused(capsys, "p.json: holds no predictions", "register", "cases/a", "--output", "p.json")
    assert (place / "p.json").read_text() == content
    assert calls == []


def test_predictions_are_appended_to_an_empty_file_and_behind_half_a_line(place, calls, capsys):
    path = place / "p.jsonl"
    path.write_text("\n")
    assert main(["register", "cases/a", "--output", "p.jsonl"]) == 0
    with path.open("a") as file:
        file.write('{"id": "b", "T_cam')  # the disk was full
    assert main(["register", "cases/a", "--output", "p.jsonl"]) == 0
    rows = path.read_text().splitlines()
    assert [json.loads(rows[k])["id"] for k in (1, 3)] == ["a", "a"]


def test_one_case_is_told_in_full_and_its_refusal_stands_alone(place, calls, capsys):
    assert main(["register", "cases/a"]) == 0
    assert capsys.readouterr().out == "all of one\nprediction appended to predictions.jsonl\n"
    refused(capsys, "gone/*: no such folder", "register", "gone/*")
    refused(capsys, "gone: no such folder", "register", "gone")
    assert [line["id"] for line in lines(place / "predictions.jsonl")] == ["a"]


PREDICTION = '{"id": "x", "T_camera_model": {}}'


@pytest.mark.parametrize("content", [PREDICTION, f"{PREDICTION}\n", ""])
def test_a_prediction_gets_a_line_of_its_own(content, place, calls):
    (place / "p.jsonl").write_text(content)
    assert main(["register", "cases/a", "--output", "p.jsonl"]) == 0
    assert [line["id"] for line in lines(place / "p.jsonl")][-1] == "a"


# Frames -------------------------------------------------------------------------------------------


@pytest.fixture
def frames(tmp_path, monkeypatch):
    """Frames of two recordings, as folders of pictures and as clouds."""
    monkeypatch.chdir(tmp_path)
    case = small_case()
    meshes.write_meshes(case.model, tmp_path / "stl")
    for junk in ("._L1.stl", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / "stl" / junk).write_text("junk")
    for number, name in enumerate(("one/001", "one/002", "two/001")):
        frame = small_case(seed=number)
        case_folder.write_images(frame.image, *pictures(tmp_path / name), depth_scale=50.0)
        lens = {"fx": 40.0, "fy": 40.0, "cx": 15.5, "cy": 11.5, "depth_scale": 50.0}
        text = json.dumps(lens)
        (tmp_path / name / "intrinsics.json").write_text("\ufeff" + text, encoding="utf-8")
        (tmp_path / name / "._depth.png").write_text("junk")
    return tmp_path


def pictures(folder):
    folder.mkdir(parents=True)
    return folder / "color.png", folder / "depth.png"


def run_rgbd(*words):
    return main(["convert", "rgbd", *map(str, words), "--model", "stl"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["one/*", "cases"], {"001": 0, "002": 1}),
        (["one/001", "one/002", "cases"], {"001": 0, "002": 1}),
        (["*/001", "cases"], {"one_001": 0, "two_001": 2}),
        (["one/*", "two/*", "cases"], {"one_001": 0, "one_002": 1, "two_001": 2}),
    ],
)
def test_several_frames_become_a_folder_of_cases(words, expected, frames):
    assert run_rgbd(*words) == 0
    found = {path.name: case_folder.read_case(path) for path in case_folder.find_cases("cases")}
    assert set(found) == set(expected)
    for name, seed in expected.items():
        assert found[name].id == name
        np.testing.assert_allclose(found[name].points, small_case(seed=seed).points, atol=1e-3)


def test_one_frame_becomes_one_case(frames):
    assert run_rgbd("one/00[2]", "cases/mine") == 0
    assert case_folder.read_case("cases/mine").id == "mine"


def test_a_forgotten_output_is_refused_and_no_frame_is_overwritten(frames, capsys):
    """The shell expands ``one/*``: its last frame would be the output."""
    before = {path: path.read_bytes() for path in frames.rglob("*.png")}
    words = ("convert", "rgbd", "one/001", "two/001", "one/002", "--model", "stl")
    refused(capsys, "one/002: is the last path", *words)
    refused(capsys, "but no case.json", "convert", "rgbd", "one/001", "one/002", "--model", "stl")
    assert {path: path.read_bytes() for path in frames.rglob("*.png")} == before


def test_a_broken_frame_does_not_stop_the_others(frames, capsys):
    (frames / "one" / "001" / "depth.png").unlink()
    assert run_rgbd("one/001", "one/002", "cases") == 2
    assert "depth.png: no such file" in capsys.readouterr().err
    assert [path.name for path in case_folder.find_cases("cases")] == ["002"]
