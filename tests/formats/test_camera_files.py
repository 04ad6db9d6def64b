"""Camera files of many programs: every spelling is read rightly, or refused in one sentence."""

import json

import numpy as np
import pytest

from e2r.formats import camera_files

GOAL = (600.0, 603.0, 321.0, 242.5)
SIZE = (640, 480)
ROWS = [[600.0, 0.0, 321.0], [0.0, 603.0, 242.5], [0.0, 0.0, 1.0]]
COLUMNS = np.transpose(ROWS).tolist()
FLAT = [n for row in ROWS for n in row]
FLAT_COLUMNS = [n for row in COLUMNS for n in row]
BENT = [-0.2, 0.05, 1e-3, -5e-4, 0.02]
PLAIN = {"fx": 600.0, "fy": 603.0, "cx": 321.0, "cy": 242.5}


@pytest.fixture
def read(tmp_path, caplog):
    """Writes a file, and reads the lens; what is said is in ``caplog``."""

    def write_and_read(content, name="camera.json", size=SIZE):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        caplog.clear()
        return camera_files.read_lens(path, size)

    return write_and_read


def refused(read, words, content, name="camera.json", size=SIZE):
    with pytest.raises(ValueError, match=words) as caught:
        read(content, name, size)
    text = str(caught.value)
    assert name in text and "\n" not in text and (";" in text or "," in text), text


# Matrices -----------------------------------------------------------------------------------------

SILENT = {
    "by rows": {"camera_matrix": ROWS},
    "flat": {"cameraMatrix": FLAT},
    "K": {"K": ROWS},
    "k": {"k": FLAT},
    "mtx": {"mtx": ROWS},
    "Open3D": {"intrinsic_matrix": FLAT_COLUMNS, "width": 640, "height": 480},
    "columns, nested": {"intrinsic_matrix": COLUMNS},
    "wrapped": {"intrinsics": {"camera_matrix": ROWS}},
    "four by four": {"K": np.block([[np.array(ROWS), np.zeros((3, 1))], [0, 0, 0, 1]]).tolist()},
    "Kalibr's four": {"cam0": {"intrinsics": list(GOAL), "resolution": [640, 480]}},
    "RealSense": {"fx": 600, "fy": 603, "ppx": 321, "ppy": 242.5, "model": "None"},
    "nerfstudio": {"fl_x": 600, "fl_y": 603, "cx": 321, "cy": 242.5, "w": 640, "h": 480},
    "ORB-SLAM": {f"Camera.{name}": value for name, value in PLAIN.items()},
    "both": {"camera_matrix": ROWS, **PLAIN},
    "with rows and cols": {"camera_matrix": {"rows": 3, "cols": 3, "data": FLAT}},
}


@pytest.mark.parametrize("name", SILENT)
def test_every_spelling_of_intrinsics_is_read(read, caplog, name):
    lens = read(SILENT[name])
    assert lens[:4] == GOAL and not lens.bends and not caplog.records


TURNED = {
    "columns": {"camera_matrix": COLUMNS},
    "flat columns": {"camera_matrix": FLAT_COLUMNS},
    "K by columns": {"K": COLUMNS},
    "Open3D's by rows": {"intrinsic_matrix": FLAT},
    "Open3D's by nested rows": {"intrinsic_matrix": ROWS},
    "rows and cols": {"K": {"rows": 3, "cols": 3, "data": FLAT_COLUMNS}},
}


@pytest.mark.parametrize("name", TURNED)
def test_a_matrix_by_the_other_order_is_turned_and_said(read, caplog, name):
    assert read(TURNED[name])[:4] == GOAL
    assert "it is read so" in caplog.text


