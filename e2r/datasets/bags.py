"""Recordings of ROS: bags of ROS 1 and folders of ROS 2, MCAP among them. ROS is not needed.

The depth must be aligned to the colour (``aligned_depth_to_color`` of a RealSense). Frames are
paired by the stamps in their headers, not by the order in which a bag plays them. Bags of the
RealSense SDK are those of :mod:`e2r.datasets.realsense_bags`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from e2r.datasets import rgbd, ros_images
from e2r.datasets.recordings import RecordedFrame, Recording
from e2r.formats import camera_files, file_checks, notices
from e2r.geometry.lens_distortion import Lens

SUFFIXES = (".bag", ".mcap", ".db3")
IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
PAIR_SECONDS = 0.02
"""Colour and depth of one frame are stamped no farther apart, s."""


class Topics(NamedTuple):
    """Topics of the images."""

    color: str
    depth: str


class FramePair(NamedTuple):
    """Colour and depth of one frame: their times by one clock, and those of the bag, ns."""

    color: int
    depth: int
    first: int  # when the bag has the earlier one
    last: int


def is_bag(path: Path) -> bool:
    """Whether a path is a bag of ROS 1, or a folder or a file of ROS 2."""
    return path.suffix.lower() in SUFFIXES or (path / "metadata.yaml").is_file()


def open_bag(path: Path, topics: Sequence[str] = (), *, unchecked: bool = False) -> Recording:
    """Finds the frames of a bag, and reads its lens.

    Args:
      path: file of ROS 1, or folder of ROS 2.
      topics: of the colour and of the depth; found without them where there is one of each.
      unchecked: say what is doubtful about the lenses, and do not refuse them.

    Raises:
      ValueError: the bag cannot be read, its depth is not aligned, or topics are missing.
    """
    if path.suffix.lower() in (".mcap", ".db3") and (path.parent / "metadata.yaml").is_file():
        path = path.parent
    with _reader(path) as reader:
        chosen = _choose_topics(reader, path, topics)
        lens = _read_lens(reader, chosen, path, unchecked=unchecked)
        pairs = _pairs(reader, chosen, path)
    return Recording(
        path,
        range(1, len(pairs) + 1),
        lambda numbers: _read_frames(path, chosen, lens, {n: pairs[n - 1] for n in numbers}),
        first_seconds=pairs[0].depth / 1e9,
    )


@contextmanager
def _reader(path: Path) -> Iterator[Any]:
    """A reader of the bag; what it says of a broken one is one sentence."""
    with told(path):
        from rosbags.highlevel import AnyReader  # noqa: PLC0415 - an extra
        from rosbags.typesys import Stores, get_typestore  # noqa: PLC0415

        with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
            yield reader


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Says in one sentence what rosbags says of a broken bag, or that rosbags is not there.

    Args:
      path: of the bag.

    Raises:
      ValueError: the block failed.
    """
    try:
        yield
    except ValueError:
        raise
    except ImportError:
        raise ValueError(
            f"{path}: reading a bag needs rosbags; install it by pip install 'e2r[recordings]'"
        ) from None
    except Exception as error:  # of rosbags, sqlite, zstd or mcap
        raise ValueError(
            f"{path}: cannot be read as a bag ({file_checks.one_line(error)}); give a .bag of "
            "ROS 1, or the folder of ROS 2 that holds metadata.yaml"
        ) from None


def _choose_topics(reader: Any, path: Path, given: Sequence[str]) -> Topics:
    """The topics of colour and depth."""
    images = {c.topic: c for c in reader.connections if c.msgtype in IMAGES}
    for topic in given:
        if topic not in images:
            there = ", ".join(sorted(images)) or "none"
            raise ValueError(f"{path}: has no images on {topic}; its topics of images are {there}")
    if given:
        return Topics(*given)
    colors, depths = [], []
    for topic, connection in sorted(images.items()):
        raw = reader.messages(connections=[connection])
        for _, message in ros_images.readable(reader.deserialize, raw):
            encoding = ros_images.encoding_of(message)
            colors += [topic] if encoding in ros_images.COLORS or encoding == "compressed" else []
            depths += (
                [topic] if encoding in ros_images.DEPTHS or encoding == "compressedDepth" else []
            )
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
    return Topics(colors[0], aligned[0])


