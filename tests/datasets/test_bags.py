"""Bags of ROS 1 and 2 are read without ROS, and tracked with one command."""

import io
import json
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

from e2r.cli import main
from e2r.datasets import any_recording, bags, ros_images
from e2r.formats import meshes
from tests.conftest import refused

COLOR, DEPTH = "/camera/color/image_raw", "/camera/aligned_depth_to_color/image_raw"
ROS1, ROS2 = get_typestore(Stores.ROS1_NOETIC), get_typestore(Stores.ROS2_HUMBLE)
RNG = np.random.default_rng(3)
PICTURES = RNG.integers(0, 256, (3, 48, 64, 3)).astype(np.uint8)
DEPTHS = RNG.integers(350, 450, (3, 48, 64)).astype(np.uint16)


def messages(
    store, *, encoding="16UC1", compressed=False, depth_focal=60.0, order=1, stamped=True, **lens
):
    """(topic, message, type) of three frames; the depth of each comes before its colour.

    ``lens`` changes fields of both ``camera_info``: d, cx, width; or depth_model.
    """
    packages = ("std_msgs", "sensor_msgs", "builtin_interfaces")  # both have a Time: the last one
    types = {
        name.rsplit("/", 1)[1]: kind
        for package in packages
        for name, kind in store.types.items()
        if name.startswith(f"{package}/msg/")
    }
    old = store is ROS1

    def header(seconds):
        stamp = types["Time"](sec=10 * stamped, nanosec=round(1e9 * seconds) * stamped)
        return types["Header"](**({"seq": 0} if old else {}), stamp=stamp, frame_id="camera")

    def info(focal, model="plumb_bob"):
        center = lens.get("cx", 31.5)
        k = np.array([focal, 0, center, 0, focal, 23.5, 0, 0, 1.0])
        p = np.array([focal, 0, center, 0, 0, focal, 23.5, 0, 0, 0, 1.0, 0])
        names = "DKRP" if old else "dkrp"
        bent = np.array([0.1, 0, 0, 0]) if model == "equidistant" else lens.get("d", np.zeros(5))
        values = dict(zip(names, (bent, k, np.eye(3).ravel(), p), strict=True))
        region = types["RegionOfInterest"](0, 0, 0, 0, False)
        return types["CameraInfo"](
            header=header(0),
            height=48,
            width=lens.get("width", 64),
            distortion_model=model,
            binning_x=0,
            binning_y=0,
            roi=region,
            **values,
        )

    yield COLOR.replace("image_raw", "camera_info"), info(60.0)
    yield (
        DEPTH.replace("image_raw", "camera_info"),
        info(depth_focal, lens.get("depth_model", "plumb_bob")),
    )
    frames = []
    for number, (picture, depth) in enumerate(zip(PICTURES, DEPTHS, strict=True)):
        values = depth if encoding == "16UC1" else (depth * 1e-3).astype(np.float32)
        rows = values.view(np.uint8).reshape(48, -1)
        rows = np.pad(rows, ((0, 0), (0, 8)))  # rows may be padded
        one = types["Image"](
            header(number / 30 + 0.001), 48, 64, encoding, 0, rows.shape[1], rows.ravel()
        )
        if compressed:
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "PNG")
            data = np.frombuffer(file.getvalue(), np.uint8)
            other = types["CompressedImage"](header(number / 30), "rgb8; png compressed", data)
            frames.append([(DEPTH, one), (f"{COLOR}/compressed", other)])
        else:
            other = types["Image"](
                header(number / 30), 48, 64, "bgr8", 0, 192, picture[..., ::-1].ravel()
            )
            frames.append([(DEPTH, one), (COLOR, other)])
    for frame in frames[::order]:
        yield from frame


