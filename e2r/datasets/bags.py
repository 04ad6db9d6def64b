"""Recordings of ROS: bags of ROS 1 and folders of ROS 2, MCAP among them. ROS is not needed.

The depth must be aligned to the colour (``aligned_depth_to_color`` of a RealSense). Frames are
paired by the stamps in their headers, not by the order in which a bag plays them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from e2r.datasets import rgbd
from e2r.datasets.recordings import RecordedFrame, Recording
from e2r.formats import camera_files, depth_files, file_checks
from e2r.geometry.lens_distortion import Lens

SUFFIXES = (".bag", ".mcap", ".db3")
IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
COLORS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0)}
"""Encoding of colour -> the channels that are red, green and blue."""
DEPTHS = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}
"""Encoding of depth -> its number type: whole millimetres, or metres."""
PAIR_SECONDS = 0.02
"""Colour and depth of one frame are stamped no farther apart, s."""
COMPRESSED_DEPTH_HEADER = 12
"""Bytes before the PNG of a compressed depth."""


class _Topics(NamedTuple):
    color: str
    depth: str


def is_bag(path: Path) -> bool:
    """Whether a path is a bag of ROS 1, or a folder or a file of ROS 2."""
    return path.suffix.lower() in SUFFIXES or (path / "metadata.yaml").is_file()


def open_bag(path: Path, topics: Sequence[str] = ()) -> Recording:
    """Finds the frames of a bag, and reads its lens.

    Args:
      path: file of ROS 1, or folder of ROS 2.
      topics: of the colour and of the depth; found without them where there is one of each.

    Raises:
      ValueError: the bag cannot be read, its depth is not aligned, or topics are missing.
    """
    if path.suffix.lower() in (".mcap", ".db3") and (path.parent / "metadata.yaml").is_file():
        path = path.parent
    with _reader(path) as reader:
        chosen = _choose_topics(reader, path, topics)
        lens = _read_lens(reader, chosen, path)
        pairs = _pairs(reader, chosen)
    if not pairs:
        raise ValueError(f"{path}: no colour and depth were taken at the same time; see its stamps")
    return Recording(
        path,
        len(pairs),
        lambda: _read_frames(path, chosen, lens, pairs),
        first_seconds=pairs[0][1] / 1e9,
    )


@contextmanager
def _reader(path: Path) -> Iterator[Any]:
    """A reader of the bag; what it says of a broken one is one sentence."""
    try:
        from rosbags.highlevel import AnyReader  # noqa: PLC0415 - an extra
        from rosbags.typesys import Stores, get_typestore  # noqa: PLC0415
    except ImportError:
        raise ValueError(
            f"{path}: reading a bag needs rosbags; install it by pip install 'e2r[recordings]'"
        ) from None
    try:
        with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
            yield reader
    except ValueError:
        raise
    except Exception as error:  # of rosbags, sqlite, zstd or mcap
        raise ValueError(
            f"{path}: cannot be read as a bag ({file_checks.one_line(error)}); give a .bag of "
            "ROS 1, or the folder of ROS 2 that holds metadata.yaml"
        ) from None


def _choose_topics(reader: Any, path: Path, given: Sequence[str]) -> _Topics:
    """The topics of colour and depth."""
    images = {c.topic: c for c in reader.connections if c.msgtype in IMAGES}
    for topic in given:
        if topic not in images:
            there = ", ".join(sorted(images)) or "none"
            raise ValueError(f"{path}: has no images on {topic}; its topics of images are {there}")
    if given:
        return _Topics(*given)
    colors, depths = [], []
    for topic, connection in sorted(images.items()):
        for found, _, raw in reader.messages(connections=[connection]):
            encoding = _encoding(reader.deserialize(raw, found.msgtype))
            colors += [topic] if encoding in COLORS or encoding == "compressed" else []
            depths += [topic] if encoding in DEPTHS or encoding == "compressedDepth" else []
            break
    aligned = [topic for topic in depths if "aligned" in topic] or depths
    for what, found in (("colour", colors), ("depth", aligned)):
        if not found:
            raise ValueError(f"{path}: has no topic of {what}; its topics: {', '.join(images)}")
        if len(found) > 1:
            raise ValueError(
                f"{path}: has several topics of {what}, {', '.join(found)}; name that of the "
                "colour and that of the depth with --topics"
            )
    return _Topics(colors[0], aligned[0])


def _read_lens(reader: Any, topics: _Topics, path: Path) -> Lens:
    """The lens of the colour; a depth with another one is not aligned."""
    infos = {}
    for topic in topics:
        parents = [topic.rsplit("/", number)[0] for number in range(1, topic.count("/"))]
        beside = [
            c
            for parent in parents
            for c in reader.connections
            if c.msgtype == CAMERA_INFO and c.topic.rsplit("/", 1)[0] == parent
        ]
        for connection, _, raw in reader.messages(connections=beside[:1]) if beside else ():
            infos[topic] = reader.deserialize(raw, connection.msgtype)
            break
    if topics.color not in infos:
        raise ValueError(f"{path}: has no camera_info beside {topics.color}; record it, too")
    info = infos[topics.color]
    if topics.depth in infos:
        other = infos[topics.depth]
        same_size = (info.width, info.height) == (other.width, other.height)
        if not same_size or not np.allclose(_matrix(info), _matrix(other), rtol=1e-3):
            raise ValueError(
                f"{path}: {topics.depth} has another lens than {topics.color}; record the depth "
                "that is aligned to the colour"
            )
    document = {
        "image_width": int(info.width),
        "image_height": int(info.height),
        "camera_matrix": {"rows": 3, "cols": 3, "data": _matrix(info).tolist()},
        "distortion_model": info.distortion_model or "plumb_bob",
        "distortion_coefficients": {"data": np.asarray(_field(info, "d")).tolist() or [0.0] * 5},
    }
    size = (int(info.width), int(info.height))
    return camera_files.lens_of_document(document, path / topics.color.strip("/"), size)


def _field(info: Any, name: str) -> Any:
    """A field of camera_info: lower case in ROS 2, upper case in ROS 1."""
    return getattr(info, name) if hasattr(info, name) else getattr(info, name.upper())


def _matrix(info: Any) -> np.ndarray:
    return np.asarray(_field(info, "k"), np.float64).ravel()


def _encoding(message: Any) -> str:
    """The encoding of an image; ``compressed`` or ``compressedDepth`` of a compressed one."""
    if hasattr(message, "encoding"):
        return str(message.encoding)
    return "compressedDepth" if "compressedDepth" in message.format else "compressed"


def _stamp(message: Any) -> int:
    """Nanoseconds in the header."""
    stamp = message.header.stamp
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def _messages(reader: Any, topics: _Topics) -> Iterator[tuple[str, Any]]:
    """Topic and message of each image."""
    connections = [c for c in reader.connections if c.topic in topics and c.msgtype in IMAGES]
    for connection, _, raw in reader.messages(connections=connections):
        yield connection.topic, reader.deserialize(raw, connection.msgtype)


def _pairs(reader: Any, topics: _Topics) -> list[tuple[int, int]]:
    """Stamps of colour and depth of each frame, in order of the depth's."""
    stamps: dict[str, set[int]] = {topic: set() for topic in topics}
    for topic, message in _messages(reader, topics):
        stamps[topic].add(_stamp(message))
    colors = np.array(sorted(stamps[topics.color]), np.int64)
    pairs, used = [], set()
    for depth in sorted(stamps[topics.depth]) if len(colors) else ():
        nearest = int(colors[np.argmin(np.abs(colors - depth))])
        if abs(nearest - depth) <= PAIR_SECONDS * 1e9 and nearest not in used:
            used.add(nearest)
            pairs.append((nearest, depth))
    return pairs


