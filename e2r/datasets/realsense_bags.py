"""Bags that the RealSense SDK records: librealsense, its viewer and ``rs-record``.

Older SDKs write a ``.bag`` of ROS 1 with topics of their own::

    /device_0/sensor_0/Depth_0/image/data         16 bit, as the depth camera sees it
    /device_0/sensor_0/Depth_0/info/camera_info   its lens
    /device_0/sensor_0/Depth_0/tf/0               motion from a reference to this stream, metres
    /device_0/sensor_0/option/Depth_Units/value   metres a unit; "Depth Units" in older ones
    /device_0/sensor_1/Color_0/...                the same of the colour

Newer SDKs (2.59, for example) write one file of ROS 2, a ``.db3`` without a folder around it::

    /device_0/sensor_0/Depth_0/image/data         or image/data/compressedDepth, a PNG
    /device_0/sensor_0/Depth_0/image/camera_info  its lens
    /device_0/sensor_0/Depth_0/tf/ref_1           the motion as text; its rotation goes by columns
    /device_0/sensor_0/option/Depth_Units/value   metres a unit, as text
    /device_0/sensor_1/Color_0/...                the same of the colour; image/data/compressed

The depth is not aligned there: it is moved to the colour camera, and the distortion is removed.

Colour and depth are paired by the stamps in their headers, which are the camera's. Where the two
sensors have two clocks, fewer than half of the frames find a partner so. Then they are paired by
the time at which the recorder got them.

The SDK's images are no images of ROS: the header's ``frame_id`` holds a version, and from version
"1" on four bytes with the depth units follow that no definition names. A reader of ROS alone
refuses them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from e2r.datasets import bags, rgbd, ros_images
from e2r.datasets.bags import FramePair, Topics
from e2r.datasets.recordings import RecordedFrame, Recording
from e2r.datasets.rgbd import DepthCamera
from e2r.datasets.ros_images import BrokenMessage
from e2r.formats import file_checks
from e2r.geometry import poses
from e2r.geometry.lens_distortion import Lens
from e2r.runtime.prefetch import prefetch
from e2r.types import Float

IMAGES = re.compile(
    r"(/device_\d+/sensor_\d+)/(Depth|Color)_\d+/image/data(?:/compressed(?:Depth)?)?"
)
MM_PER_METRE = 1e3


class _Cameras(NamedTuple):
    """What the frames of a bag share."""

    lens: Lens  # of the colour
    depth: DepthCamera
    mm_per_unit: float  # of the stored depth, unless a frame tells its own


def is_realsense_bag(path: Path) -> bool:
    """Whether a path is a bag with the topics of the RealSense SDK; False for a broken one.

    Args:
      path: any.
    """
    if path.suffix.lower() not in (".bag", ".db3") or not path.is_file():
        return False
    try:
        with _reader(path) as (reader, _):
            return any(IMAGES.fullmatch(one.topic) for one in reader.connections)
    except ValueError:  # whoever reads it says why
        return False


def open_realsense_bag(path: Path, *, unchecked: bool = False) -> Recording:
    """Finds the frames of a bag, and reads its lenses, its extrinsics and its depth units.

    Args:
      path: the file.
      unchecked: say what is doubtful about the lenses, and do not refuse them.

    Raises:
      ValueError: the bag cannot be read, or lacks something; the message names it.
    """
    with _reader(path) as (reader, decode):
        topics = _find_topics(reader, path)
        cameras = _read_cameras(reader, decode, topics, path=path, unchecked=unchecked)
        pairs, by_stamp = _find_pairs(reader, decode, topics, path)
        if not pairs:
            raise ValueError(f"{path}: no colour and depth were taken at one time; record both")
        _check_encoding(reader, decode, topics.color, path)
    return Recording(
        path,
        range(1, len(pairs) + 1),
        lambda numbers: _read_frames(
            path, topics, cameras, {n: pairs[n - 1] for n in numbers}, by_stamp=by_stamp
        ),
        first_seconds=pairs[0].depth / 1e9,
    )


@contextmanager
def _reader(path: Path) -> Iterator[tuple[Any, Any]]:
    """A reader of the file, and a function (bytes, type) -> message.

    The types in a file of ROS 1 are not what it holds, so those of ROS are taken.
    """
    with bags.told(path):
        from rosbags import rosbag1, rosbag2  # noqa: PLC0415 - an extra
        from rosbags.typesys import Stores, get_typestore  # noqa: PLC0415

        if path.suffix.lower() == ".db3":
            with rosbag2.Reader(path) as reader:
                yield reader, get_typestore(Stores.ROS2_HUMBLE).deserialize_cdr
        else:
            with rosbag1.Reader(path) as reader:
                yield reader, get_typestore(Stores.ROS1_NOETIC).deserialize_ros1


def _find_topics(reader: Any, path: Path) -> Topics:
    """The first colour and the first depth."""
    found: dict[str, str] = {}
    for topic in sorted(connection.topic for connection in reader.connections):
        match = IMAGES.fullmatch(topic)
        if match is not None:
            found.setdefault(match[2], topic)
    for kind, name in (("Color", "colour"), ("Depth", "depth")):
        if kind not in found:
            raise ValueError(f"{path}: has no {name}; record the streams Color and Depth")
    return Topics(found["Color"], found["Depth"])


def _read_cameras(
    reader: Any, decode: Any, topics: Topics, *, path: Path, unchecked: bool
) -> _Cameras:
    """Both lenses, the motion between them, and the depth units."""
    lenses, motions = [], []
    for topic in topics:
        stream = topic.split("/image/data")[0]
        info = _first(reader, decode, re.escape(stream) + "/(info|image)/camera_info")
        motion = _first(reader, decode, re.escape(f"{stream}/tf/") + r"(ref_)?\d+")
        for message, name in ((info, "camera_info"), (motion, "tf")):
            if message is None:
                raise ValueError(f"{path}: has no {stream}/{name}; record it by the RealSense SDK")
        lenses.append(bags.lens_of_info(info, path / stream.strip("/"), unchecked=unchecked))
        motions.append(_matrix(motion, f"{path}: {stream}/tf"))
    color, depth = motions
    sensor = topics.depth.split("/Depth_")[0]
    units = _first(reader, decode, re.escape(sensor) + "/option/Depth[ _]Units/value")
    metres = 1e-3 if units is None else float(units.data)
    if not 0 < metres < 0.1:
        raise ValueError(f"{path}: its depth units are {metres:g} m; record it again")
    camera = DepthCamera(lenses[1], color @ np.linalg.inv(depth), path)
    return _Cameras(lenses[0], camera, MM_PER_METRE * metres)


def _first(reader: Any, decode: Any, pattern: str) -> Any:
    """The first message of the topic that fits a pattern; None without one."""
    connections = [one for one in reader.connections if re.fullmatch(pattern, one.topic)]
    raw = reader.messages(connections[:1]) if connections else ()
    return next((message for _, message in ros_images.readable(decode, raw)), None)


def _matrix(transform: Any, where: str) -> Float[np.ndarray, "4 4"]:
    """The motion of a transform, or of its text, mm."""
    if hasattr(transform, "data"):
        return _matrix_of_text(transform.data, where)
    turn, shift = transform.rotation, transform.translation
    quaternion = np.array([turn.x, turn.y, turn.z, turn.w])
    if not np.linalg.norm(quaternion) > 0:
        raise ValueError(f"{where}: has no rotation; record it again")
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat(quaternion).as_matrix()
    matrix[:3, 3] = MM_PER_METRE * np.array([shift.x, shift.y, shift.z])
    return poses.to_matrix(poses.from_matrix(matrix, where))


def _matrix_of_text(text: str, where: str) -> Float[np.ndarray, "4 4"]:
    """The motion of ``rotation=...;translation=...``, nine numbers by columns and three, metres."""
    found = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
    try:
        columns, shift = (
            np.array([float(one) for one in found[name].split(",")])
            for name in ("rotation", "translation")
        )
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = columns.reshape(3, 3).T, MM_PER_METRE * shift
    except (KeyError, ValueError):
        raise ValueError(f"{where}: is no motion ({text[:60]}); record it again") from None
    return poses.to_matrix(poses.from_matrix(matrix, where))


def _messages(
    reader: Any, decode: Any, topics: Topics, first: int | None = None, last: int | None = None
) -> Iterator[tuple[str, int, Any, float | None]]:
    """Topic, time in the bag, message, and metres a unit of each image.

    One that cannot be read is a :class:`~e2r.datasets.ros_images.BrokenMessage`.
    """
    connections = [one for one in reader.connections if one.topic in topics]
    stop = None if last is None else last + 1
    for connection, time, raw in reader.messages(connections, start=first, stop=stop):
        whole = partial(_read_image, decode)
        found = ros_images.read_or_broken(whole, connection, raw)
        broken = isinstance(found, BrokenMessage)
        yield (connection.topic, time, *((found, None) if broken else found))


def _read_image(decode: Any, raw: bytes, kind: str) -> tuple[Any, float | None]:
    """An image, and the depth units that older SDKs write behind it."""
    from rosbags.typesys.store import SerdeError  # noqa: PLC0415 - an extra

    try:
        return decode(raw, kind), None
    except SerdeError:
        return decode(raw[:-4], kind), struct.unpack("<f", raw[-4:])[0]


def _check_encoding(reader: Any, decode: Any, topic: str, path: Path) -> None:
    """Refuses a colour that is not red, green and blue, before any frame is read."""
    for _, _, message, _ in _messages(reader, decode, Topics(topic, topic)):
        if isinstance(message, BrokenMessage):
            continue
        if getattr(message, "encoding", "rgb8") not in ros_images.COLORS:
            raise ValueError(
                f"{path}: encoding {message.encoding} of the colour is unknown; record rgb8"
            )
        return


def _find_pairs(
    reader: Any, decode: Any, topics: Topics, path: Path
) -> tuple[list[FramePair], bool]:
    """The frames in order, and whether their stamps pair them."""
    by_stamp: dict[str, dict[int, int]] = {topic: {} for topic in topics}
    by_arrival: dict[str, dict[int, int]] = {topic: {} for topic in topics}
    lost = 0
    for topic, time, message, _ in _messages(reader, decode, topics):
        stamp = ros_images.stamp_ns(message)
        by_arrival[topic][time] = time
        if stamp is None:
            lost += 1
        else:
            by_stamp[topic].setdefault(stamp, time)
    pairs = bags.nearest_pairs(*(by_stamp[topic] for topic in topics))
    frames = min(len(times) for times in by_arrival.values())
    if 2 * len(pairs) >= frames:
        bags.say_lost(path, lost)
        return pairs, True
    return bags.nearest_pairs(*(by_arrival[topic] for topic in topics)), False


def _read_frames(
    path: Path, topics: Topics, cameras: _Cameras, pairs: Mapping[int, FramePair], *, by_stamp: bool
) -> Iterator[RecordedFrame]:
    """The frames of some numbers in order."""
    if not pairs:
        return
    with _reader(path) as (reader, decode):
        messages = (
            (topic, ros_images.stamp_ns(message) if by_stamp else time, (message, units))
            for topic, time, message, units in _messages(
                reader, decode, topics, *bags.stretch(pairs)
            )
        )
        both = bags.wait_for_partners(messages, topics, pairs)
        yield from prefetch(partial(_make_frame, cameras), both, workers=2)


def _make_frame(cameras: _Cameras, frame: tuple[int, FramePair, Any, Any]) -> RecordedFrame:
    number, pair, (color, _), (depth, units) = frame
    mm_per_unit = MM_PER_METRE * units if units else cameras.mm_per_unit
    try:
        values = ros_images.decode_depth(depth) * np.float32(mm_per_unit)
        image = rgbd.register_image(
            ros_images.decode_color(color), values, cameras.depth, lens=cameras.lens
        )
    except (ValueError, OSError) as error:
        return RecordedFrame(number, pair.depth / 1e9, None, file_checks.one_line(error, 300))
    return RecordedFrame(number, pair.depth / 1e9, image)