NO_MATRIX = {
    "no last row": ([[600, 0, 321], [0, 603, 242.5], [0, 0, 0]], "is no camera matrix"),
    "both corners": ([[600, 0, 321], [0, 603, 242.5], [5, 6, 1]], "is no camera matrix"),
    "no centre": ([[600, 0, 0], [0, 603, 0], [0, 0, 1]], "is no camera matrix"),
    "skew": ([[600, 1.5, 321], [0, 603, 242.5], [0, 0, 1]], "a skew of 1.5 pixels"),
    "scaled": ((2 * np.array(ROWS)).tolist(), "is no camera matrix"),
    "two rows": (ROWS[:2], "must be 3 by 3 numbers"),
    "ragged": ([[600, 0], [0, 603, 3], [1]], "must be 3 by 3 numbers"),
    "text": ("600 0 321", "must be 3 by 3 numbers"),
    "not finite": ([[np.nan, 0, 321], [0, 603, 242.5], [0, 0, 1]], "must be 3 by 3 numbers"),
    "zeros": (np.zeros((3, 3)).tolist(), "is no camera matrix"),
}


@pytest.mark.parametrize("name", NO_MATRIX)
def test_what_is_no_camera_matrix_is_refused(read, name):
    matrix, words = NO_MATRIX[name]
    refused(read, words, {"camera_matrix": matrix})


IMPLAUSIBLE = {
    "normalised": ({"fx": 0.94, "fy": 1.25, "cx": 0.5, "cy": 0.5}, "not in pixels"),
    "normalised matrix": ({"K": [[0.94, 0, 0.5], [0, 1.25, 0.5], [0, 0, 1]]}, "not in pixels"),
    "millimetres": (PLAIN | {"fx": 3.6, "fy": 3.6}, "not in pixels"),
    "negative": (PLAIN | {"fx": -600.0}, "fx is -600; it must be more than 0"),
    "outside": (PLAIN | {"cx": 700.0}, "lies outside the picture of 640x480"),
    "outside its own": (PLAIN | {"width": 320, "height": 240}, "for 320x240, but the picture"),
    "zero centre": (PLAIN | {"cx": 0.0}, "cx is 0"),
    "of twice the size": ({k: 2 * v for k, v in PLAIN.items()}, "lies outside the picture"),
    "of half the size": ({k: v / 2 for k, v in PLAIN.items()}, "off the middle"),
    "of 960x720": ({k: 1.5 * v for k, v in PLAIN.items()}, "off the middle"),
    "of 848x480": (PLAIN | {"cx": 424.0}, "off the middle"),
    "centre exchanged": (PLAIN | {"cx": 242.5, "cy": 321.0}, "off the middle"),
    "focal lengths apart": (PLAIN | {"fy": 800.0}, "33 % apart"),
    "fx and cx exchanged": ({"intrinsics": [600.0, 321.0, 603.0, 242.5]}, "87 % apart"),
    "an angle of 176 degrees": (PLAIN | {"fx": 12.0, "fy": 12.0}, "fits no camera"),
    "skew": (PLAIN | {"skew": 0.5}, "skew is 0.5"),
    "two that differ": (PLAIN | {"camera_matrix": [[500, 0, 321], *ROWS[1:]]}, "differ"),
    "two cases": (PLAIN | {"FX": 500.0}, "fx and FX differ"),
    "only a part": ({"fx": 600.0, "camera_matrix": ROWS}, "only some of fx"),
    "nothing": ({"hello": 1}, "it holds neither"),
    "half a pixel": (PLAIN | {"width": 640.5, "height": 480}, "number of pixels"),
    "a depth unit": (PLAIN | {"depth_units": 0.001}, "may be a scale of the depth"),
}


@pytest.mark.parametrize("name", IMPLAUSIBLE)
def test_implausible_intrinsics_are_refused(read, name):
    content, words = IMPLAUSIBLE[name]
    refused(read, words, content)


def test_odd_but_possible_intrinsics_are_said(read, caplog):
    read(PLAIN | {"fy": 620.0})
    assert "3 % apart; check that both are right" in caplog.text
    read(PLAIN | {"cx": 250.0})
    assert "11 % off the middle" in caplog.text
    read(PLAIN)
    assert not caplog.records
    assert read(PLAIN, size=None)[:4] == GOAL


