"""A recording is simulated and tracked from the command line."""

import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

import e2r
from e2r.cli import main, track
from e2r.datasets import recordings
from e2r.formats import meshes
from e2r.geometry.closest_points import distance_to_mesh
from tests.conftest import refused

FRAMES = 6


@pytest.fixture(scope="module")
def recording(simulated_cases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    model = folder / "model"
    meshes.write_meshes(simulated_cases[0].model, model)
    words = ["simulate", "--sequence", "--count", "1", "--output", str(folder / "out")]
    small = ["--frames", str(FRAMES), "--width", "160", "--height", "120", "--hands", "0"]
    small = [f"--recording.{word[2:]}" if word[:2] == "--" else word for word in small]
    assert main([*words, *small, "--anatomy", str(model)]) == 0
    return folder / "out" / "recording0_0000"


def test_the_recording_knows_its_truth(recording):
    found = list(recordings.open_recording(recording).read())
    truth = recordings.read_truth(recording)
    assert len(found) == len(truth) == FRAMES
    surfaces = meshes.read_meshes(recording / "model")
    image = found[-1].image
    seen = np.nonzero(image.depth > 0)
    rays = np.stack([(seen[1] - image.cx) / image.fx, (seen[0] - image.cy) / image.fy], 1)
    points = np.column_stack([rays, np.ones(len(rays))]) * image.depth[seen][:, None]
    near = 0
    for name, pose in truth[FRAMES].items():
        own = (points - pose.translation) @ pose.rotation
        near += np.sum(
            distance_to_mesh(own[::7], surfaces[name].vertices, surfaces[name].faces)[0] < 0.8
        )
    assert near > 10  # the bone in the picture lies on the levels at their true poses


def test_it_is_tracked_with_one_command(recording, checkpoint, tmp_path, capsys):
    out = tmp_path / "track"
    words = ["track", str(recording), "--output", str(out), "--checkpoint", str(checkpoint)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "latency, median (ms)" in said and str(out / "poses.jsonl") in said
    lines = [json.loads(line) for line in (out / "poses.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines] == list(range(1, FRAMES + 1))
    page = (out / "timeline.html").read_text()
    assert "latency (ms)" in page and "Worst moments" in page
    with Image.open(out / "track.webp") as film:
        assert film.format == "WEBP" and film.size == (160, 120)
    refused(capsys, "is not empty", *words)


def test_a_broken_frame_is_one_line_and_not_the_end(recording, checkpoint, tmp_path, capsys):
    broken = shutil.copytree(recording, tmp_path / "broken")
    (broken / "color_000003.png").write_bytes(b"")
    words = ["track", str(broken), "--output", str(tmp_path / "out"), "--live", "--no-film"]
    assert main([*words, "--view", "--port", "0", "--checkpoint", str(checkpoint)]) == 3
    said = capsys.readouterr()
    assert "frame 3: " in said.err and " shows the frames that are tracked" in said.out
    assert not (tmp_path / "out" / "track.webp").exists()
    lines = [
        json.loads(line) for line in (tmp_path / "out" / "poses.jsonl").read_text().splitlines()
    ]
    assert [line["number"] for line in lines if "error" in line] == [3]


def test_an_interrupted_track_has_its_timeline(
    recording, checkpoint, tmp_path, monkeypatch, capsys
):
    @contextmanager
    def stopping():
        asked = iter([False, False, True])
        yield lambda: next(asked)

    monkeypatch.setattr(track, "stop_requested", stopping)
    out = tmp_path / "out"
    words = ["track", str(recording), "--output", str(out), "--checkpoint", str(checkpoint)]
    assert main(words) == 130
    said = capsys.readouterr()
    assert "interrupted" in said.err and "track.webp" not in said.out
    assert len((out / "poses.jsonl").read_text().splitlines()) == 2
    assert "Worst moments" in (out / "timeline.html").read_text()


def test_a_recording_without_surfaces_is_refused(recording, tmp_path, capsys):
    bare = shutil.copytree(recording, tmp_path / "bare")
    shutil.rmtree(bare / "model")
    refused(capsys, "name the patient's surfaces with --model", "track", bare, "--output", "out")


def test_a_camera_is_tracked_in_a_few_lines(recording, checkpoint):
    with e2r.Tracker(e2r.load_model(checkpoint), recording / "model", beside=False) as tracker:
        for frame in recordings.open_recording(recording).read():
            found = tracker.update(frame.image, frame.seconds)
    assert found.number == FRAMES - 1 and found.state in ("searching", "tracking", "lost")


def test_words_out_of_range_are_refused(tmp_path, capsys):
    words = ["simulate", "--sequence", "--output", tmp_path, "--recording.frames", "0"]
    refused(capsys, "--recording.frames is 0; use 1 or more", *words)