def _read_frames(
    path: Path, topics: _Topics, lens: Lens, pairs: list[tuple[int, int]]
) -> Iterator[RecordedFrame]:
    """The frames in order; a message waits for its partner."""
    wanted = {topics.color: {c for c, _ in pairs}, topics.depth: {d for _, d in pairs}}
    waiting: dict[str, dict[int, Any]] = {topic: {} for topic in topics}
    number = 0
    with _reader(path) as reader:
        for topic, message in _messages(reader, topics):
            stamp = _stamp(message)
            if stamp in wanted[topic]:
                waiting[topic].setdefault(stamp, message)
            while number < len(pairs):
                color, depth = pairs[number]
                if color not in waiting[topics.color] or depth not in waiting[topics.depth]:
                    break
                both = waiting[topics.color].pop(color), waiting[topics.depth].pop(depth)
                number += 1
                yield _make_frame(number, depth / 1e9, *both, lens=lens)


def _make_frame(
    number: int, seconds: float, color: Any, depth: Any, *, lens: Lens
) -> RecordedFrame:
    try:
        pixels, values = decode_color(color), decode_depth(depth)
        if pixels.shape[:2] != values.shape:
            raise ValueError(
                f"depth is {values.shape[1]}x{values.shape[0]}, and colour "
                f"{pixels.shape[1]}x{pixels.shape[0]}; record the aligned depth"
            )
        image = rgbd.undistort_image(pixels, values, lens)
    except (ValueError, OSError) as error:
        return RecordedFrame(number, seconds, None, file_checks.one_line(error, 300))
    return RecordedFrame(number, seconds, image)


