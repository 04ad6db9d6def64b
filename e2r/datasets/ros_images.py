"""The pictures in messages of ROS, as numbers."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from e2r.formats import depth_files, file_checks

COLORS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0)}
"""Encoding of colour -> the channels that are red, green and blue."""
DEPTHS = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}
"""Encoding of depth -> its number type: whole millimetres, or metres."""
COMPRESSED_DEPTH_HEADER = 12
"""Bytes before the PNG of a compressed depth: its kind, and two floats a and b. A depth of 32FC1 is
stored as whole numbers v: a / (v - b) metres, 0 where unseen (compressed_depth_image_transport)."""


class BrokenMessage(NamedTuple):
    """What is left of a message that cannot be read."""

    reason: str  # one sentence
    stamp: int | None  # in its header, ns; None where that cannot be read, either


def read_or_broken(
    decode: Callable[[bytes, str], Any], connection: Any, raw: bytes
) -> Any | BrokenMessage:
    """A message, or why it cannot be read.

    Args:
      decode: (bytes, type) -> message.
      connection: of rosbags.
      raw: the bytes.
    """
    try:
        return decode(raw, connection.msgtype)
    except Exception as error:  # of rosbags, numpy or struct, by what is broken
        reason = file_checks.one_line(error)
        return BrokenMessage(
            f"a message on {connection.topic} cannot be read ({reason}); record it again",
            _raw_stamp(raw, of_ros2=hasattr(connection.ext, "serialization_format")),
        )


def readable(
    decode: Callable[[bytes, str], Any], messages: Iterable[tuple[Any, int, bytes]]
) -> Iterator[tuple[str, Any]]:
    """Topic and message of those that can be read.

    Args:
      decode: (bytes, type) -> message.
      messages: connection of rosbags, time and bytes.
    """
    for connection, _, raw in messages:
        message = read_or_broken(decode, connection, raw)
        if not isinstance(message, BrokenMessage):
            yield connection.topic, message


def _raw_stamp(raw: bytes, *, of_ros2: bool) -> int | None:
    """Nanoseconds in the header that the bytes of a message begin with; four others are before."""
    head = bytes(raw[:12])
    if len(head) < 12 or (of_ros2 and head[:2] not in (b"\0\0", b"\0\1")):
        return None
    order = ">" if of_ros2 and not head[1] else "<"
    seconds, nanoseconds = struct.unpack(order + "II", head[4:])
    return seconds * 10**9 + nanoseconds if nanoseconds < 10**9 else None


def encoding_of(message: Any) -> str:
    """The encoding of an image; ``compressed`` or ``compressedDepth`` of a compressed one.

    Args:
      message: ``Image`` or ``CompressedImage``.
    """
    if hasattr(message, "encoding"):
        return str(message.encoding)
    return "compressedDepth" if "compressedDepth" in message.format else "compressed"


def stamp_ns(message: Any) -> int | None:
    """Nanoseconds in the header of a message; None of a broken one whose header is, too.

    Args:
      message: of any kind that has a header, or a broken one.
    """
    if isinstance(message, BrokenMessage):
        return message.stamp
    stamp = message.header.stamp
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def decode_color(message: Any) -> np.ndarray:
    """RGB of an image message, (H, W, 3) uint8; rows may be padded.

    Args:
      message: ``Image`` or ``CompressedImage``, or a broken one.

    Raises:
      ValueError: the message is broken, its encoding is unknown, or data are missing.
    """
    _refuse_broken(message)
    if encoding_of(message) == "compressed":
        return _decompress(bytes(message.data), "RGB")
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
      message: ``Image``, or ``CompressedImage`` of the plug-in compressedDepth with PNG inside; or
        a broken one.

    Raises:
      ValueError: the message is broken, its encoding is unknown, or data are missing.
    """
    _refuse_broken(message)
    encoding = encoding_of(message)
    if encoding == "compressedDepth":
        data = bytes(message.data)
        values = _decompress(data[COMPRESSED_DEPTH_HEADER:])
        if values.ndim != 2:
            raise ValueError("a compressed depth has several channels; record it again")
        metres = message.format.startswith("32FC1")
        if metres:
            a, b = np.frombuffer(data[4:COMPRESSED_DEPTH_HEADER], "<f4").astype(np.float64)
            values = np.where(values > 0, a / np.where(values > 0, values - b, 1.0), 0.0)
    else:
        if encoding not in DEPTHS:
            raise ValueError(f"encoding {encoding} of the depth is unknown; record 16UC1 or 32FC1")
        values = _rows(message, DEPTHS[encoding])[:, : message.width]
        metres = encoding == "32FC1"
    depth = np.where(depth_files.unmeasured(values), 0.0, values)
    return (1e3 * depth if metres else depth).astype(np.float32)


def _refuse_broken(message: Any) -> None:
    if isinstance(message, BrokenMessage):
        raise ValueError(message.reason)


def _decompress(data: bytes, mode: str | None = None) -> np.ndarray:
    """The values of a PNG or JPEG, of a mode of Pillow."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image if mode is None else image.convert(mode))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = file_checks.one_line(error)
        raise ValueError(
            f"a compressed picture cannot be read ({reason}); record it again"
        ) from None


def _rows(message: Any, kind: str) -> np.ndarray:
    """The rows of an image with their padding, as numbers of a type."""
    data = np.ascontiguousarray(message.data).view(np.uint8)
    step = message.step
    if len(data) < step * message.height or step % int(kind[1]):
        raise ValueError(f"an image has {len(data)} bytes for {message.height} rows of {step}")
    order = ">" if message.is_bigendian else "<"
    return data[: step * message.height].reshape(message.height, step).view(order + kind)
