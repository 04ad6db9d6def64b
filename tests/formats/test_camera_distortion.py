"""Distortion of every spelling is read and undone as OpenCV does it, or refused; never dropped."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from e2r.datasets import rgbd
from e2r.formats import camera_files
from e2r.formats.cameras import devices

cv2 = pytest.importorskip("cv2")

INPUTS = Path(__file__).resolve().parents[2].parent / "shared" / "inputs" / "intrinsics"
SIZE = (128, 96)
MATRIX = np.array([[100.0, 0, 63.5], [0, 101.0, 47.5], [0, 0, 1]])
PLAIN = {"fx": 100.0, "fy": 101.0, "cx": 63.5, "cy": 47.5}
FIVE = [-0.25, 0.05, 2e-3, -1e-3, 0.02]
RADIAL = [-0.25, 0.05, 0.02]
EIGHT = [0.45, -2.3, 4e-4, -1e-4, 1.4, 0.33, -2.1, 1.3]
TWELVE = [-0.2, 0.05, 1e-3, 2e-3, 0.01, 0.0, 0.0, 0.0, 0.01, -0.02, 0.015, 0.005]
FISHEYE = [0.02, -0.01, 0.004, -0.001]
BY_NAME = dict(zip(("k1", "k2", "p1", "p2", "k3"), FIVE, strict=True))


@pytest.fixture
def read(tmp_path, caplog):
    def write_and_read(fields, size=SIZE):
        path = tmp_path / "camera.json"
        path.write_text(json.dumps(PLAIN | fields))
        caplog.clear()
        return camera_files.read_lens(path, size)

    return write_and_read


def write_frame(folder, about):
    """A picture of smooth colours, and a depth that differs from pixel to pixel."""
    folder.mkdir()
    v, u = np.mgrid[: SIZE[1], : SIZE[0]]
    color = np.stack([u + 60, v + 90, 200 - v], -1).astype(np.uint8)
    depth = (20000 + 40 * u + 17 * v).astype(np.uint16)
    Image.fromarray(color).save(folder / "color.png")
    Image.fromarray(depth).save(folder / "depth.png")
    if isinstance(about, dict):
        about = json.dumps({"depth_scale": 50} | about)
    (folder / "intrinsics.json").write_text(about)
    return color, depth


def compare_with_opencv(folder, about, maps):
    """The frame as read, against OpenCV's remap of the same pictures."""
    color, depth = write_frame(folder, about)
    image = rgbd.read_image_folder(folder)
    x, y = maps
    goal = cv2.remap(color, x, y, cv2.INTER_LINEAR)
    near = cv2.remap(depth, x, y, cv2.INTER_NEAREST) / 50.0
    inside = (x > 1) & (x < SIZE[0] - 2) & (y > 1) & (y < SIZE[1] - 2)
    assert inside.mean() > 0.5
    assert np.abs(image.color.astype(int) - goal)[inside].max() <= 1
    assert np.abs(image.depth - near)[inside].max() <= (40 + 17) / 50.0  # the next pixel's
    assert np.median(np.abs(image.depth - near)[inside]) == pytest.approx(0.0, abs=1e-3)
    v, u = np.mgrid[: SIZE[1], : SIZE[0]]
    assert np.hypot(x - u, y - v)[inside].max() > 2.0  # so far off is what was dropped


def brown_maps(values):
    return cv2.initUndistortRectifyMap(
        MATRIX, np.array(values), np.eye(3), MATRIX, SIZE, cv2.CV_32FC1
    )