def _read_lens(reader: Any, topics: Topics, path: Path, *, unchecked: bool) -> Lens:
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
        raw = reader.messages(connections=beside[:1]) if beside else ()
        for _, info in ros_images.readable(reader.deserialize, raw):
            infos[topic] = info
            break
    if topics.color not in infos:
        raise ValueError(f"{path}: has no camera_info beside {topics.color}; record it, too")
    lenses = {
        topic: lens_of_info(
            info, path / topic.strip("/"), straight=_is_rectified(topic), unchecked=unchecked
        )
        for topic, info in infos.items()
    }
    lens = lenses[topics.color]
    other = lenses.get(topics.depth, lens)
    same = np.allclose(other[:4], lens[:4], rtol=1e-3)
    if lens.bends or other.bends:
        kinds = {(one.model, len(one.distortion)) for one in (lens, other)}
        same = same and len(kinds) == 1
        same = same and np.allclose(other.distortion, lens.distortion, atol=1e-4)
    if other.size != lens.size or not same:
        raise ValueError(
            f"{path}: {topics.depth} has another lens than {topics.color}; record the depth that "
            "is aligned to the colour"
        )
    return lens


def _is_rectified(topic: str) -> bool:
    """Whether a topic's pictures have no distortion any more (names by ROS's image pipeline)."""
    return any(part.startswith("image_rect") for part in topic.split("/"))


def lens_of_info(
    info: Any, where: Path, *, straight: bool = False, unchecked: bool = False
) -> Lens:
    """The lens of a ``CameraInfo``.

    Args:
      info: the message, of ROS 1 or 2.
      where: that messages name.
      straight: of its rectified pictures: they follow the matrix P, and have no distortion.
      unchecked: say what is doubtful, and do not refuse it.

    Raises:
      ValueError: a field is wrong.
    """
    size = (int(info.width), int(info.height))
    coefficients = np.asarray(_field(info, "d")).tolist()
    document = {
        "image_width": size[0],
        "image_height": size[1],
        "camera_matrix": {"rows": 3, "cols": 3, "data": _matrix(info, straight).tolist()},
        "distortion_model": "plumb_bob" if straight else info.distortion_model or "plumb_bob",
        "distortion_coefficients": {"data": [0.0] * 5 if straight else coefficients or [0.0] * 5},
    }
    return camera_files.lens_of_document(document, where, size, unchecked=unchecked)


def _field(info: Any, name: str) -> Any:
    """A field of camera_info: lower case in ROS 2, upper case in ROS 1."""
    return getattr(info, name) if hasattr(info, name) else getattr(info, name.upper())


def _matrix(info: Any, straight: bool) -> np.ndarray:
    """The nine numbers of a camera's matrix; P has a fourth column, for stereo."""
    name, columns = ("p", 4) if straight else ("k", 3)
    return np.asarray(_field(info, name), np.float64).reshape(3, columns)[:, :3].ravel()


def _messages(
    reader: Any, topics: Topics, first: int | None = None, last: int | None = None
) -> Iterator[tuple[str, int, Any]]:
    """Topic, time in the bag and message of each image; those of a stretch of time, ns.

    One that cannot be read is a :class:`~e2r.datasets.ros_images.BrokenMessage`.
    """
    connections = [c for c in reader.connections if c.topic in topics and c.msgtype in IMAGES]
    stop = None if last is None else last + 1
    for connection, time, raw in reader.messages(connections=connections, start=first, stop=stop):
        yield (
            connection.topic,
            time,
            ros_images.read_or_broken(reader.deserialize, connection, raw),
        )


def _pairs(reader: Any, topics: Topics, path: Path) -> list[FramePair]:
    """The frames, in order of the depth's stamps."""
    times: dict[str, dict[int, int]] = {topic: {} for topic in topics}
    counts = dict.fromkeys(topics, 0)
    lost = 0
    for topic, time, message in _messages(reader, topics):
        stamp = ros_images.stamp_ns(message)
        if stamp is None:
            lost += 1
            continue
        times[topic].setdefault(stamp, time)
        counts[topic] += 1
    say_lost(path, lost)
    for topic, count in counts.items():
        if 2 * len(times[topic]) < count:
            raise ValueError(
                f"{path}: the {count} pictures of {topic} have {len(times[topic])} different "
                "stamps in their headers; record with a driver that stamps each one"
            )
    pairs = nearest_pairs(times[topics.color], times[topics.depth])
    if not pairs:
        raise ValueError(f"{path}: no colour and depth were taken at the same time; see its stamps")
    fewer = min(counts.values())
    if 2 * len(pairs) < fewer:
        notices.say(
            path,
            f"only {len(pairs)} of {fewer} pictures have a partner within {PAIR_SECONDS:g} s; the "
            "others are left out",
        )
    return pairs