def write_bag(path, *, version=2, cut=None, **options):
    """``cut``: number of a message -> how many of its bytes are left; both camera_info come first,
    then the depth and the colour of each frame.
    """
    store = ROS1 if version == 1 else ROS2
    plugin = StoragePlugin.MCAP if path.name.startswith("mcap") else StoragePlugin.SQLITE3
    writer = Writer1(path) if version == 1 else Writer2(path, version=9, storage_plugin=plugin)
    with writer:
        connections = {}
        for number, (topic, message) in enumerate(messages(store, **options)):
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            raw = store.serialize_ros1 if version == 1 else store.serialize_cdr
            left = (cut or {}).get(number)
            writer.write(connections[topic], number, bytes(raw(message, kind))[:left])
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bag.bag", {"version": 1}),
        ("sqlite", {"encoding": "32FC1"}),
        ("mcap", {"compressed": True}),
        ("mcap_backwards", {"order": -1}),
    ],
)
def test_frames_are_paired_by_their_stamps(tmp_path, name, options):
    path = write_bag(tmp_path / name, **options)
    assert bags.is_bag(path)
    recording = bags.open_bag(path)
    frames = list(recording.read())
    assert recording.count == len(frames) == 3
    assert recording.first_seconds == pytest.approx(10.001)
    for number, frame in enumerate(frames):
        assert frame.number == number + 1
        assert frame.seconds == pytest.approx(10.001 + number / 30)
        np.testing.assert_array_equal(frame.image.color, PICTURES[number])
        np.testing.assert_allclose(frame.image.depth, DEPTHS[number], rtol=1e-6)
        assert frame.image[2:] == (60.0, 60.0, 31.5, 23.5)


@pytest.mark.parametrize(
    ("name", "options"),
    [("bag.bag", {"version": 1}), ("sqlite", {}), ("mcap", {"compressed": True})],
)
def test_a_message_that_cannot_be_read_is_a_broken_frame(tmp_path, name, options):
    """The first picture of the colour, by which topics are found, and a depth."""
    path = write_bag(tmp_path / name, cut={3: 60, 4: 60}, **options)
    first, second, third = bags.open_bag(path).read()
    assert first.image is None and second.image is None
    assert first.message.startswith("a message on /camera/color/image_raw")
    assert second.message.startswith(f"a message on {DEPTH} cannot be read (")
    assert second.message.endswith("; record it again")
    assert second.seconds == pytest.approx(10.001 + 1 / 30)
    np.testing.assert_array_equal(third.image.color, PICTURES[2])


def test_a_message_without_a_stamp_is_left_out_and_told_once(tmp_path, caplog):
    path = write_bag(tmp_path / "sqlite", cut={4: 6, 2: 3})
    (frame,) = bags.open_bag(path).read()
    assert frame.seconds == pytest.approx(10.001 + 2 / 30)
    assert caplog.text.count("is read without 2 of its pictures, for their stamps are broken") == 1


def test_a_broken_message_of_a_bag_is_one_line_and_not_the_end(
    tmp_path, checkpoint, simulated_cases, capsys
):
    meshes.write_meshes(simulated_cases[0].model, tmp_path / "model")
    path = write_bag(tmp_path / "bag.bag", version=1, cut={5: 100})
    words = ["track", path, "--model", tmp_path / "model", "--output", tmp_path / "out"]
    assert main([*map(str, words), "--no-film", "--checkpoint", str(checkpoint)]) == 3
    assert f"frame 2: a message on {COLOR} cannot be read" in capsys.readouterr().err
    lines = [json.loads(one) for one in (tmp_path / "out" / "poses.jsonl").read_text().splitlines()]
    assert ["error" in line for line in lines] == [False, True, False]


