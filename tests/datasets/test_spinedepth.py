"""SpineDepth: a small copy of the layout, files written by hand, irregular and broken ones."""

import io
import shutil
import zipfile
from dataclasses import replace

import layouts
import numpy as np
import pytest
from conftest import refused

from e2r.cli import main
from e2r.datasets import case_folder, spinedepth, spinedepth_files
from e2r.datasets.case import make_case
from e2r.datasets.spinedepth import FrameId
from e2r.datasets.spinedepth_files import LEVELS
from e2r.geometry import poses

CONF = """[Left_Cam_VGA]
FX=351.5
fy=350.5
Cx=334
CY=186.25
k1=-0.17
K2=0.02
p1=1e-4
p2=-2e-4

[LEFT_CAM_HD]
fx=703
fy=701
cx=668
cy=372.5
k1=0
k2=0
p1=0
p2=0
k3=0.5

[STEREO]
BaseLine=62.9
CV_VGA=0.01
RX_VGA=0.001
RZ_VGA=-0.002
"""


def framed(case):
    """The case in the middle of an otherwise empty 672x376 image: the same points."""
    image = case.image
    height, width = image.depth.shape
    color, depth = np.zeros((376, 672, 3), np.uint8), np.zeros((376, 672), np.float32)
    color[100 : 100 + height, 200 : 200 + width] = image.color
    depth[100 : 100 + height, 200 : 200 + width] = np.round(image.depth)
    image = image._replace(color=color, depth=depth, cx=image.cx + 200.0, cy=image.cy + 100.0)
    return make_case(image, id=case.id, model=case.model, truth=case.truth, source=case.source)


@pytest.fixture(scope="module")
def given(simulated_cases):
    """Three frames of one specimen, each its own camera or specimen: each has its own lens."""
    a, b, c = map(framed, simulated_cases[:3])
    return {FrameId(1, 0, 0, 2): a, FrameId(1, 0, 1, 1): b, FrameId(3, 7, 0, 0): c}


@pytest.fixture
def root(given, tmp_path):
    layouts.write_spinedepth(tmp_path / "SpineDepth", given)
    return tmp_path / "SpineDepth"


def check(found, given):
    """The points and the true poses are those of the given case."""
    np.testing.assert_allclose(found.points, given.points, atol=1e-2)
    np.testing.assert_allclose(found.colors, given.colors, atol=1e-2)
    for name in LEVELS:
        a, b = (
            np.asarray(poses.apply(c.truth[name], c.model[name].vertices.astype(np.float32)))
            for c in (found, given)
        )
        # Vertices may be merged in another order: compare the surfaces' places.
        np.testing.assert_allclose(a.mean(0), b.mean(0), atol=0.05)
        np.testing.assert_allclose(a.min(0), b.min(0), atol=0.05)


def test_a_written_data_set_is_read_back(root, given):
    found = {case.id: case for case in spinedepth.convert(root)}
    assert list(found) == [
        "specimen01_recording00_cam0_frame00002",
        "specimen01_recording00_cam1_frame00001",
        "specimen03_recording07_cam0_frame00000",
    ]
    for frame, case in given.items():
        check(found[frame.case_id], case)
    first = found["specimen01_recording00_cam0_frame00002"]
    middle = np.mean([mesh.bounds.mean(0) for mesh in first.model.values()], axis=0)
    np.testing.assert_allclose(middle, 0.0, atol=1e-6)  # levels' own frames lie far off the bone
    assert [c.id for c in spinedepth.convert(root, specimens=[3])] == list(found)[2:]
    assert [c.id for c in spinedepth.convert(root, cameras=[1])] == list(found)[1:2]
    assert list(spinedepth.convert(root, frames=[5])) == []


def test_clouds_are_read_if_there_are_no_images(given, tmp_path):
    layouts.write_spinedepth(tmp_path, given, clouds=True)
    found = {case.id: case for case in spinedepth.convert(tmp_path)}
    for frame, case in given.items():
        check(found[frame.case_id], case)
        assert found[frame.case_id].bone is None  # labels are not read


def test_case_of_names_and_order_of_numbers(root, given):
    specimen = root / "Specimen_1"
    (specimen / "Recordings").rename(specimen / "recordings")
    (specimen / "recordings" / "Recording0").rename(specimen / "recordings" / "recording0")
    (specimen / "STL").rename(specimen / "stl")
    (specimen / "stl" / "L3.stl").rename(specimen / "stl" / "l3.STL")
    for number in (10, 9, 100):
        (specimen / "recordings" / f"RECORDING{number}").mkdir()
    assert list(spinedepth_files.recordings(specimen)) == [0, 9, 10, 100]
    for number in (10, 9, 100):
        (specimen / "recordings" / f"RECORDING{number}").rmdir()
    (root / "Specimen_1").rename(root / "specimen_1")
    assert len(list(spinedepth.convert(root))) == 3


