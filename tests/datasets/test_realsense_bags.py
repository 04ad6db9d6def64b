"""Bags as librealsense writes them: its topics, its images, a depth of another camera.

The layout is that of librealsense's ``ros_writer.cpp`` and ``ros_file_format.h``. No file of a real
camera was at hand.
"""

import json
import struct
from collections import Counter

import numpy as np
import pytest
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation

from e2r.cli import main
from e2r.datasets import any_recording
from e2r.formats import meshes
from e2r.geometry import lens_distortion
from e2r.geometry.lens_distortion import Lens
from tests.conftest import refused

STORE = get_typestore(Stores.ROS1_NOETIC)
COLOR_LENS = Lens(150.0, 150.4, 81.0, 58.5, distortion=(-0.055, 0.066, 1e-3, 2e-3, -0.02))
DEPTH_LENS = Lens(112.0, 112.0, 83.5, 60.5, distortion=(0.01, -0.02, 1e-3, -1e-3, 0.0))
COLOR_SIZE, DEPTH_SIZE = (160, 120), (168, 124)
UNITS = 1e-4  # metres
NORMAL, DISTANCE = np.array([0.15, -0.1, 1.0]), 430.0  # of a plane before the depth camera, mm
TOLERANCE_MM = 0.1  # the depth is stored in steps of 0.1 mm


def motion(turn, shift):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = Rotation.from_rotvec(turn).as_matrix(), shift
    return matrix


DEPTH_FROM_REFERENCE = motion([0.05, 0.0, 0.02], [-3.0, 1.0, 2.0])
COLOR_FROM_REFERENCE = motion([-0.02, 0.03, 0.0], [-17.0, 0.5, 1.0])
COLOR_FROM_DEPTH = COLOR_FROM_REFERENCE @ np.linalg.inv(DEPTH_FROM_REFERENCE)


def rays(lens, size, model="brown_conrady"):
    v, u = np.mgrid[: size[1], : size[0]].astype(float)
    x, y = lens_distortion.undistort(
        (u - lens.cx) / lens.fx, (v - lens.cy) / lens.fy, lens.distortion, model=model
    )
    return np.stack([x, y, np.ones_like(x)], -1)


def messages(*, stamps=(0.0, 0.002), tail=True, option="Depth_Units", without="", color="rgb8"):
    """(topic, seconds in the bag, message, bytes behind it) of three frames."""
    kind = lambda name: STORE.types[name]  # noqa: E731

    def header(seconds, number):
        whole = int(seconds)
        stamp = kind("builtin_interfaces/msg/Time")(whole, round(1e9 * (seconds - whole)))
        return kind("std_msgs/msg/Header")(number, stamp, "1" if tail else "")

    def info(lens, size, name):
        k = np.array([lens.fx, 0, lens.cx, 0, lens.fy, lens.cy, 0, 0, 1.0])
        region = kind("sensor_msgs/msg/RegionOfInterest")(0, 0, 0, 0, False)
        empty = kind("std_msgs/msg/Header")(0, kind("builtin_interfaces/msg/Time")(0, 0), "")
        return kind("sensor_msgs/msg/CameraInfo")(
            empty,
            size[1],
            size[0],
            name,
            np.array(lens.distortion),
            k,
            np.zeros(9),
            np.zeros(12),
            0,
            0,
            region,
        )

    def transform(matrix):
        turn = Rotation.from_matrix(matrix[:3, :3]).as_quat()
        return kind("geometry_msgs/msg/Transform")(
            kind("geometry_msgs/msg/Vector3")(*(1e-3 * matrix[:3, 3])),
            kind("geometry_msgs/msg/Quaternion")(*turn),
        )

    depth_stream, color_stream = "/device_0/sensor_0/Depth_0", "/device_0/sensor_1/Color_0"
    yield "/file_version", 1e-9, kind("std_msgs/msg/UInt32")(4), b""
    units = kind("std_msgs/msg/Float32")(UNITS)
    fixed = {
        f"/device_0/sensor_0/option/{option}/value": units,
        f"{depth_stream}/info/camera_info": info(DEPTH_LENS, DEPTH_SIZE, "Brown Conrady"),
        f"{color_stream}/info/camera_info": info(COLOR_LENS, COLOR_SIZE, "Brown Conrady"),
        f"{depth_stream}/tf/0": transform(DEPTH_FROM_REFERENCE),
        f"{color_stream}/tf/0": transform(COLOR_FROM_REFERENCE),
    }
    for topic, message in fixed.items():
        if not (without and without in topic):
            yield topic, 1e-9, message, b""
    image = kind("sensor_msgs/msg/Image")
    plane = DISTANCE / (rays(DEPTH_LENS, DEPTH_SIZE) @ NORMAL)
    for number in range(3):
        values = np.rint((plane + number) / (1e3 * UNITS)).astype(np.uint16)
        rows, seconds = values.view(np.uint8).reshape(-1), number / 30
        one = image(
            header(5e4 + stamps[0] + seconds, number),
            *DEPTH_SIZE[::-1],
            "mono16",
            0,
            2 * DEPTH_SIZE[0],
            rows,
        )
        yield f"{depth_stream}/image/data", 1 + seconds, one, struct.pack("<f", UNITS)
        pixels = np.full(3 * COLOR_SIZE[0] * COLOR_SIZE[1], 60 + 20 * number, np.uint8)
        other = image(
            header(5e4 + stamps[1] + seconds, number),
            *COLOR_SIZE[::-1],
            color,
            0,
            3 * COLOR_SIZE[0],
            pixels,
        )
        yield f"{color_stream}/image/data", 1.004 + seconds, other, struct.pack("<f", 0.0)


