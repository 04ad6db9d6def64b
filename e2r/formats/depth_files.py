"""Depth of any format as an array of numbers: pictures, arrays, EXR."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

from e2r.formats import file_checks, pictures
from e2r.types import Bool, Shaped

EXR_MAGIC = b"\x76\x2f\x31\x01"
DEPTH_CHANNELS = ("z", "depth", "y", "v", "r")
"""Last parts of the names of depth channels, in lower case; the first one there is taken."""
PGM_HEADER_BYTES = 4096
FAR = 1e9
"""Renderers write such a number where they see nothing."""


def read_depth(path: Path) -> Shaped[np.ndarray, "h w"]:
    """Depth values as the file holds them.

    Args:
      path: .npy, .npz, .exr, or a picture of one channel: .png, .tif, .pfm, .pgm.

    Raises:
      ValueError: the file is missing or broken, has 8 bits, or is no depth.
    """
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        values = _read_array(path)
    elif suffix == ".exr":
        values = _read_exr(path)
    else:
        values = _read_picture(path)
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[..., 0] if values.shape[2] == 1 else values[0]
    if values.dtype == np.bool_ or (values.dtype.kind in "ui" and values.dtype.itemsize < 2):
        if values.ndim == 3:
            raise ValueError(
                f"{path}: is a depth painted in colours, so its distances are lost; save the "
                "measured depth with one channel of 16 bits"
            )
        raise ValueError(f"{path}: has 8 bits, which are too few; save it with 16")
    if values.ndim != 2 or values.dtype.kind not in "uif":
        raise ValueError(f"{path}: must have one channel of numbers; save it so")
    return values.astype(values.dtype.newbyteorder("="))


def unmeasured(values: Shaped[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Whether each number is no measurement: not finite, 0 or less, 65535, or its type's largest.

    Args:
      values: depth as its file holds it.
    """
    unseen = ~np.isfinite(values) | (values <= 0)
    unseen |= values.astype(np.float64) == 65535.0  # 16 bits say so, also once they are floats
    if values.dtype.kind in "ui":
        return unseen | (values == np.iinfo(values.dtype).max)
    return unseen | (values >= min(FAR, float(np.finfo(values.dtype).max)))


def _read_array(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            names = list(loaded)
            chosen = names[0] if len(names) == 1 else "depth"
            if chosen in names:
                return np.asarray(loaded[chosen])
    except Exception as error:  # numpy raises whatever it meets
        reason = file_checks.one_line(error)
        raise ValueError(f"{path}: cannot be read ({reason}); save it with numpy.save") from None
    raise ValueError(
        f"{path}: holds {len(names)} arrays and none is depth; save one array, named depth"
    )


def _read_picture(path: Path) -> np.ndarray:
    if path.suffix.lower() in (".tif", ".tiff"):
        return _read_tiff(path)
    if path.suffix.lower() == ".pfm":
        _check_pfm_scale(path)
    if path.suffix.lower() == ".pgm":
        _check_pgm_range(path)
    return pictures.read_image(path)


def _read_tiff(path: Path) -> np.ndarray:
    try:
        return pictures.read_image(path)
    except ValueError as refusal:
        # Pillow knows no floats but those of 32 bits.
        if not path.is_file() or "cannot identify" not in str(refusal):
            raise
        try:
            import tifffile  # noqa: PLC0415 - for these files alone

            with tifffile.TiffFile(path) as file:
                values = np.asarray(file.pages[0].asarray())
                pages = len(file.pages)
        except Exception:  # tifffile raises whatever it meets
            raise refusal from None
        if pages > 1:
            raise ValueError(
                f"{path}: holds {pages} pictures; save the one of this frame"
            ) from None
        return values


def _check_pgm_range(path: Path) -> None:
    """Refuses a PGM of 16 bits whose largest value is not 65535: Pillow stretches it to that."""
    if not path.is_file():
        return  # the reader says so
    with path.open("rb") as file:
        header = re.sub(rb"#[^\n]*", b"", file.read(PGM_HEADER_BYTES)).split()
    largest = header[3] if len(header) > 3 and header[0] in (b"P2", b"P5") else b""
    if largest.isdigit() and 255 < int(largest) != 65535:
        raise ValueError(
            f"{path}: has {int(largest)} as its largest value, by which some programs scale all "
            "others; write it with 65535, or as a 16-bit PNG"
        )


def _check_pfm_scale(path: Path) -> None:
    """Refuses a PFM whose numbers have a factor: Pillow ignores it, OpenCV divides by it."""
    try:
        with Image.open(path) as image:
            scale = float(image.info.get("scale", 1.0))
    except (OSError, SyntaxError, ValueError):
        return  # the reader says what is wrong
    if scale != 1.0:
        raise ValueError(
            f"{path}: has a scale of {scale:g}, which programs read differently; write it with 1"
        )


def _read_exr(path: Path) -> np.ndarray:
    try:
        import OpenEXR  # type: ignore # noqa: PLC0415 - for these files alone
    except ImportError:
        raise ValueError(
            f"{path}: is an EXR; install OpenEXR, or save the depth as a 16-bit PNG"
        ) from None
    if not path.is_file() or path.read_bytes()[:4] != EXR_MAGIC:
        raise ValueError(f"{path}: cannot be read as an EXR; write it again")
    try:
        with OpenEXR.File(str(path), separate_channels=True) as file:
            header, channels = file.header(), file.channels()  # both are empty once it is closed
            windows = [np.array(header[name]) for name in ("dataWindow", "displayWindow")]
            arrays = {name: np.array(channel.pixels) for name, channel in channels.items()}
    except Exception as error:  # OpenEXR raises whatever it meets
        reason = file_checks.one_line(error)
        raise ValueError(f"{path}: cannot be read as an EXR ({reason}); write it again") from None
    if not np.array_equal(windows[0], windows[1]):
        raise ValueError(f"{path}: is cut out of a larger picture; save it whole")
    return _depth_channel(arrays, path)


def _depth_channel(arrays: dict[str, np.ndarray], path: Path) -> np.ndarray:
    """The only channel, the one named so, or any of three that are equal."""
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    last = {name.lower().rsplit(".", 1)[-1]: array for name, array in arrays.items()}
    colors = [last[name] for name in "rgb" if name in last]
    same = all(np.array_equal(colors[0], other, equal_nan=True) for other in colors[1:])
    for name in DEPTH_CHANNELS:
        if name in last and (name != "r" or same):
            return last[name]
    raise ValueError(
        f"{path}: has the channels {', '.join(sorted(arrays))[:60]}; save one channel, named Z"
    )