def test_sizes_are_read_from_every_name(read):
    for given in (
        {"width": 640, "height": 480},
        {"image_width": 640, "image_height": 480},
        {"resolution": [640, 480]},
        {"resolution": "640x480"},
        {"image_size": [480, 640]},
        {"image_size": [640, 480]},
    ):
        assert read(PLAIN | given).size == SIZE
    assert read(PLAIN | {"width": 0, "height": 0}).size is None
    assert read(PLAIN | {"DepthMapFactor": 5000.0}).depth_scale == 5.0


# Several cameras ----------------------------------------------------------------------------------


def stream(scale, **more):
    values = {name: scale * value for name, value in zip(PLAIN, GOAL, strict=True)}
    named = {"fx": "fx", "fy": "fy", "cx": "ppx", "cy": "ppy"}
    return {named[k]: v for k, v in values.items()} | {
        "width": round(640 * scale),
        "height": round(480 * scale),
        "model": "Brown Conrady",
        "coeffs": [0.0] * 5,
        **more,
    }


def test_the_colour_camera_of_several_is_read(read, caplog):
    for content in (
        {"color": stream(1.0), "depth": stream(1.0, fx=610.0)},
        {"depth": stream(2.0), "rgb": {"intrinsics": stream(1.0)}},
        {"streams": [{"name": "depth", **stream(1.0)}, {"name": "color", **stream(1.0)}]},
    ):
        assert read(content)[:4] == GOAL
        assert "named a colour" in caplog.text or "of the picture's size" in caplog.text
    assert read({"color": stream(2.0), "depth": stream(1.0)})[:4] == GOAL
    assert "depth is read, the one of the picture's size" in caplog.text
    assert read({"depth": stream(1.0), "serial": "123"})[:4] == GOAL
    assert not caplog.records


def test_cameras_that_nothing_tells_apart_are_refused(read):
    cameras = {"cam0": stream(1.0), "cam1": stream(1.0, fx=599.0)}
    refused(read, "holds the cameras cam0, cam1", cameras)
    refused(
        read, "holds the cameras left, right", {"left": cameras["cam0"], "right": cameras["cam1"]}
    )
    refused(read, "holds the cameras", cameras, size=None)
    deep = "{a: " * 3 + "1" + "}" * 3
    refused(read, "it holds neither", deep, "camera.yaml")


# ROS, Kalibr, OpenCV, MATLAB, Zivid ---------------------------------------------------------------

ROS_FILE = """image_width: 640
image_height: 480
camera_name: head_camera
camera_matrix:
  rows: 3
  cols: 3
  data: [600, 0, 321, 0, 603, 242.5, 0, 0, 1]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [-0.2, 0.05, 1e-3, -5e-4, 0.02]
rectification_matrix:
  rows: 3
  cols: 3
  data: [1, 0, 0, 0, 1, 0, 0, 0, 1]
projection_matrix:
  rows: 3
  cols: 4
  data: [600, 0, 321, 0, 0, 603, 242.5, 0, 0, 0, 1, 0]
"""
ROS_TOPIC = """header:
  seq: 3
  stamp: {secs: 1, nsecs: 2}
  frame_id: camera_color_optical_frame
height: 480
width: 640
distortion_model: "plumb_bob"
D: [-0.2, 0.05, 0.001, -0.0005, 0.02]
K: [600.0, 0.0, 321.0, 0.0, 603.0, 242.5, 0.0, 0.0, 1.0]
R: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
P: [600.0, 0.0, 321.0, 0.0, 0.0, 603.0, 242.5, 0.0, 0.0, 0.0, 1.0, 0.0]
binning_x: 0
binning_y: 0
roi: {x_offset: 0, y_offset: 0, height: 0, width: 0, do_rectify: False}
---
"""
KALIBR = """cam0:
  cam_overlaps: []
  camera_model: pinhole
  distortion_coeffs: [-0.2, 0.05, 1e-3, -5e-4]
  distortion_model: radtan
  intrinsics: [600.0, 603.0, 321.0, 242.5]
  resolution: [640, 480]
  rostopic: /camera/color/image_raw
"""
OPENCV_4 = """%YAML:1.0
---
calibration_time: "Fri 1 Jan 00:00:00 2027"
image_width: 640
image_height: 480
flags: 0
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 600., 0., 321., 0., 603., 2.4250000000000000e+02, 0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 5
   cols: 1
   dt: d
   data: [ -2.0000000000000001e-01, 5.0000000000000003e-02, 1e-3, -5.e-04, 0.02 ]
avg_reprojection_error: 2.5e-01
"""
ZIVID = """__version__:
  serializer: 1
  data: 9
CameraIntrinsics:
  CameraMatrix: {CX: 321.0, CY: 242.5, FX: 600.0, FY: 603.0}
  Distortion: {K1: -0.2, K2: 0.05, K3: 0.02, P1: 0.001, P2: -0.0005}
"""
YAMLS = {
    "ROS 1 file": ROS_FILE,
    "ROS 1 topic": ROS_TOPIC,
    "ROS 2 topic": ROS_TOPIC.replace("D:", "d:").replace("K:", "k:").replace("P:", "p:"),
    "Kalibr": KALIBR,
    "OpenCV 4": OPENCV_4,
    "Zivid": ZIVID,
    "flat": "fx: 600\nfy: 603\ncx: 321\ncy: 242.5\ndist: [-0.2, 0.05, 1e-3, -5e-4, 2e-2]\n",
}