def say_lost(path: Path, count: int) -> None:
    """Says how many messages no frame can be told of.

    Args:
      path: of the bag.
      count: messages whose stamps cannot be read; nothing is said of none.
    """
    if count:
        notices.say(path, f"is read without {count} of its pictures, for their stamps are broken")


def nearest_pairs(colors: Mapping[int, int], depths: Mapping[int, int]) -> list[FramePair]:
    """Pairs each depth with the colour that was taken at nearly the same time.

    Args:
      colors: time by the clock that pairs them -> time in the bag, ns.
      depths: the same of the depth.

    Returns:
      The pairs in order of the depth; each time is in one of them at most.
    """
    known = np.array(sorted(colors), np.int64)
    pairs, used = [], set()
    for depth in sorted(depths) if len(known) else ():
        place = int(np.searchsorted(known, depth))
        around = known[max(0, place - 1) : place + 1]
        nearest = int(around[np.argmin(np.abs(around - depth))])
        if abs(nearest - depth) <= PAIR_SECONDS * 1e9 and nearest not in used:
            used.add(nearest)
            both = colors[nearest], depths[depth]
            pairs.append(FramePair(nearest, depth, min(both), max(both)))
    return pairs


def wait_for_partners(
    messages: Iterable[tuple[str, int | None, Any]], topics: Topics, pairs: Mapping[int, FramePair]
) -> Iterator[tuple[int, FramePair, Any, Any]]:
    """Number, pair, colour and depth of frames in order; a message waits for its partner.

    Args:
      messages: topic, time by the clock that pairs them (None: unknown), and message.
      topics: of the images.
      pairs: number of a frame -> its times; in order.
    """
    wanted = {
        topics.color: {pair.color for pair in pairs.values()},
        topics.depth: {pair.depth for pair in pairs.values()},
    }
    waiting: dict[str, dict[int, Any]] = {topic: {} for topic in topics}
    left = list(pairs.items())[::-1]
    for topic, time, message in messages:
        if time is not None and time in wanted[topic]:
            waiting[topic].setdefault(time, message)
        colors, depths = waiting[topics.color], waiting[topics.depth]
        while left and left[-1][1].color in colors and left[-1][1].depth in depths:
            number, pair = left.pop()
            yield number, pair, colors.pop(pair.color), depths.pop(pair.depth)


def stretch(pairs: Mapping[int, FramePair]) -> tuple[int, int]:
    """First and last time of some frames in the bag, ns.

    Args:
      pairs: number of a frame -> its times; one at least.
    """
    return min(pair.first for pair in pairs.values()), max(pair.last for pair in pairs.values())


def _read_frames(
    path: Path, topics: Topics, lens: Lens, pairs: Mapping[int, FramePair]
) -> Iterator[RecordedFrame]:
    """The frames of some numbers in order."""
    if not pairs:
        return
    with _reader(path) as reader:
        messages = (
            (topic, ros_images.stamp_ns(message), message)
            for topic, _, message in _messages(reader, topics, *stretch(pairs))
        )
        for number, pair, color, depth in wait_for_partners(messages, topics, pairs):
            yield _make_frame(number, pair.depth / 1e9, color, depth, lens=lens)


def _make_frame(
    number: int, seconds: float, color: Any, depth: Any, *, lens: Lens
) -> RecordedFrame:
    try:
        pixels, values = ros_images.decode_color(color), ros_images.decode_depth(depth)
        if pixels.shape[:2] != values.shape:
            raise ValueError(
                f"depth is {values.shape[1]}x{values.shape[0]}, and colour "
                f"{pixels.shape[1]}x{pixels.shape[0]}; record the aligned depth"
            )
        if lens.size is not None and lens.size != pixels.shape[1::-1]:
            raise ValueError(
                f"the picture is {pixels.shape[1]}x{pixels.shape[0]}, but its camera_info is for "
                f"{lens.size[0]}x{lens.size[1]}; record that of the same size"
            )
        image = rgbd.undistort_image(pixels, values, lens)
    except (ValueError, OSError) as error:
        return RecordedFrame(number, seconds, None, file_checks.one_line(error, 300))
    return RecordedFrame(number, seconds, image)
