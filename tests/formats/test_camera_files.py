"""Camera files of many programs: every one is read rightly, or refused in one sentence."""

import json

import numpy as np
import pytest
from camera_cases import BENT, GOAL, PLAIN, ROWS, SIZE, reader, refused

from e2r.formats import camera_files


@pytest.fixture
def read(tmp_path, caplog):
    return reader(tmp_path, caplog)


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
