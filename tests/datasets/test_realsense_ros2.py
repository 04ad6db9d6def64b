"""Files of ROS 2 as the RealSense SDK 2.59 records them: one .db3, texts, images perhaps as PNG.

The layout is that of files which pyrealsense2 2.59.1 recorded of a software device; see
findings/realsense_records_ros2.sh.
"""

import io
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from PIL import Image
from rosbags.typesys import Stores, get_typestore

from e2r.datasets import any_recording
from tests.conftest import refused
from tests.datasets.test_realsense_bags import (
    COLOR_FROM_REFERENCE,
    COLOR_LENS,
    COLOR_SIZE,
    DEPTH_FROM_REFERENCE,
    DEPTH_LENS,
    DEPTH_SIZE,
    DISTANCE,
    NORMAL,
    TOLERANCE_MM,
    UNITS,
    expected_depth,
    rays,
)

STORE = get_typestore(Stores.ROS2_HUMBLE)
DEPTH, COLOR = "/device_0/sensor_0/Depth_0", "/device_0/sensor_1/Color_0"


def made(name, *fields):
    return STORE.types[name](*fields)


def header(nanoseconds, frame):
    stamp = made("builtin_interfaces/msg/Time", *divmod(nanoseconds, 10**9))
    return made("std_msgs/msg/Header", stamp, frame)


def info(lens, size):
    k = np.array([lens.fx, 0, lens.cx, 0, lens.fy, lens.cy, 0, 0, 1.0])
    region = made("sensor_msgs/msg/RegionOfInterest", 0, 0, 0, 0, False)
    empty = (np.array(lens.distortion), k, np.eye(3).ravel(), np.zeros(12), 0, 0, region)
    return made("sensor_msgs/msg/CameraInfo", header(0, ""), size[1], size[0], "plumb_bob", *empty)


def motion_text(matrix):
    turn = ",".join(f"{one:.6f}" for one in matrix[:3, :3].T.ravel())  # by columns
    shift = ",".join(f"{one:.6f}" for one in 1e-3 * matrix[:3, 3])
    return f"rotation={turn};translation={shift}"


def images(values, pixels, time, *, compressed):
    if compressed:

        def png(array):
            file = io.BytesIO()
            Image.fromarray(array).save(file, "PNG")
            return np.frombuffer(file.getvalue(), np.uint8)

        kind = "sensor_msgs/msg/CompressedImage"
        depth = np.concatenate([np.zeros(12, np.uint8), png(values)])
        yield (
            f"{DEPTH}/image/data/compressedDepth",
            made(kind, header(time, "Depth"), "16UC1; compressedDepth png", depth),
        )
        yield (
            f"{COLOR}/image/data/compressed",
            made(kind, header(time, "Color"), "rgb8; png compressed bgr8", png(pixels)),
        )
        return
    for topic, name, encoding, array in (
        (DEPTH, "Depth", "mono16", values),
        (COLOR, "Color", "rgb8", pixels),
    ):
        rows = np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1)
        one = made(
            "sensor_msgs/msg/Image",
            header(time, name),
            *array.shape[:2],
            encoding,
            0,
            rows.shape[1],
            rows.ravel(),
        )
        yield f"{topic}/image/data", one


def write_file(path, *, compressed=True, motion=motion_text):
    """Writes three frames of a plane that moves away."""
    text = lambda value: made("std_msgs/msg/String", value)  # noqa: E731
    messages = [
        (0, f"{DEPTH}/camera_info", text("width=168;height=124")),
        (0, "/device_0/sensor_0/option/Depth_Units/value", text(f"{UNITS:.6f}")),
        (0, f"{DEPTH}/tf/ref_1", text(motion(DEPTH_FROM_REFERENCE))),
        (0, f"{COLOR}/tf/ref_1", text(motion(COLOR_FROM_REFERENCE))),
    ]
    plane = DISTANCE / (rays(DEPTH_LENS, DEPTH_SIZE) @ NORMAL)
    for number in range(3):
        time = 2886 + round(1e9 * number / 30)
        values = np.rint((plane + number) / (1e3 * UNITS)).astype(np.uint16)
        pixels = np.full((*COLOR_SIZE[::-1], 3), (60 + 20 * number, 0, 200), np.uint8)
        messages += [(time, *one) for one in images(values, pixels, time, compressed=compressed)]
        messages.append((time, f"{DEPTH}/image/camera_info", info(DEPTH_LENS, DEPTH_SIZE)))
        messages.append((time, f"{COLOR}/image/camera_info", info(COLOR_LENS, COLOR_SIZE)))
    with closing(sqlite3.connect(path)) as file, file:
        file.execute(
            "create table topics(id integer primary key, name text not null, type text not null, "
            "serialization_format text not null, offered_qos_profiles text not null)"
        )
        file.execute(
            "create table messages(id integer primary key, topic_id integer not null, "
            "timestamp integer not null, data blob not null)"
        )
        rows = {}
        for time, topic, message in messages:
            kind = message.__msgtype__
            if topic not in rows:
                rows[topic] = len(rows) + 1
                file.execute(
                    "insert into topics values(?, ?, ?, 'cdr', '')", (rows[topic], topic, kind)
                )
            data = bytes(STORE.serialize_cdr(message, kind))
            file.execute(
                "insert into messages(topic_id, timestamp, data) values(?, ?, ?)",
                (rows[topic], time, data),
            )
    return path


@pytest.mark.parametrize("compressed", [True, False])
def test_the_depth_of_a_file_of_ros2_is_moved_to_the_color_camera(tmp_path, compressed):
    path = write_file(tmp_path / "d435.db3", compressed=compressed)
    assert any_recording.is_recording(path)
    recording = any_recording.open_any(path)
    frames = list(recording.read())
    assert recording.count == len(frames) == 3
    for number, frame in enumerate(frames):
        assert frame.seconds == pytest.approx(number / 30, abs=1e-5)
        found, true = frame.image.depth, expected_depth(number)
        inside = np.zeros(found.shape, bool)
        inside[4:-4, 4:-4] = True
        inside &= found > 0
        assert inside.mean() > 0.8
        assert np.abs(found - true)[inside].max() < TOLERANCE_MM
        assert frame.image[2:] == COLOR_LENS[:4]
        assert np.median(frame.image.color, axis=(0, 1)).tolist() == [60 + 20 * number, 0, 200]


def test_a_motion_that_is_none_is_told(tmp_path, capsys):
    path = write_file(tmp_path / "d435.db3", motion=lambda _: "rotation=1,2;translation=0")
    words = "Color_0/tf: is no motion (rotation=1,2;translation=0); record it again"
    refused(capsys, words, "track", path, "--output", tmp_path / "out")
