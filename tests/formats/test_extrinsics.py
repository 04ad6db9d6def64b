"""The motion from depth to colour, as librealsense, Azure Kinect, Orbbec and ROS write it."""

import json

import cv2
import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation

from e2r.formats import extrinsics

TURN = Rotation.from_rotvec([-0.1, 0.02, 0.03])
SHIFT = np.array([-32.0, -2.2, 3.9])  # mm
EXACT = np.eye(4)
EXACT[:3, :3], EXACT[:3, 3] = TURN.as_matrix(), SHIFT
BACK = np.linalg.inv(EXACT)
ROWS = TURN.as_matrix().ravel().tolist()
COLUMNS = TURN.as_matrix().T.ravel().tolist()
METRES, MM = (SHIFT / 1000).tolist(), SHIFT.tolist()
OPTICAL = {"frame_id": "camera_color_optical_frame"}


def in_metres(matrix):
    matrix = matrix.copy()
    matrix[:3, 3] /= 1000
    return matrix.tolist()


def kinect(depth=None):
    """As the factory wrote it: each Rt leads from the device to the camera."""
    depth = np.eye(4) if depth is None else depth
    color = EXACT @ depth
    cameras = [
        {
            "Purpose": f"CALIBRATION_CameraPurpose{purpose}",
            "Rt": {
                "Rotation": m[:3, :3].ravel().tolist(),
                "Translation": (m[:3, 3] / 1000).tolist(),
            },
        }
        for purpose, m in (("Depth", depth), ("PhotoVideo", color))
    ]
    return {"CalibrationInformation": {"Cameras": cameras, "Metadata": {}}}


def ros(matrix, parent, child):
    x, y, z, w = Rotation.from_matrix(matrix[:3, :3]).as_quat().tolist()
    return {
        "header": {"frame_id": parent},
        "child_frame_id": child,
        "transform": {
            "translation": dict(zip("xyz", (matrix[:3, 3] / 1000).tolist(), strict=True)),
            "rotation": {"x": x, "y": y, "z": z, "w": w},
        },
    }


COLOR, DEPTH = "camera_color_optical_frame", "camera_depth_optical_frame"
SPELLINGS = {
    "a bare matrix in metres": in_metres(EXACT),
    "a bare matrix in mm": EXACT.tolist(),
    "sixteen numbers": EXACT.ravel().tolist(),
    "sixteen numbers by columns": EXACT.T.ravel().tolist(),
    "three rows": {"extrinsic": EXACT[:3].tolist()},
    "a named matrix": {"depth_to_color": EXACT.tolist()},
    "the other way round": {"color_to_depth": in_metres(BACK)},
    "a unit": {"matrix": EXACT.tolist(), "unit": "mm"},
    "librealsense": {"rotation": COLUMNS, "translation": METRES},
    "librealsense, nested": {"depth_to_color": {"rotation": COLUMNS, "translation": METRES}},
    "Azure Kinect SDK": {"extrinsics": {"rotation": ROWS, "translation": MM}},
    "pyk4a": {"R": TURN.as_matrix().tolist(), "t": METRES},
    "Azure Kinect factory": kinect(),
    "a device that is not its depth camera": kinect(depth=BACK),
    "Rt of an Azure Kinect": {"Rt": {"Rotation": ROWS, "Translation": METRES}},
    "Orbbec": {"depthIntrinsic": {}, "transform": {"rot": ROWS, "trans": MM}, "isMirrored": False},
    "ROS": ros(EXACT, COLOR, DEPTH),
    "ROS, the other way round": ros(BACK, DEPTH, COLOR),
    "ROS without frames": ros(EXACT, COLOR, DEPTH)["transform"],
    "from and to": {"from": "depth", "to": "color", "matrix": EXACT.tolist()},
    "to and from": {"from": "color", "to": "depth", "matrix": BACK.tolist()},
}


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
@pytest.mark.parametrize("name", SPELLINGS)
def test_every_program_says_the_same(tmp_path, name, suffix, caplog):
    path = tmp_path / f"depth_to_color{suffix}"
    path.write_text((json.dumps if suffix == ".json" else yaml.safe_dump)(SPELLINGS[name]))
    found = extrinsics.read_color_from_depth(path)
    np.testing.assert_allclose(found, EXACT, atol=1e-9)
    assert "from depth to colour, in" in caplog.text  # the decision is said
    point = np.array([[40.0, -30.0, 600.0]])
    by_opencv = cv2.transform(point[None], EXACT[:3])[0]
    np.testing.assert_allclose(point @ found[:3, :3].T + found[:3, 3], by_opencv, atol=1e-6)


