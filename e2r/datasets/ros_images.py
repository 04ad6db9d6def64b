"""The pictures in messages of ROS, as numbers."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from e2r.formats import depth_files

COLORS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0)}
"""Encoding of colour -> the channels that are red, green and blue."""
DEPTHS = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}
"""Encoding of depth -> its number type: whole millimetres, or metres."""
COMPRESSED_DEPTH_HEADER = 12
"""Bytes before the PNG of a compressed depth: its kind, and two floats a and b. A depth of 32FC1 is
stored as whole numbers v: a / (v - b) metres, 0 where unseen (compressed_depth_image_transport)."""


def encoding_of(message: Any) -> str:
    """The encoding of an image; ``compressed`` or ``compressedDepth`` of a compressed one.

    Args:
      message: ``Image`` or ``CompressedImage``.
    """
    if hasattr(message, "encoding"):
        return str(message.encoding)
    return "compressedDepth" if "compressedDepth" in message.format else "compressed"


def stamp_ns(message: Any) -> int:
    """Nanoseconds in the header of a message.

    Args:
      message: of any kind that has a header.
    """
    stamp = message.header.stamp
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def decode_color(message: Any) -> np.ndarray:
    """RGB of an image message, (H, W, 3) uint8; rows may be padded.

    Args:
      message: ``Image`` or ``CompressedImage``.

    Raises:
      ValueError: the encoding is unknown, or data are missing.
    """
    if encoding_of(message) == "compressed":
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
    encoding = encoding_of(message)
    if encoding == "compressedDepth":
        data = bytes(message.data)
        values = np.asarray(Image.open(io.BytesIO(data[COMPRESSED_DEPTH_HEADER:])))
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


def _rows(message: Any, kind: str) -> np.ndarray:
    """The rows of an image with their padding, as numbers of a type."""
    data = np.ascontiguousarray(message.data).view(np.uint8)
    step = message.step
    if len(data) < step * message.height or step % int(kind[1]):
        raise ValueError(f"an image has {len(data)} bytes for {message.height} rows of {step}")
    order = ">" if message.is_bigendian else "<"
    return data[: step * message.height].reshape(message.height, step).view(order + kind)