def test_some_recordings_have_the_second_calibration(tmp_path):
    """By the range marker where there is one; else at the recordings known of four specimens."""
    folder = tmp_path / "Specimen_4"
    for name in ("Calib", "Calib_a", "Calib_b"):
        (folder / name).mkdir(parents=True)

    def chosen(number, recording):
        return spinedepth_files.calibration_folder(folder, number, recording).name

    assert {chosen(4, r) for r in (0, 39)} == {"Calib"}
    for number, first in {2: 32, 5: 8, 7: 12, 9: 12}.items():
        assert [chosen(number, r) for r in (first - 1, first)] == ["Calib", "Calib_b"]
    (folder / "CamParams_0_17").mkdir()
    (folder / "CamParams_18_39").mkdir()
    assert [chosen(2, r) for r in (0, 17, 18, 39)] == ["Calib_a", "Calib_a", "Calib_b", "Calib_b"]


def test_calibration_files_written_by_hand(tmp_path):
    path = tmp_path / "SN1.conf"
    path.write_text(CONF)
    small = spinedepth_files.read_lens(path, 672, 376)
    assert small[:5] == (351.5, 350.5, 334.0, 186.25, (-0.17, 0.02, 1e-4, -2e-4, 0.0))
    assert small.size == (672, 376)
    assert spinedepth_files.read_lens(path, 1280, 720).distortion == (0, 0, 0, 0, 0.5)
    for size, message in (
        ((640, 480), "knows no image of 640x480"),
        ((1920, 1080), "LEFT_CAM_FHD"),
    ):
        with pytest.raises(ValueError, match=message):
            spinedepth_files.read_lens(path, *size)


def test_pose_files_written_by_hand(tmp_path):
    """Row 5 f + l is level l of frame f, a row-major matrix."""
    rows = []
    for frame in range(2):
        for level in range(5):
            matrix = np.eye(4)
            matrix[:3, 3] = [frame, level, 500]
            rows.append(",".join(str(v) for v in matrix.ravel()))
    path = tmp_path / "Poses_0.txt"
    path.write_text("\n".join(rows) + "\n")
    found = spinedepth_files.read_poses(path)
    assert found.shape == (2, 5, 4, 4)
    np.testing.assert_array_equal(found[1, 3, :3, 3], [1, 3, 500])


def test_frames_without_a_pose_are_left_out(root, capsys):
    inside = root / "Specimen_1" / "recording_0" / "cam_0"
    shutil.copytree(inside / "frame_2", inside / "frame_9")
    found = [case.id for case in spinedepth.convert(root, specimens=[1], cameras=[0])]
    assert found == ["specimen01_recording00_cam0_frame00002"]
    assert capsys.readouterr().out.count("poses end at frame 2, images at 9") == 1


def test_a_video_without_the_sdk_is_refused_with_the_remedy(root):
    shutil.rmtree(root / "Specimen_1" / "recording_0")
    (root / "Specimen_1" / "Recordings" / "Recording0" / "Video_0.svo").write_bytes(b"SVO")
    with pytest.raises(ValueError, match=r"Video_0.svo: needs the ZED SDK.*or extract the frames"):
        list(spinedepth.convert(root, specimens=[1], cameras=[0]))


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["e2r", "convert", "spinedepth", *map(str, arguments)])
    return main()


def test_converted_cases_are_case_folders(root, given, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, root, tmp_path / "cases") == 0
    assert "3 cases" in capsys.readouterr().out
    for frame, case in given.items():
        check(case_folder.read_case(tmp_path / "cases" / frame.case_id), case)


def npz(path, rows=None, data=None):
    if data is None:
        np.savez(path, rows)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("arr_0.npy", data)


def pickled():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"x": 1}], object), allow_pickle=True)
    return buffer.getvalue()