def test_a_bag_is_tracked_with_one_command(tmp_path, checkpoint, simulated_cases):
    meshes.write_meshes(simulated_cases[0].model, tmp_path / "model")
    path = write_bag(tmp_path / "bag.bag", version=1)
    words = ["track", path, "--model", tmp_path / "model", "--output", tmp_path / "out"]
    assert main([*map(str, words), "--checkpoint", str(checkpoint)]) == 0
    lines = (tmp_path / "out" / "poses.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [1, 2, 3]


@pytest.mark.parametrize(
    ("options", "more", "words"),
    [
        ({"depth_focal": 50.0}, [], "has another lens than /camera/color/image_raw"),
        ({"depth_model": "equidistant"}, [], "has another lens than /camera/color/image_raw"),
        ({"encoding": "8UC1"}, [], "has no topic of depth"),
        ({}, ["--topics", "/no", DEPTH], "has no images on /no"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path, capsys, options, more, words):
    path = write_bag(tmp_path / "sqlite", **options)
    refused(capsys, words, "track", path, "--output", tmp_path / "out", *more)
    assert not (tmp_path / "out").exists()


def test_what_is_no_bag_is_told(tmp_path, capsys):
    path = tmp_path / "torn.bag"
    refused(capsys, "torn.bag: no such file", "track", path, "--output", tmp_path / "out")
    path.write_bytes(b"#ROSBAG V2.0\n" + bytes(50))
    refused(capsys, "cannot be read as a bag", "track", path, "--output", tmp_path / "out")


def test_pictures_of_another_size_than_their_lens_are_broken(tmp_path):
    frames = list(bags.open_bag(write_bag(tmp_path / "sqlite", width=66)).read())
    assert len(frames) == 3 and all(frame.image is None for frame in frames)
    assert "is 64x48, but its camera_info is for 66x48" in frames[0].message


def test_a_bag_without_stamps_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the 3 pictures of .* have 1 different stamps"):
        bags.open_bag(write_bag(tmp_path / "sqlite", stamped=False))


def test_a_rectified_picture_is_not_undistorted_again():
    """Its camera_info still holds the distortion of the lens; P is what holds for it."""
    k, p = np.eye(3) * 60.0, np.zeros((3, 4))
    k[:2, 2] = p[:2, 2] = 31.5, 23.5
    k[2, 2] = p[2, 2] = 1.0
    p[0, 0] = p[1, 1] = 55.0
    info = SimpleNamespace(
        width=64,
        height=48,
        k=k.ravel(),
        p=p.ravel(),
        d=np.array([0.1, 0.0, 0.0, 0.0, 0.0]),
        distortion_model="plumb_bob",
    )
    where = Path("bag/color")
    assert bags.lens_of_info(info, where).bends
    straight = bags.lens_of_info(info, where, straight=True)
    assert not straight.bends and straight.fx == 55.0
    assert bags._is_rectified("/zed/rgb/image_rect_color/compressed")
    assert not bags._is_rectified("/camera/color/image_raw")


def test_a_quantised_depth_is_read():
    """Of 32FC1, compressedDepth stores inverse depths, by two numbers before the PNG."""
    a, b = 100.0, -50.0
    stored = np.array([[0, 100], [200, 450]], np.uint16)
    file = io.BytesIO()
    Image.fromarray(stored).save(file, "PNG")
    data = struct.pack("<iff", 0, a, b) + file.getvalue()
    message = SimpleNamespace(format="32FC1; compressedDepth", data=np.frombuffer(data, np.uint8))
    expected = [[0.0, 1e5 / 150.0], [1e5 / 250.0, 200.0]]
    np.testing.assert_allclose(ros_images.decode_depth(message), expected, rtol=1e-6)


def test_a_torn_compressed_picture_is_refused():
    file = io.BytesIO()
    Image.fromarray(PICTURES[0]).save(file, "PNG")
    for data in (file.getvalue()[:200], b"nothing", file.getvalue().replace(b"IDAT", b"IDAS")):
        one = SimpleNamespace(format="rgb8; png compressed", data=np.frombuffer(data, np.uint8))
        with pytest.raises(ValueError, match="a compressed picture cannot be read"):
            ros_images.decode_color(one)


def test_a_torn_picture_is_refused():
    message = SimpleNamespace(
        encoding="rgb8", height=4, width=4, step=12, data=np.zeros(20, np.uint8), is_bigendian=0
    )
    with pytest.raises(ValueError, match="has 20 bytes for 4 rows of 12"):
        ros_images.decode_color(message)


def test_numbers_of_the_other_byte_order_are_read():
    values = (np.arange(12).reshape(3, 4) + 400).astype(">u2")
    message = SimpleNamespace(
        encoding="16UC1",
        height=3,
        width=4,
        step=8,
        data=np.frombuffer(values.tobytes(), np.uint8),
        is_bigendian=1,
    )
    np.testing.assert_array_equal(ros_images.decode_depth(message), values.astype(np.float32))


def test_a_doubtful_lens_is_used_where_the_user_insists(tmp_path):
    path = write_bag(tmp_path / "sqlite", cx=24.0)
    with pytest.raises(ValueError, match=r"12 % off the middle .* with --unchecked"):
        any_recording.open_any(path)
    assert any_recording.open_any(path, unchecked=True).count == 3