SPELLINGS = {
    "distortion_coefficients": {"distortion_coefficients": FIVE},
    "distCoeffs": {"distCoeffs": FIVE},
    "D": {"D": FIVE},
    "dist": {"dist": [FIVE]},
    "a column": {"Distortion": [[value] for value in FIVE]},
    "by name": BY_NAME,
    "a dictionary": {"distortion": {"model": "brown_conrady"} | BY_NAME},
    "capitals": {"lens_distortion": {name.upper(): value for name, value in BY_NAME.items()}},
    "a dictionary of lists": {"distortion": {"radial": RADIAL, "tangential": FIVE[2:4]}},
    "MATLAB's two": {"radial_distortion": RADIAL, "tangential_distortion": [2e-3, -1e-3]},
    "with rows and cols": {"distortion_coefficients": {"rows": 1, "cols": 5, "data": FIVE}},
    "RealSense": {"model": "Brown Conrady", "coeffs": FIVE},
    "a number of RealSense": {"model": 4, "coeffs": FIVE},
    "pybind": {"model": "distortion.brown_conrady", "coeffs": FIVE},
    "twice the same": {"D": FIVE, "k1": -0.25, "k2": 0.05},
    "beside": {"intrinsics": PLAIN, "distortion": FIVE},
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_distortion_under_any_name_is_opencvs(tmp_path, name):
    about = SPELLINGS[name] if name == "beside" else PLAIN | SPELLINGS[name]
    compare_with_opencv(tmp_path / "frame", about, brown_maps(FIVE))


@pytest.mark.parametrize("values", [FIVE[:4], EIGHT, TWELVE, [*TWELVE, 0.06, -0.04]])
def test_every_number_of_coefficients_is_opencvs(tmp_path, values):
    about = PLAIN | {"distortion_model": "rational_polynomial", "distortion_coeffs": values}
    compare_with_opencv(tmp_path / "frame", about, brown_maps(values))


@pytest.mark.parametrize(
    "about",
    [
        {"distortion_model": "equidistant", "distortion_coeffs": FISHEYE},
        {"model": "Kannala Brandt4", "coeffs": [*FISHEYE, 0.0]},
        {"camera_model": "OPENCV_FISHEYE", **{f"k{i + 1}": FISHEYE[i] for i in range(4)}},
        {"fisheye": True, "D": FISHEYE},
        {"camera_model": "pinhole", "distortion_model": "equi", "dist": FISHEYE},
    ],
)
def test_a_named_fisheye_is_opencvs(tmp_path, about):
    maps = cv2.fisheye.initUndistortRectifyMap(
        MATRIX, np.array(FISHEYE), np.eye(3), MATRIX, SIZE, cv2.CV_32FC1
    )
    compare_with_opencv(tmp_path / "frame", PLAIN | about, maps)


SAMPLES = {
    "brown5_distortion_coefficients": [-0.25, 0.05, 0.0, 0.0, 0.0],
    "brown5_distortion_coeffs_kalibr": [-0.25, 0.05, 0.0, 0.0],
    "distortion_is_a_dict": [-0.25, 0.05, 0.0, 0.0, 0.0],
    "fisheye_equidistant": FISHEYE,
}


@pytest.mark.parametrize("name", SAMPLES)
def test_the_sample_inputs_are_read_as_opencv_reads_them(tmp_path, name):
    path = INPUTS / f"{name}.json"
    if not path.is_file():
        pytest.skip("the sample inputs lie outside the repository")
    values = np.array(SAMPLES[name])
    maps = brown_maps(values)
    if "fisheye" in name:
        maps = cv2.fisheye.initUndistortRectifyMap(
            MATRIX, values, np.eye(3), MATRIX, SIZE, cv2.CV_32FC1
        )
    compare_with_opencv(tmp_path / "frame", path.read_text(), maps)


def test_models_of_librealsense_are_named(read):
    """Its *inverse* model is computed as its *modified* one; F-theta has one angle."""
    for name in ("Inverse Brown Conrady", "modified_brown_conrady", 1, 2):
        lens = read({"model": name, "coeffs": FIVE})
        assert lens.model == "modified_brown_conrady" and lens.distortion == tuple(FIVE)
    assert not read({"model": "inverse_brown_conrady", "coeffs": [0.0] * 5}).bends
    assert read({"model": "RS2_DISTORTION_FTHETA", "coeffs": [0.9, 0, 0, 0, 0]}).model == "fov"
    assert read({"distortion_model": "fov", "D": [0.9]}).distortion == (0.9,)
    assert not read({"model": "None", "coeffs": [0.0] * 5}).bends


HARMLESS = {
    "no coefficients": {"D": [], "distortion_model": "plumb_bob"},
    "null": {"distortion": None},
    "none": {"distortion_model": "none", "distortion_coeffs": []},
    "zeros": {"distortion_whatever": [0, 0, 0]},
    "a device": {"model": "Intel RealSense D435", "coeffs": [0.0] * 5},
    "undistorted": {"undistorted": True, "D": [0.0] * 5},
    "a distance": {"working_distance": 700, "distance_mm": 600},
    "an error": {"avg_reprojection_error": 0.3, "rms": 0.2},
    "extrinsics": {"extrinsics": {"R": [[1, 0, 0]], "t": [1, 2, 3]}, "T_cam_imu": [[1, 2]]},
}


@pytest.mark.parametrize("name", HARMLESS)
def test_fields_that_bend_nothing_are_no_distortion(read, caplog, name):
    lens = read(HARMLESS[name])
    assert not lens.bends and lens[:4] == (100.0, 101.0, 63.5, 47.5) and not caplog.records


REFUSED = {
    "an unknown name": ({"distortion_poly": [0.1, 0.2]}, "distortion_poly looks like distortion"),
    "a table": ({"lens": {"undistortion_map": "map.tif"}}, "undistortion_map looks like"),
    "radial terms": ({"radialTerms": [0.1, 0.2]}, "radialTerms looks like distortion"),
    "k7": ({"k1": 0.1, "k7": 0.2}, "k7 looks like distortion"),
    "Halcon": ({"kappa": -300.0}, "kappa looks like distortion"),
    "b1": ({"b1": 3.0}, "b1 looks like distortion"),
    "inside": ({"distortion": {"k1": 0.1, "centre": [3, 4]}}, "centre looks like distortion"),
    "a model": ({"distortion_model": "polynomial", "D": FIVE}, "'polynomial' is unknown"),
    "omni": ({"camera_model": "omni", "D": FIVE[:4]}, "'omni' is unknown"),
    "a device that bends": ({"model": "D435", "coeffs": FIVE}, "'D435' is an unknown model"),
    "a panorama": ({"projection": "equirectangular"}, "'equirectangular' is an unknown model"),
    "two models": ({"model": "brown", "distortion_model": "fisheye", "D": FISHEYE}, "names"),
    "none and some": ({"model": "None", "coeffs": FIVE}, "says that there is no distortion"),
    "rectified": ({"undistorted": True, "D": FIVE}, "there is no distortion (.undistorted.)"),
    "six": ({"D": [*FIVE, 0.1]}, "D has 6 numbers"),
    "five of a fisheye": ({"distortion_model": "equidistant", "D": FIVE}, "D has 5 numbers"),
    "p1 of a fisheye": ({"distortion_model": "equidistant", "k1": 0.1, "p1": 0.1}, "p1 is no"),
    "no fisheye's": ({"distortion_model": "equidistant"}, "but no coefficients"),
    "k4 alone": ({"k1": 0.1, "k2": 0.1, "k3": 0.1, "k4": 0.1}, "k4 without k5 and k6"),
    "two lists": ({"D": FIVE, "coeffs": EIGHT}, "differ"),
    "a list and a name": ({"D": FIVE, "k1": 0.3}, "D and k1 differ"),
    "text": ({"D": "none"}, "D must be a list of numbers, not none"),
    "huge": ({"D": [1e6, 0, 0, 0]}, "no distortion"),
    "infinite": ({"k1": float("inf")}, "k1 must be a number"),
    "no angle": ({"distortion_model": "fov", "D": [4.0]}, "no angle"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_distortion_that_is_not_understood_is_refused(read, name):
    fields, words = REFUSED[name]
    with pytest.raises(ValueError, match=words) as caught:
        read(fields)
    assert "camera.json" in str(caught.value) and "\n" not in str(caught.value)


def test_odd_distortion_is_said(read, caplog):
    read({"D": [-0.2, 0.05, 0.2, 0.0, 0.0]})
    assert "p1 is 0.2, which is large" in caplog.text
    read({"D": [-1.2, 0.0, 0.0, 0.0, 0.0]})
    assert "does not reach the picture's edge" in caplog.text
    read({"D": FIVE})
    assert not caplog.records


def test_wide_cameras_of_kalibr_are_refused(tmp_path):
    path = tmp_path / "camchain.yaml"
    path.write_text(
        "cam0:\n  camera_model: omni\n  intrinsics: [0.9, 600, 603, 321, 242]\n"
        "  distortion_model: radtan\n  distortion_coeffs: [0, 0, 0, 0]\n  resolution: [640, 480]\n"
    )
    with pytest.raises(ValueError, match="'omni' is unknown"):
        camera_files.read_lens(path)


# Devices ------------------------------------------------------------------------------------------


def azure(**changes):
    """Raw calibration in shares of the sensor, as the device stores it."""
    color = [0.49951, 0.50341, 0.44409, 0.59229]
    bends = [0.5, -2.6, 1.5, 0.38, -2.4, 1.4, 0.0, 0.0, -1e-4, 6e-4]
    depth = [0.50361, 0.50512, 0.49263, 0.49277]
    camera = {"ModelParameterCount": 14, "ModelType": "CALIBRATION_LensDistortionModelBrownConrady"}
    cameras = [
        {
            "Location": "CALIBRATION_CameraLocationD0",
            "Intrinsics": camera | {"ModelParameters": depth + bends},
            "SensorWidth": 1024,
            "SensorHeight": 1024,
        },
        {
            "Location": "CALIBRATION_CameraLocationPV0",
            "Intrinsics": camera | {"ModelParameters": color + bends} | changes,
            "SensorWidth": 4096,
            "SensorHeight": 3072,
        },
    ]
    return {"CalibrationInformation": {"Cameras": cameras}}


@pytest.fixture
def read_azure(tmp_path):
    def write_and_read(size, **changes):
        path = tmp_path / "calibration.json"
        path.write_text(json.dumps(azure(**changes)))
        return camera_files.read_lens(path, size)

    return write_and_read


def test_azure_kinects_raw_calibration_is_scaled_to_the_picture(read_azure, caplog):
    """By the SDK: 720 rows of a sensor binned to 1280x960, from row 120; pixel centres at 0."""
    lens = read_azure((1280, 720))
    goal = (0.44409 * 1280, 0.59229 * 960, 0.49951 * 1280 - 0.5, 0.50341 * 960 - 120 - 0.5)
    np.testing.assert_allclose(lens[:4], goal)
    assert lens.distortion == (0.5, -2.6, 6e-4, -1e-4, 1.5, 0.38, -2.4, 1.4)
    assert lens.size == (1280, 720) and "the colour camera is read" in caplog.text
    lens = read_azure((640, 576))
    goal = (0.49263 * 1024, 0.49277 * 1024, 0.50361 * 1024 - 192.5, 0.50512 * 1024 - 180.5)
    np.testing.assert_allclose(lens[:4], goal)
    assert "the depth camera is read" in caplog.text
    assert read_azure(None).size == (4096, 3072)


def test_other_raw_calibrations_are_refused(read_azure):
    for size, changes, words in (
        ((640, 480), {}, "takes no picture of 640x480"),
        ((1280, 720), {"ModelType": "CALIBRATION_LensDistortionModelRational6KT"}, "is unknown"),
        ((1280, 720), {"ModelParameters": [0.5] * 4}, "must be 14 numbers"),
        ((1280, 720), {"ModelParameters": [0.5] * 14}, "is unknown"),
    ):
        with pytest.raises(ValueError, match=words):
            read_azure(size, **changes)


ZED = """[LEFT_CAM_HD]
fx=700.5
fy=700.9
cx=640.2
cy=361.3
k1=-0.17
k2=0.026
p1=0.0003
p2=-0.0001
k3=0.001
[RIGHT_CAM_HD]
fx=701
fy=701
cx=641
cy=360
k1=-0.17
[STEREO]
Baseline=120
"""
NEW_ZED = """[LEFT_CAM_FHD]
fx = 740 ; pixels
fy = 740
cx = 960
cy = 540
[LEFT_CAM_SVGA]
fx = 370
fy = 370
cx = 480
cy = 300
[LEFT_DISTO]
k1 = -0.1
k2 = 0.05
k3 = 0.01
k4 = 0.002
"""


def test_the_left_camera_of_a_zed_is_read(tmp_path, caplog):
    path = tmp_path / "intrinsics.conf"
    path.write_text(ZED)
    for size in (None, (1280, 720)):
        lens = camera_files.read_lens(path, size)
        assert lens[:4] == (700.5, 700.9, 640.2, 361.3) and lens.size == (1280, 720)
        assert lens.distortion[:5] == (-0.17, 0.026, 3e-4, -1e-4, 0.001)
        assert "before rectification" in caplog.text
    path.write_text(NEW_ZED)
    lens = camera_files.read_lens(path, (960, 600))
    assert lens[:4] == (370.0, 370.0, 480.0, 300.0) and lens.model == "equidistant"
    assert lens.distortion == (-0.1, 0.05, 0.01, 0.002)
    path.write_text(NEW_ZED + "p1 = 0.001\np2 = 0\nk5 = 0\nk6 = 0\n")
    assert camera_files.read_lens(path, (960, 600)).distortion[5] == 0.002
    for size, words in ((None, "of several sizes"), ((640, 480), "of 640x480")):
        with pytest.raises(ValueError, match=words):
            camera_files.read_lens(path, size)
    assert not devices.is_zed({"camera_matrix": 3})