class Trap:
    """Unpickling it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def broken(root):
    """(file, what it holds in place of what it should, what the sentence says)."""
    one = root / "Specimen_1"
    frame = one / "recording_0" / "cam_0" / "frame_2"
    table = one / "Recordings" / "Recording0" / "Poses_0.txt"
    conf = one / "Calib" / "SN10027879.conf"
    text, lens = table.read_text(), conf.read_text()
    lines = text.splitlines()
    mirrored = ",".join(map(str, np.diag([1, 1, -1, 1]).ravel()))
    return [
        (table, text[: len(text) // 2].rsplit(",", 1)[0], "Poses_0.txt"),
        (table, "", "Poses_0.txt"),
        (table, "a,b\n", "no table of numbers"),
        (table, "\n", "rows of 0 values"),
        (table, "\n".join(line.rsplit(",", 1)[0] for line in lines), "rows of 15 values"),
        (table, "\n".join(lines[:-1]), "not five a frame"),
        (table, "\n".join([mirrored, *lines[1:]]), "frame 0, L1"),
        (table, text.replace(lines[0].split(",")[0], "nan", 1), "frame 0, L1"),
        (table, None, "Poses_0.txt: no such file"),
        (conf, "", "no section LEFT_CAM_VGA"),
        (conf, "fx=3", "is no calibration file"),
        (conf, lens.replace("fx=", "gx="), "has no number fx"),
        (conf, lens.replace("fx=", "fx=-"), "has fx = -"),
        (conf, lens.replace("cy=", "cy=nan #"), "cy"),
        (conf, None, "SN10027879.conf: no such file"),
        (frame / "depth.png", "x", "cannot be read as a PNG"),
        (frame / "image.png", None, "no such file"),
        (one / "STL" / "L2.stl", "solid", "L2.stl"),
        (one / "STL" / "L2.stl", None, "no such file"),
    ]


def test_broken_files_are_refused_in_one_sentence(root, tmp_path, capsys):
    for path, content, message in broken(root):
        before = path.read_bytes()
        path.unlink()
        if content is not None:
            path.write_text(content)
        more = ("--specimens", 1, "--cameras", 0)
        refused(capsys, message, "convert", "spinedepth", root, tmp_path / "out", *more)
        path.write_bytes(before)
    for more, message in (
        (("--specimens", 8), "has no Specimen_8"),
        (("--cameras", 2), "use 0, 1 or both"),
        (("--every", 0), "--every is 0"),
    ):
        refused(capsys, message, "convert", "spinedepth", root, tmp_path / "out", *more)
    nowhere = tmp_path / "nowhere"
    refused(capsys, "no such folder", "convert", "spinedepth", nowhere, tmp_path / "out")


def broken_clouds(trap):
    """(what makes the file, what the sentence says)."""
    return [
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_bytes(b"PK\x03\x04 cut"), "cannot be read"),
        (lambda path: npz(path, data=b"\x93NUMPY"), "cannot be read"),
        (lambda path: npz(path, data=pickled()), "cannot be read"),
        (lambda path: np.savez(path, np.array([Trap(trap)], object)), "cannot be read"),
        (lambda path: npz(path, np.zeros((4, 6))), "columns x y z r g b label"),
        (lambda path: npz(path, np.zeros(7)), "columns x y z r g b label"),
        (lambda path: np.savez(path, other=np.zeros((4, 7))), "cannot be read"),
        (lambda path: npz(path, np.full((40, 7), np.nan)), "holds 0 points"),
        (lambda path: npz(path, np.full((40, 7), 0.4)), "in metres"),
    ]


def test_broken_clouds_are_refused_and_run_no_code(given, tmp_path, capsys):
    trap, root = tmp_path / "trap", tmp_path / "in"
    layouts.write_spinedepth(root, dict([next(iter(given.items()))]), clouds=True)
    (path,) = root.glob("*.npz")
    for make, message in broken_clouds(trap):
        make(path)
        refused(capsys, message, "convert", "spinedepth", root, tmp_path / "out")
    assert not trap.exists()
    assert not list(tmp_path.glob("out/*"))


def test_the_writer_needs_five_levels_and_one_lens(given, tmp_path):
    case = next(iter(given.values()))
    some = {name: case.model[name] for name in LEVELS[:3]}
    with pytest.raises(ValueError, match="levels L1 to L5"):
        layouts.write_spinedepth(tmp_path, {FrameId(1, 0, 0, 0): replace(case, model=some)})
    lens = case.image._replace(fx=case.image.fx + 1.0)
    two = {FrameId(1, 0, 0, 0): case, FrameId(1, 0, 0, 1): replace(case, image=lens)}
    with pytest.raises(ValueError, match="another lens"):
        layouts.write_spinedepth(tmp_path, two)