def write_bag(path, *, cut=None, **options):
    """``cut``: (topic, how many before it) -> how many bytes of a message are left."""
    with Writer(path) as writer:
        connections, counts = {}, Counter()
        for topic, seconds, message, tail in messages(**options):
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            raw = bytes(STORE.serialize_ros1(message, kind))
            with_tail = raw + (tail if options.get("tail", True) else b"")
            left = (cut or {}).get((topic, counts[topic]))
            counts[topic] += 1
            writer.write(connections[topic], round(1e9 * seconds), with_tail[:left])
    return path


def expected_depth(number):
    """The same plane, shifted along the depth camera's axis, as the colour camera sees it."""
    ray = rays(COLOR_LENS._replace(distortion=()), COLOR_SIZE)
    back = np.linalg.inv(COLOR_FROM_DEPTH)
    # A point z * ray lies on the plane: z_depth = DISTANCE / (n . ray_depth) + number.
    low, high = np.full(ray.shape[:2], 200.0), np.full(ray.shape[:2], 900.0)
    for _ in range(60):
        z = 0.5 * (low + high)
        there = (ray * z[..., None]) @ back[:3, :3].T + back[:3, 3]
        behind = there[..., 2] > DISTANCE / (there / there[..., 2:] @ NORMAL) + number
        low, high = np.where(behind, low, z), np.where(behind, z, high)
    return z


@pytest.mark.parametrize(
    ("options", "first"),
    [
        ({}, 5e4),
        ({"tail": False, "option": "Depth Units"}, 5e4),
        ({"stamps": (0.0, 700.0)}, 1.0),  # two clocks: the recorder's time pairs
    ],
)
def test_the_depth_is_moved_to_the_color_camera(tmp_path, options, first):
    path = write_bag(tmp_path / "d435.bag", **options)
    recording = any_recording.open_any(path)
    frames = list(recording.read())
    assert recording.count == len(frames) == 3
    for number, frame in enumerate(frames):
        assert frame.number == number + 1
        assert frame.seconds == pytest.approx(first + number / 30, abs=1e-5)
        found, true = frame.image.depth, expected_depth(number)
        assert found.shape == COLOR_SIZE[::-1] and (found > 0).mean() > 0.9
        inside = np.zeros(found.shape, bool)
        inside[4:-4, 4:-4] = True
        inside &= found > 0
        assert np.abs(found - true)[inside].max() < TOLERANCE_MM
        assert frame.image[2:] == COLOR_LENS[:4]
        assert np.median(frame.image.color) == 60 + 20 * number
    (last,) = recording.read([3])
    np.testing.assert_array_equal(last.image.depth, frames[2].image.depth)


COLOR, DEPTH = "/device_0/sensor_1/Color_0/image/data", "/device_0/sensor_0/Depth_0/image/data"


@pytest.mark.parametrize("stamps", [(0.0, 0.002), (0.0, 700.0)])
def test_a_message_that_cannot_be_read_is_a_broken_frame(tmp_path, stamps):
    path = write_bag(tmp_path / "d435.bag", stamps=stamps, cut={(COLOR, 0): 99, (DEPTH, 1): 99})
    first, second, third = any_recording.open_any(path).read()
    assert first.image is None and first.message.startswith(f"a message on {COLOR} cannot be read")
    assert second.image is None and f"a message on {DEPTH} cannot" in second.message
    assert np.median(third.image.color) == 100


def test_a_message_without_a_stamp_is_left_out_and_told_once(tmp_path, caplog):
    path = write_bag(tmp_path / "d435.bag", cut={(DEPTH, 0): 5})
    frames = list(any_recording.open_any(path).read())
    assert len(frames) == 2 and all(frame.image is not None for frame in frames)
    assert caplog.text.count("is read without 1 of its pictures, for their stamps are broken") == 1


def test_a_reader_of_ros_alone_refuses_the_images(tmp_path):
    """Otherwise this project needed no reader of its own."""
    path = write_bag(tmp_path / "d435.bag")
    with AnyReader([path]) as reader:
        images = [one for one in reader.connections if one.msgtype == "sensor_msgs/msg/Image"]
        connection, _, raw = next(reader.messages(images))
        with pytest.raises(AnyReaderError, match="size mismatch"):
            reader.deserialize(raw, connection.msgtype)


def test_it_is_tracked_with_one_command(tmp_path, checkpoint, simulated_cases):
    meshes.write_meshes(simulated_cases[0].model, tmp_path / "model")
    path = write_bag(tmp_path / "d435.bag")
    words = ["track", path, "--model", tmp_path / "model", "--output", tmp_path / "out"]
    assert main([*map(str, words), "--checkpoint", str(checkpoint)]) == 0
    lines = (tmp_path / "out" / "poses.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [1, 2, 3]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"without": "Color_0/tf"}, "has no /device_0/sensor_1/Color_0/tf"),
        ({"without": "Depth_0/info"}, "has no /device_0/sensor_0/Depth_0/camera_info"),
        ({"color": "yuv422"}, "encoding yuv422 of the colour is unknown; record rgb8"),
    ],
)
def test_what_is_missing_is_told(tmp_path, capsys, options, words):
    path = write_bag(tmp_path / "d435.bag", **options)
    refused(capsys, words, "track", path, "--output", tmp_path / "out")