def decode_color(message: Any) -> np.ndarray:
    """RGB of an image message, (H, W, 3) uint8; rows may be padded.

    Args:
      message: ``Image`` or ``CompressedImage``.

    Raises:
      ValueError: the encoding is unknown, or data are missing.
    """
    if _encoding(message) == "compressed":
        return np.asarray(Image.open(io.BytesIO(bytes(message.data))).convert("RGB"))
    channels = COLORS.get(message.encoding)
    if channels is None:
        raise ValueError(f"encoding {message.encoding} of the colour is unknown; record rgb8")
    pixels = _rows(message, "u1")
    count = len(message.encoding) - 1  # rgb8, rgba8
    image = pixels[:, : count * message.width].reshape(message.height, message.width, count)
    return np.ascontiguousarray(image[..., list(channels)])


def decode_depth(message: Any) -> np.ndarray:
    """Depth of an image message, (H, W) float32, mm, 0 where unseen.

    Args:
      message: ``Image``, or ``CompressedImage`` of the plug-in compressedDepth with PNG inside.

    Raises:
      ValueError: the encoding is unknown, or data are missing.
    """
    encoding = _encoding(message)
    if encoding == "compressedDepth":
        picture = Image.open(io.BytesIO(bytes(message.data)[COMPRESSED_DEPTH_HEADER:]))
        values, metres = np.asarray(picture), False
    else:
        if encoding not in DEPTHS:
            raise ValueError(f"encoding {encoding} of the depth is unknown; record 16UC1 or 32FC1")
        values = _rows(message, DEPTHS[encoding])[:, : message.width]
        metres = encoding == "32FC1"
    depth = np.where(depth_files.unmeasured(values), 0.0, values)
    return (1e3 * depth if metres else depth).astype(np.float32)


def _rows(message: Any, kind: str) -> np.ndarray:
    """The rows of an image with their padding, as numbers of a type."""
    data = np.ascontiguousarray(message.data).view(np.uint8)
    step = message.step
    if len(data) < step * message.height or step % int(kind[1]):
        raise ValueError(f"an image has {len(data)} bytes for {message.height} rows of {step}")
    order = ">" if message.is_bigendian else "<"
    return data[: step * message.height].reshape(message.height, step).view(order + kind)
