"""The extracted frames of a camera of SpineDepth are a recording, with surfaces and a truth."""

import json
import shutil

import layouts
import numpy as np
import pytest
import trimesh
from test_spinedepth import framed

from e2r.cli import main
from e2r.datasets import any_recording, spinedepth
from e2r.datasets.spinedepth import FrameId
from e2r.datasets.spinedepth_files import LEVELS
from e2r.formats import glb, meshes
from tests.conftest import refused

NUMBERS = (2, 3, 6)


@pytest.fixture
def camera(simulated_cases, tmp_path):
    """Three frames of one camera, and one of the other, in a data set."""
    one, other = framed(simulated_cases[0]), framed(simulated_cases[1])
    given = {FrameId(1, 4, 0, number): one for number in NUMBERS}
    layouts.write_spinedepth(tmp_path / "data", given | {FrameId(1, 4, 1, 0): other})
    return tmp_path / "data" / "Specimen_1" / "recording_4" / "cam_0"


def test_its_frames_surfaces_and_poses_are_those_of_the_cases(camera):
    assert any_recording.is_recording(camera)
    recording = any_recording.open_any(camera)
    cases = list(spinedepth.convert(camera.parents[2], cameras=[0]))
    patient = any_recording.find_patient(recording)
    frames = list(recording.read())
    assert recording.numbers == list(NUMBERS) and recording.first_seconds == 0.0
    assert [frame.seconds for frame in frames] == pytest.approx([0.0, 1 / 30, 4 / 30])
    for frame, case in zip(frames, cases, strict=True):
        np.testing.assert_array_equal(frame.image.color, case.image.color)
        np.testing.assert_array_equal(frame.image.depth, case.image.depth)
        for name in LEVELS:
            np.testing.assert_allclose(patient.levels[name].vertices, case.model[name].vertices)
            for found, true in zip(
                patient.truth[frame.number][name], case.truth[name], strict=True
            ):
                np.testing.assert_allclose(found, true)
    (last,) = recording.read([6])
    assert last.number == 6


def test_a_broken_frame_is_told_and_the_others_are_read(camera):
    (camera / "frame_3" / "depth.png").unlink()
    shutil.copy(camera / "frame_3" / "image.png", camera / "frame_6" / "depth.png")
    first, *broken = any_recording.open_any(camera).read()
    assert first.image is not None and all(frame.image is None for frame in broken)
    assert "depth.png: no such file" in broken[0].message
    assert "must be one 16-bit channel" in broken[1].message


def test_frames_after_the_last_pose_have_no_truth(camera, caplog):
    shutil.copytree(camera / "frame_6", camera / "frame_9")
    recording = any_recording.open_any(camera)
    assert list(any_recording.find_patient(recording).truth) == list(NUMBERS)
    assert "Poses_0.txt: ends at frame 6" in caplog.text
    assert recording.count == 4


def test_without_poses_of_its_own_another_recording_places_the_levels(camera):
    (camera.parents[1] / "Recordings" / "Recording4" / "Poses_0.txt").unlink()
    patient = any_recording.find_patient(any_recording.open_any(camera))
    assert list(patient.levels) == list(LEVELS) and not patient.truth
    shutil.rmtree(camera.parents[1] / "Recordings")
    with pytest.raises(ValueError, match=r"has no Recordings/Recording4/Poses_0.*with --model"):
        any_recording.find_patient(any_recording.open_any(camera))


def test_surfaces_of_ones_own_have_no_truth(camera, simulated_cases, tmp_path, caplog):
    meshes.write_meshes(simulated_cases[0].model, tmp_path / "model")
    recording = any_recording.open_any(camera)
    assert not any_recording.find_patient(recording, tmp_path / "model").truth
    assert "with --model, no error is measured" in caplog.text
    one_file = tmp_path / "levels.glb"
    one_file.write_bytes(glb.write_scene(trimesh.Scene(simulated_cases[0].model), "model"))
    assert list(any_recording.find_patient(recording, one_file).levels) == list(LEVELS)


def test_it_is_tracked_with_one_command(camera, checkpoint, tmp_path):
    words = ["track", str(camera), "--output", str(tmp_path / "out"), "--no-film"]
    assert main([*words, "--checkpoint", str(checkpoint)]) == 0
    lines = (tmp_path / "out" / "poses.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == list(NUMBERS)


def test_clouds_alone_are_refused_with_the_remedy(simulated_cases, tmp_path, capsys):
    given = {FrameId(1, 4, 0, 2): framed(simulated_cases[0])}
    layouts.write_spinedepth(tmp_path / "data", given, clouds=True)
    specimen = tmp_path / "data" / "Specimen_1"
    words = "and clouds are no pictures; extract the frames of Video_0.svo to "
    camera = specimen / "recording_4" / "cam_0"
    refused(capsys, words, "track", camera, "--output", tmp_path / "out")
    words = "Recording4: is no camera's folder; give "
    whole = specimen / "Recordings" / "Recording4"
    refused(capsys, words, "track", whole, "--output", tmp_path / "out")
    words = "holds no extracted frame"
    refused(capsys, words, "track", camera.parent / "cam_1", "--output", tmp_path / "out")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("Calib/SN10027879.conf", "SN10027879.conf: no such file"),
        ("STL/L3.stl", "L3.stl: no such file"),
    ],
)
def test_what_is_missing_is_told_before_tracking(camera, tmp_path, capsys, place, words):
    (camera.parents[1] / place).unlink()
    refused(capsys, words, "track", camera, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_folders_of_that_name_are_none_of_it(tmp_path):
    folder = tmp_path / "specimen_1" / "recording_2"
    folder.mkdir(parents=True)
    assert not any_recording.is_recording(folder)
    (tmp_path / "specimen_1" / "STL").mkdir()
    assert any_recording.is_recording(folder)
