"""Colour and depth pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from e2r.formats import file_checks
from e2r.formats.file_checks import PathLike
from e2r.types import Shaped


def read_image(path: PathLike) -> Shaped[np.ndarray, "h w *c"]:
    """Reads an image without converting its values.

    Args:
      path: the file.

    Raises:
      ValueError: the file is missing or no image.
    """
    try:
        with Image.open(path) as image:
            return np.array(image)
    except FileNotFoundError:
        raise ValueError(
            f"{path}: no such file; an RGB-D image needs a colour and a depth image"
        ) from None
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:
        raise ValueError(f"{path}: cannot be read as a PNG ({error}); write it again") from None


def read_color(path: PathLike) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an 8-bit RGB image; an alpha channel is dropped.

    Args:
      path: the file.

    Raises:
      ValueError: the file is missing or no such image.
    """
    color = read_image(path)
    if color.ndim != 3 or color.dtype != np.uint8 or color.shape[2] < 3:
        raise ValueError(f"{path}: must be an 8-bit RGB image")
    return color[..., :3]


def read_depth(path: Path) -> np.ndarray:
    """Depth values (H, W) as the file holds them."""
    if path.suffix.lower() == ".npy":
        try:
            values = np.asarray(np.load(path, allow_pickle=False))
        except Exception as error:  # numpy raises whatever it meets
            reason = file_checks.one_line(error)
            raise ValueError(
                f"{path}: cannot be read ({reason}); save it with numpy.save"
            ) from None
    else:
        values = read_image(path)
    if values.ndim != 2 or values.dtype.kind not in "uif":
        raise ValueError(f"{path}: must have one channel of numbers; save it so")
    if values.dtype.itemsize < 2:
        raise ValueError(f"{path}: has 8 bits, which are too few; save it with 16")
    return values