@pytest.mark.parametrize("name", YAMLS)
def test_yaml_of_every_program_is_read(read, caplog, name):
    for file in ("camera.yaml", "camera.YML"):
        lens = read(YAMLS[name], file)
        assert lens[:4] == GOAL and not caplog.records
        assert lens.size == (None if name in ("Zivid", "flat") else SIZE)
        np.testing.assert_allclose(lens.distortion[:4], BENT[:4])
        assert lens.distortion[4] == (0.0 if name == "Kalibr" else 0.02)


@pytest.mark.parametrize("suffix", ["yml", "yaml", "xml", "json"])
def test_what_opencv_writes_is_read_as_opencv_reads_it(read, tmp_path, suffix):
    cv2 = pytest.importorskip("cv2")
    path = str(tmp_path / f"opencv.{suffix}")
    storage = cv2.FileStorage(path, cv2.FILE_STORAGE_WRITE)
    storage.write("image_width", 640)
    storage.write("image_height", 480)
    storage.write("camera_matrix", np.array(ROWS))
    storage.write("distortion_coefficients", np.array([[*BENT[:4], 1e-5]]))
    storage.release()
    lens = camera_files.read_lens(path, SIZE)
    storage = cv2.FileStorage(path, cv2.FILE_STORAGE_READ)
    matrix = storage.getNode("camera_matrix").mat()
    np.testing.assert_array_equal(lens[:4], matrix[[0, 1, 0, 1], [0, 1, 2, 2]])
    goal = storage.getNode("distortion_coefficients").mat().ravel()
    np.testing.assert_array_equal(lens.distortion[:5], goal)


def test_a_rectified_ros_picture_needs_its_own_matrix(read, caplog):
    other = ROS_TOPIC.replace("P: [600.0", "P: [580.0")
    assert read(other, "camera.yaml")[:4] == GOAL
    assert "K and P differ; K is read" in caplog.text
    only = "P: [580.0, 0, 321.0, -30.0, 0, 583.0, 242.5, 0, 0, 0, 1, 0]\nwidth: 640\nheight: 480\n"
    lens = read(only, "camera.yaml")
    assert lens[:4] == (580.0, 583.0, 321.0, 242.5) and not lens.bends
    refused(
        read, "binning_x is more than 1", ROS_TOPIC.replace("ing_x: 0", "ing_x: 2"), "camera.yaml"
    )
    refused(read, "roi is a part", ROS_TOPIC.replace("x_offset: 0", "x_offset: 8"), "camera.yaml")
    uncalibrated = ROS_TOPIC.replace("K: [600.0", "K: [0.0").replace("0.0, 1.0]", "0.0, 0.0]")
    refused(read, "is no camera matrix", uncalibrated, "camera.yaml")


MATLAB = {
    "RadialDistortion": [-0.2, 0.05, 0.02],
    "TangentialDistortion": [1e-3, -5e-4],
    "ImageSize": [480, 640],
}


