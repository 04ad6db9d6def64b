"""``e2r view`` steps through a recording and its track, and refuses a track that does not fit."""

import json
import shutil

import made_up_track
import pytest

from e2r.cli import main
from e2r.datasets import recordings
from e2r.datasets.any_recording import find_patient, open_any
from e2r.tracking import track_files
from e2r.visualisation import track_viewer, viewer
from tests.conftest import refused


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_up_track.write(tmp_path_factory.mktemp("track"))


@pytest.fixture
def served(monkeypatch):
    """What a viewer says when it is shown; it is closed at once."""
    said = []

    def closed(close, text):
        said.append(text)
        close()

    monkeypatch.setattr(viewer, "wait_for_ctrl_c", closed)
    return said


def test_a_track_is_viewed(made, served):
    recording, track = made
    assert main(["view", str(recording), "--track", str(track), "--port", "0"]) == 0
    assert len(served) == 1 and served[0].endswith(" shows 4 frames")


def test_without_a_track_the_recording_is_tracked_now(
    made, checkpoint, served, monkeypatch, tmp_path
):
    recording, _ = made
    shown = []
    show = track_viewer.TrackViewer.show
    monkeypatch.setattr(
        track_viewer.TrackViewer, "show", lambda self, one: shown.append(one) or show(self, one)
    )
    words = ["view", str(recording), "--checkpoint", str(checkpoint), "--port", "0"]
    assert main(words) == 0
    assert served[0].endswith(" shows 4 frames") and shown[0].line["number"] == 1
    assert shown[0].line["state"] in ("searching", "tracking")


def test_the_track_of_another_recording_is_refused(made, tmp_path, served, capsys):
    recording, track = made
    own = track_files.track_record(
        recordings.open_recording(recording).first_image(), find_patient(open_any(recording)).levels
    )
    for field, words in (("recording", "of another recording"), ("surfaces", "of other surfaces")):
        copy = shutil.copytree(track, tmp_path / field)
        for record, refuses in ((own, False), ({**own, field: "0" * 16}, True)):
            (copy / "track.json").write_text(json.dumps(record))
            arguments = ("view", str(recording), "--track", str(copy), "--port", "0")
            if refuses:
                refused(capsys, f"the track is {words}", *arguments)
            else:
                assert main(list(arguments)) == 0


def changed(track, folder, change):
    """A copy of a track whose lines are changed."""
    copy = shutil.copytree(track, folder)
    path = copy / "poses.jsonl"
    path.write_text(change(path.read_text()))
    return copy


def torn(text):
    lines = text.splitlines()
    return "\n".join([lines[0], lines[1][:60], *lines[2:]])


def without_state(text):
    line = json.loads(text.splitlines()[0])
    del line["state"]
    return json.dumps(line)


def mirrored(text):
    line = json.loads(text.splitlines()[0])
    line["levels"]["L2"]["T_camera_model"][0] = [-1.0, 0.0, 0.0, 0.0]
    return json.dumps(line)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace('"number": 4', '"number": 400'), "has no frame 400, but the"),
        (lambda text: text.replace('"L3"', '"S1"'), "the track follows S1, of which there is no"),
        (torn, "poses.jsonl: line 2: is no line that e2r track wrote"),
        (without_state, "poses.jsonl: line 1: is no line that e2r track wrote"),
        (mirrored, "poses.jsonl: line 1: L2: mirrored"),
        (lambda text: text.replace("0.012", '"x"').replace("12.0", '"x"'), "line 1: is no line"),
        (lambda _: "", "holds no frame; track the recording again"),
    ],
)
def test_a_track_that_does_not_fit_is_told(made, tmp_path, capsys, change, words):
    recording, track = made
    copy = changed(track, tmp_path / "copy", change)
    refused(capsys, words, "view", recording, "--track", copy, "--port", "0")


def test_what_is_missing_is_told(made, tmp_path, capsys):
    recording, track = made
    words = "has no poses.jsonl; name the output folder of e2r track"
    refused(capsys, words, "view", recording, "--track", tmp_path, "--port", "0")
    refused(capsys, "holds no frame", "view", tmp_path, "--track", track, "--port", "0")
    bare = shutil.copytree(recording, tmp_path / "bare")
    shutil.rmtree(bare / "model")
    words = "name the patient's surfaces with --model"
    refused(capsys, words, "view", bare, "--track", track, "--port", "0")


def test_what_would_do_nothing_is_refused(made, checkpoint, tmp_path, capsys):
    recording, track = made
    words = ("--track", track, "--checkpoint", checkpoint, "--port", "0")
    refused(capsys, "--track shows a track; give one", "view", recording, *words)
    refused(capsys, "--checkpoint is for a case", "view", tmp_path, *words[2:])


def test_what_is_of_a_recording_is_refused_for_a_case(data_set, capsys):
    case = sorted(data_set.iterdir())[0]
    for option in (("--unit", "m"), ("--model", case / "model"), ("--unchecked",)):
        refused(capsys, f"{option[0]} is of a recording", "view", case, *option, "--port", "0")
