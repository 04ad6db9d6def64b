"""Recordings are read frame by frame; what is broken is named."""

import json

import numpy as np
import pytest
import trimesh
from PIL import Image

from e2r.datasets import any_recording, recordings
from e2r.datasets.recordings import RecordedFrame
from e2r.formats import meshes
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


def test_a_frame_of_which_one_picture_is_missing_is_broken(folder):
    (folder / "depth_000001.png").unlink()
    (folder / "color_000003.png").unlink()
    first, second, third = recordings.open_recording(folder).read()
    assert (first.number, second.number, third.number) == (1, 2, 3)
    assert first.image is None and second.image is not None and third.image is None
    words = "depth_000001.png: no such file, but color_000001.png is there; a frame needs both"
    assert words in first.message and first.seconds == pytest.approx(0.05)
    assert "color_000003.png: no such file, but depth_000003.png is there" in third.message


@pytest.mark.parametrize("every", [2, 3])
def test_pictures_at_another_rate_than_the_depth_are_left_out(tmp_path, caplog, every):
    recordings.write_recording(tmp_path, frames(9))
    for number in range(1, 10):
        if number % every == 0:
            (tmp_path / f"depth_{number:06d}.png").unlink()
    assert recordings.open_recording(tmp_path).numbers == [n for n in range(1, 10) if n % every]
    assert "of its pictures have no other half" in caplog.text


def test_depths_that_end_early_are_broken_frames(tmp_path):
    recordings.write_recording(tmp_path, frames(9))
    for number in range(5, 10):
        (tmp_path / f"depth_{number:06d}.png").unlink()
    found = list(recordings.open_recording(tmp_path).read())
    assert [one.number for one in found if one.image is None] == [5, 6, 7, 8, 9]


def test_half_a_frame_without_a_time_is_left_out(folder, caplog):
    (folder / "depth_000003.png").unlink()
    path = folder / "timestamps.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    assert recordings.open_recording(folder).numbers == [1, 2]
    assert (
        "without 1 of its frames, which lack a picture and a time; the first is frame 3"
        in caplog.text
    )
    path.unlink()
    assert recordings.open_recording(folder).numbers == [1, 2, 3]


def test_a_frame_of_another_size_is_broken(folder):
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(folder / "color_000003.png")
    *_, last = recordings.open_recording(folder).read()
    assert last.image is None and "is 32x24, but the recording began with 64x48" in last.message
    Image.fromarray(np.zeros((24, 32), np.uint16)).save(folder / "depth_000003.png")
    *_, last = recordings.open_recording(folder).read()
    assert last.image is None  # although both are alike: the intrinsics are not theirs
    Image.fromarray(np.zeros((24, 32), np.uint16)).save(folder / "depth_000002.png")
    second = list(recordings.open_recording(folder).read())[1]
    assert "is 32x24, but the recording began with 64x48" in second.message


def test_a_depth_of_another_camera_is_moved_to_the_colour(folder):
    (folder / "depth_intrinsics.json").write_bytes((folder / "camera.json").read_bytes())
    with pytest.raises(ValueError, match="put the motion from depth to colour there"):
        recordings.open_recording(folder)
    motion = np.eye(4)
    motion[0, 3] = 30.0
    (folder / "depth_to_color.json").write_text(json.dumps(motion.tolist()))
    first = next(recordings.open_recording(folder).read()).image.depth
    own = next(frames())[0].image.depth
    shift = round(30.0 * 60.0 / 400.0)  # pixels, of what is 400 mm away
    assert (first[:, : shift - 2] == 0).all()  # nothing comes from the left of the picture
    seen = first[first > 0]  # the nearest where several meet
    assert own.min() - 0.1 <= seen.min() and seen.max() <= own.max() + 0.1
    assert len(seen) > 0.5 * first.size
    Image.fromarray(np.full((24, 32), 400, np.uint16)).save(folder / "depth_000002.png")
    second = list(recordings.open_recording(folder).read())[1]
    assert "is 32x24, but the recording began with 64x48" in second.message


def test_times_of_a_spreadsheet_are_read(folder):
    path = folder / "timestamps.csv"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert recordings.open_recording(folder).first_seconds == pytest.approx(0.05)


def test_a_depth_that_is_not_aligned_is_refused(tmp_path):
    """As a single frame is: the edges of both pictures tell."""
    v, u = np.mgrid[:240, :320]
    rng = np.random.default_rng(0)
    depth = np.full((240, 320), 500.0, np.float32)
    color = np.full((240, 320, 3), 60, np.uint8)
    for x, y, r in zip(
        rng.uniform(30, 290, 14), rng.uniform(30, 210, 14), rng.uniform(12, 25, 14), strict=True
    ):
        disc = (u - x) ** 2 + (v - y) ** 2 < r * r
        depth[disc] = 420.0
        color[np.roll(disc, 9, axis=1)] = 220
    image = RgbdImage(color, depth, 300.0, 300.0, 159.5, 119.5)
    recordings.write_recording(tmp_path, [(RecordedFrame(1, 0.0, image), {})])
    with pytest.raises(ValueError, match="seems not to be aligned"):
        any_recording.open_any(tmp_path)
    assert any_recording.open_any(tmp_path, unchecked=True).count == 1


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("camera.json", None, "intrinsics.json: no such file"),
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


def test_times_that_are_no_table_name_the_file(folder):
    path = folder / "timestamps.csv"
    for content, words in (
        ("number,seconds\n1,0\n2,1\n3,2\n".encode("utf-16"), "save it as CSV in UTF-8"),
        (b"number,seconds\n1," + b"0" * 200_000 + b"\n", "save it as CSV in UTF-8"),
        (b"number,seconds\n1,0\n1,1\n2,2\n3,3\n", "has two rows of frame 1"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"timestamps\.csv: .*{words}"):
            recordings.open_recording(folder)


def test_a_recording_is_read_as_a_frame_is(folder, caplog):
    (folder / "intrinsics.json").write_bytes((folder / "camera.json").read_bytes())
    recordings.open_recording(folder)
    assert "intrinsics.json: was read, and camera.json beside it was not" in caplog.text
    for path in folder.glob("depth_*"):
        Image.fromarray(np.full((24, 32), 20_000, np.uint16)).save(path)
    with pytest.raises(ValueError, match=r"is 32x24, but color_000001\.png is 64x48; align"):
        recordings.open_recording(folder)
    turned = Image.Exif()
    turned[0x0112] = 3
    Image.new("RGB", (64, 48)).save(folder / "color_000001.png", exif=turned)
    with pytest.raises(ValueError, match="EXIF orientation 3"):
        recordings.open_recording(folder)


def test_the_truth_of_its_own_surfaces_is_not_held_against_others(folder, caplog, tmp_path):
    for place in (folder / "model", tmp_path / "others"):
        meshes.write_meshes({"L1": trimesh.creation.icosphere(radius=25.0)}, place)
    recording = recordings.open_recording(folder)
    assert any_recording.find_patient(recording).truth
    assert any_recording.find_patient(recording, folder / "model").truth
    assert not any_recording.find_patient(recording, tmp_path / "others").truth
    assert "with --model, no error is measured" in caplog.text


def test_times_in_milliseconds_are_doubted(folder, caplog):
    (folder / "timestamps.csv").write_text("number,seconds\n1,0\n2,33.3\n3,66.6\n")
    recordings.open_recording(folder)
    assert "times are seconds, not ms" in caplog.text