def test_matlab_counts_pixels_from_one(read, caplog):
    """MATLAB's matrices are the transpose of OpenCV's, and its first pixel is (1, 1)."""
    moved = np.add(ROWS, [[0, 0, 1], [0, 0, 1], [0, 0, 0]])
    for more in (
        {"IntrinsicMatrix": moved.T.tolist()},
        {"K": moved.tolist()},
        {"FocalLength": [600.0, 603.0], "PrincipalPoint": [322.0, 243.5], "Skew": 0},
    ):
        lens = read(MATLAB | more)
        assert lens[:4] == GOAL and lens.size == SIZE
        np.testing.assert_allclose(lens.distortion[:5], BENT)
        assert "1 is subtracted" in caplog.text
    refused(read, "Skew is 2", MATLAB | {"K": moved.tolist(), "Skew": 2.0})
    refused(read, "has 4 numbers", MATLAB | {"K": ROWS, "RadialDistortion": [1, 2, 3, 4]})


def test_a_matrix_of_the_undistorted_picture_is_said(read, caplog):
    new = [[550.0, 0, 321.0], [0, 553.0, 242.5], [0, 0, 1]]
    assert read({"mtx": ROWS, "dist": BENT, "newcameramtx": new})[:4] == GOAL
    assert "K and newcameramtx differ" in caplog.text


# Broken files -------------------------------------------------------------------------------------

BROKEN = {
    "a list": ("[1, 2]", "camera.json", "must hold one JSON object"),
    "torn yaml": ("fx: [1, 2", "camera.yaml", "is not plain YAML"),
    "code in yaml": ("fx: !!python/object/apply:os.getcwd []", "camera.yaml", "is not plain YAML"),
    "month 13": ("day: 2027-13-45\nfx: 3", "camera.yaml", "is not plain YAML"),
    "a yaml list": ("- fx\n- fy", "camera.yaml", "must hold names and values"),
    "empty yaml": ("", "camera.yml", "must hold names and values"),
    "torn xml": ("<opencv_storage><a>", "camera.xml", "is not XML"),
    "other xml": ("<calibration><fx>3</fx></calibration>", "camera.xml", "is not XML of OpenCV"),
    "entities": ('<!DOCTYPE a [<!ENTITY b "c">]><a/>', "camera.xml", "defines entities"),
    "no ini": ("hello", "camera.conf", "is not INI text"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_in_one_sentence(read, name):
    content, file, words = BROKEN[name]
    refused(read, words, content, file)


PIECES = [
    "k1",
    "[",
    "]",
    "{",
    "}",
    ":",
    "- ",
    "!!",
    "&a ",
    "*a",
    "null",
    "1e400",
    "-1",
    "nan",
    "\n",
    "  ",
    '"',
    "[1,[2]]",
    "D",
    "K",
    "0",
    "2027-13-01",
    "~",
    "=",
    "0x",
    "_",
    "\0",
]


def test_changed_files_are_read_or_refused_in_one_sentence(read):
    rng = np.random.default_rng(0)
    names = sorted(YAMLS)
    for number in range(200):
        text = YAMLS[names[number % len(names)]]
        start = int(rng.integers(len(text)))
        end = start + int(rng.choice([0, 1, 10, 60]))
        try:
            lens = read(text[:start] + str(rng.choice(PIECES)) + text[end:], "camera.yaml")
            assert min(lens[:4]) > 0
        except ValueError as error:
            assert "camera.yaml: " in str(error) and "\n" not in str(error)


def test_a_byte_order_mark_is_no_error(tmp_path):
    for name, text in (("a.json", json.dumps(PLAIN)), ("a.yaml", YAMLS["flat"])):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert camera_files.read_lens(tmp_path / name)[:4] == GOAL
    (tmp_path / "b.yaml").write_bytes(json.dumps(PLAIN).encode("utf-16"))
    with pytest.raises(ValueError, match="is no text"):
        camera_files.read_lens(tmp_path / "b.yaml")
    with pytest.raises(ValueError, match="no such file"):
        camera_files.read_lens(tmp_path / "c.yaml")