def test_opencv_and_text_are_read(tmp_path):
    file = cv2.FileStorage(str(tmp_path / "extrinsics.yml"), cv2.FILE_STORAGE_WRITE)
    file.write("R", EXACT[:3, :3])
    file.write("T", EXACT[:3, 3:])
    file.release()
    found = extrinsics.read_color_from_depth(tmp_path / "extrinsics.yml")
    np.testing.assert_allclose(found, EXACT, atol=1e-9)
    np.savetxt(tmp_path / "extrinsics.txt", EXACT)
    found = extrinsics.read_color_from_depth(tmp_path / "extrinsics.txt")
    np.testing.assert_allclose(found, EXACT, atol=1e-9)


GL = EXACT @ np.diag([1.0, -1.0, -1.0, 1.0])
REFUSED = {
    "nothing": ({}, "has no motion from depth to colour"),
    "a text": ("hello", "must hold numbers, not hello"),
    "NaN": ([[float("nan")] * 4] * 4, "must hold numbers"),
    "nine numbers": (ROWS, "holds 9 numbers; write a 4x4 matrix"),
    "scaled": ((EXACT * np.diag([2, 2, 2, 1])).tolist(), "not rigid"),
    "mirrored": ((EXACT @ np.diag([1, 1, -1, 1])).tolist(), "mirrored"),
    "another camera": (np.array(EXACT + np.eye(4, k=3) * 700).tolist(), "too far for depth"),
    "OpenGL's axes": (GL.tolist(), "180 degrees, too far|17[0-9] degrees, too far"),
    "an unclear unit": ({"rotation": ROWS, "translation": [0.7, 0, 0]}, 'say "unit"'),
    "an unknown unit": ({"matrix": EXACT.tolist(), "unit": "inch"}, "unit is inch; write mm or m"),
    "no quaternion": (
        {"rotation": {"x": 0, "y": 0, "z": 0, "w": 2}, "translation": METRES},
        "no unit quaternion",
    ),
    "half a quaternion": ({"rotation": {"x": 0}, "translation": METRES}, "must hold numbers"),
    "four numbers": ({"rotation": [0, 0, 0, 1], "translation": METRES}, "rotation holds 4 numbers"),
    "two lengths": ({"rotation": ROWS, "translation": [0, 0]}, "translation holds 2 numbers"),
    "no cameras": ({"CalibrationInformation": {"Cameras": []}}, "has no Rt"),
    "bodies": (ros(EXACT, "camera_color_frame", "camera_depth_frame"), "is no optical frame"),
    "others": (ros(EXACT, "base_optical", DEPTH), "name depth and color"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_such_motion_is_refused(tmp_path, name):
    value, words = REFUSED[name]
    path = tmp_path / "depth_to_color.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=words):
        extrinsics.read_color_from_depth(path)


@pytest.mark.parametrize("name", ["a.json", "a.yaml", "a.txt"])
def test_broken_files_are_refused(tmp_path, name):
    for content in (b"{1: [", b"\xff\xfe\x00", b"", None):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        else:
            (tmp_path / name).unlink()
        with pytest.raises(ValueError, match=r"cannot be read|must hold numbers|holds 0 numbers"):
            extrinsics.read_color_from_depth(tmp_path / name)


@pytest.mark.parametrize("text", ["a: !!timestamp foo", 'a: !!int ""', "a: !!bool x"])
def test_odd_yaml_is_refused_in_one_sentence(tmp_path, text):
    path = tmp_path / "depth_to_color.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"depth_to_color\.yaml: cannot be read"):
        extrinsics.read_color_from_depth(path)
