"""Camera matrices and cameras of several: read rightly, turned and said, or refused."""

import numpy as np
import pytest
from camera_cases import COLUMNS, FLAT, FLAT_COLUMNS, GOAL, PLAIN, ROWS, SIZE, reader, refused


@pytest.fixture
def read(tmp_path, caplog):
    return reader(tmp_path, caplog)


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
    caplog.clear()
    refused(read, "11 % off the middle of the picture of 640x480; give", PLAIN | {"cx": 250.0})
    assert not caplog.records
    assert read(PLAIN | {"cx": 250.0}, unchecked=True)[:3] == (600.0, 603.0, 250.0)
    assert "11 % off the middle of the picture of 640x480; it was used, for" in caplog.text
    caplog.clear()
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
