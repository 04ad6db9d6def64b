"""Pictures: their values, and colour."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from e2r.formats.file_checks import PathLike
from e2r.types import Shaped

UNLIKE_RGB = ("CMYK", "YCbCr", "LAB", "HSV")
"""Modes of three or four channels that are not red, green and blue."""
PALETTES = ("P", "PA")
ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is to be turned; 1 is not at all."""
REDUCED = 254
"""The TIFF tag of a page that is a small copy of another."""


def read_image(path: PathLike) -> Shaped[np.ndarray, "h w *c"]:
    """Reads an image without converting its values.

    Args:
      path: the file.

    Raises:
      ValueError: the file is missing or no image, or holds several.
    """
    return _read(path)[0]


def read_color(path: PathLike) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an 8-bit RGB image; an alpha channel is dropped, 16 bits become 8.

    Args:
      path: the file.

    Raises:
      ValueError: the file is missing or no such image.
    """
    color, mode = _read(path, palette=True)
    if mode in UNLIKE_RGB:
        raise ValueError(
            f"{path}: is {mode}, and must be an 8-bit RGB image; save it as RGB, best as a PNG"
        )
    if color.ndim != 3 or color.dtype != np.uint8 or color.shape[2] < 3:
        raise ValueError(f"{path}: must be an 8-bit RGB image; bone is found by its colours")
    return color[..., :3]


def check_orientation(path: PathLike) -> None:
    """Refuses a picture that is to be turned before it is shown: pixels are counted as stored.

    Args:
      path: the file.

    Raises:
      ValueError: its EXIF data turn or mirror it.
    """
    try:
        with Image.open(path) as image:
            orientation = image.getexif().get(ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return  # the reader says what is wrong
    if orientation not in (0, 1):
        raise ValueError(
            f"{path}: is to be turned by its EXIF orientation {orientation}; save it without that "
            "tag, its pixels as those of the depth"
        )


def _read(path: PathLike, *, palette: bool = False) -> tuple[np.ndarray, str]:
    """The values and the mode; by the palette, if there is one and the caller wants colours."""
    try:
        with Image.open(path) as image:
            pages = _pages(image) if image.format == "TIFF" else 1
            mode = image.mode
            values = np.array(image.convert("RGB") if palette and mode in PALETTES else image)
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
    if pages > 1:
        raise ValueError(f"{path}: holds {pages} pictures; save the one of this frame")
    return values, mode


def _pages(image: Image.Image) -> int:
    """Pictures of a TIFF file, without small copies."""
    count = 0
    for page in range(getattr(image, "n_frames", 1)):
        image.seek(page)
        count += not int(getattr(image, "tag_v2", {}).get(REDUCED, 0)) & 1
    image.seek(0)
    return count
