"""Recordings are read frame by frame; what is broken is named."""

import json

import numpy as np
import pytest
from PIL import Image

from e2r.datasets import recordings
from e2r.datasets.recordings import RecordedFrame
from e2r.formats.scenes import RgbdImage
from e2r.types import Pose
from tests.conftest import refused

POSE = Pose(np.eye(3, dtype=np.float32), np.float32([1, 2, 400]))


def frames(count=3, shape=(48, 64)):
    rng = np.random.default_rng(0)
    for number in range(1, count + 1):
        depth = np.round(rng.uniform(350, 450, shape) * 50) / np.float32(50)
        color = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
        image = RgbdImage(color, depth.astype(np.float32), 60.0, 60.0, 31.5, 23.5)
        yield RecordedFrame(number, 0.05 * number, image), {"L1": POSE}


@pytest.fixture
def folder(tmp_path):
    assert recordings.write_recording(tmp_path, frames()) == 3
    return tmp_path


def test_what_was_written_is_read(folder):
    found = list(recordings.open_recording(folder).read())
    for one, (wanted, _) in zip(found, frames(), strict=True):
        assert (one.number, one.message) == (wanted.number, "")
        assert one.seconds == pytest.approx(wanted.seconds)
        np.testing.assert_array_equal(one.image.color, wanted.image.color)
        np.testing.assert_allclose(one.image.depth, wanted.image.depth, atol=1e-3)
        assert one.image[2:] == wanted.image[2:]
    truth = recordings.read_truth(folder)
    np.testing.assert_allclose(truth[2]["L1"].translation, POSE.translation)


def test_other_names_and_numbers_without_times(folder):
    for path in folder.glob("color_*"):
        path.rename(folder / path.name.replace("color_00000", "RGB-"))
    for path in folder.glob("depth_*"):
        values = np.asarray(Image.open(path)).astype(np.float32) / 50
        np.save(folder / f"depth{int(path.stem[6:])}.npy", values)
        path.unlink()
    (folder / "timestamps.csv").unlink()
    camera = json.loads((folder / "camera.json").read_text()) | {"depth_scale": 1.0}
    (folder / "camera.json").unlink()
    (folder / "intrinsics.json").write_text(json.dumps(camera))
    found = list(recordings.open_recording(folder).read())
    assert [one.seconds for one in found] == pytest.approx([0, 1 / 30, 2 / 30])
    assert 350 <= found[0].image.depth.mean() <= 450


def test_metres_are_millimetres_in_all_frames(folder):
    for path in folder.glob("depth_*"):
        np.save(path.with_suffix(".npy"), np.asarray(Image.open(path)) / 50e3)
        path.unlink()
    camera = json.loads((folder / "camera.json").read_text()) | {"depth_scale": 1.0}
    (folder / "camera.json").write_text(json.dumps(camera))
    found = list(recordings.open_recording(folder, "m").read())
    assert all(350 <= one.image.depth.mean() <= 450 for one in found)


def test_a_broken_frame_is_told_and_the_others_are_read(folder):
    (folder / "depth_000002.png").write_bytes(b"no picture")
    found = list(recordings.open_recording(folder).read())
    assert [one.image is None for one in found] == [False, True, False]
    assert "depth_000002.png" in found[1].message and "\n" not in found[1].message


def test_a_frame_of_another_size_is_broken(folder):
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(folder / "color_000003.png")
    *_, last = recordings.open_recording(folder).read()
    assert last.image is None and "is 64x48, but color_000003.png is 32x24" in last.message


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("camera.json", None, "camera.json: no such file"),
        ("timestamps.csv", "number,seconds\n1,0.1\n", "has no time of frame 2"),
        ("timestamps.csv", "number,seconds\n1,0\n2,3\n3,1\n", "must be finite and grow"),
        ("timestamps.csv", "frame,time\n1,0\n", "must have the columns number and seconds"),
        ("color_2.png", "", "frame 2 is color_000002.png already"),
    ],
)
def test_a_broken_recording_is_refused(folder, file, text, words, capsys, tmp_path):
    if text is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(text)
    refused(capsys, words, "track", folder, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_frames_is_refused(tmp_path, capsys):
    refused(capsys, "holds no frame", "track", tmp_path, "--output", tmp_path / "out")
    refused(capsys, "no such folder", "track", tmp_path / "no", "--output", tmp_path / "out")


def test_a_broken_truth_is_refused(folder):
    (folder / "truth.jsonl").write_text('{"number": 1}\n')
    with pytest.raises(ValueError, match=r"truth\.jsonl: line 1"):
        recordings.read_truth(folder)
