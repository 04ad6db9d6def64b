"""Intrinsics and distortion of a camera, as programs write them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from e2r.formats import notices
from e2r.formats.cameras import choice, devices, distortion, documents, matrices
from e2r.formats.cameras.fields import Fields, numbers, plain
from e2r.formats.file_checks import PathLike
from e2r.geometry.lens_distortion import Lens, undistort

MIN_FOCAL_PIXELS = 10.0
"""A smaller focal length is a share of the picture, or millimetres."""
ASPECT_SAID, ASPECT_REFUSED = 0.02, 0.05
"""Difference between fx and fy that is said, and that is refused: pixels are square."""
CENTER_DOUBTED, CENTER_REFUSED = 0.1, 0.15
"""Distance of the principal point from the middle, in shares of the picture's side.

Cameras keep within 0.09. Intrinsics of 1280x720 or 848x480 for 640x480 exceed 0.15. A picture that
was cropped by an eighth of its width lies between.
"""
MIN_FOCAL_SHARE, MAX_FOCAL_SHARE = 0.13, 30.0
"""Focal length in widths of the picture: fields of view of 150 and of 2 degrees."""
METRE_SCALES = ("depthmapfactor", "pngdepthscale")
"""Depth units per metre: of ORB-SLAM and TUM, and of NICE-SLAM."""


def read_lens(
    path: PathLike, size: tuple[int, int] | None = None, *, unchecked: bool | None = False
) -> Lens:
    """Reads intrinsics and distortion from JSON, YAML, OpenCV's XML, or a ZED's INI file.

    Args:
      path: the file.
      size: width and height of the picture, pixels, if known. It tells which camera of several is
        meant, and is checked against the principal point.
      unchecked: say what is doubtful, and do not refuse it; None where no user can insist.

    Raises:
      ValueError: the file or a field is missing or wrong; the message names it and the remedy.
    """
    return lens_of_document(documents.read_document(path), path, size, unchecked=unchecked)


def lens_of_document(
    document: dict[str, Any],
    path: PathLike,
    size: tuple[int, int] | None = None,
    *,
    unchecked: bool | None = False,
) -> Lens:
    """Intrinsics and distortion of a document that was read already.

    Args:
      document: names and values, as :func:`e2r.formats.cameras.documents.read_document` gives them.
      path: that messages name.
      size: as in :func:`read_lens`.
      unchecked: as in :func:`read_lens`.

    Raises:
      ValueError: a field is missing or wrong; the message names it and the remedy.
    """
    if devices.is_azure(document):
        given = devices.read_azure(document, path, size)
    elif devices.is_zed(document):
        given = devices.read_zed(document, path, size)
    else:
        given = choice.choose_camera(document, path, size)
    fields = Fields(given, path)
    model, coefficients = distortion.read_distortion(fields)
    pinhole = matrices.read_pinhole(fields)
    own_size = matrices.read_size(fields, pinhole)
    if size is not None and own_size is not None and size != own_size:
        raise ValueError(
            f"{path}: the intrinsics are for {own_size[0]}x{own_size[1]}, "
            f"but the picture is {size[0]}x{size[1]}; give those of this size"
        )
    depth_scale = _read_depth_scale(fields)
    lens = Lens(
        *pinhole, distortion=coefficients, depth_scale=depth_scale, size=own_size, model=model
    )
    check_focal_lengths(lens, path)
    check_principal_point(lens, path, own_size or size, unchecked=unchecked)
    _say_unreached(lens, path, own_size or size)
    return lens


def _say_unreached(lens: Lens, path: PathLike, size: tuple[int, int] | None) -> None:
    """Says so if the distortion folds within the picture, which a calibrated one hardly does."""
    if size is None or not lens.bends:
        return
    u, v = np.array([0.0, size[0] - 1.0, lens.cx, lens.cx]), np.array([lens.cy, lens.cy, 0.0, 0.0])
    v[3] = size[1] - 1.0
    rays = undistort(
        (u - lens.cx) / lens.fx, (v - lens.cy) / lens.fy, lens.distortion, model=lens.model
    )
    if np.isnan(rays).any():
        notices.say(
            path, "has a distortion that does not reach the picture's edge; pixels there are lost"
        )


def _read_depth_scale(fields: Fields) -> float:
    """Depth units per mm; a field that may be such a scale under another name is refused."""
    field, per_metre = fields.take("depthscale"), fields.take(*METRE_SCALES)
    factor = 1.0
    if field is None and per_metre is not None:
        field, factor = per_metre, 1e-3
    for other in fields.left():
        name = plain(other.label)
        if re.search(r"depth.*(scale|factor|unit)", name) and other.value not in ("mm", 1, 1.0):
            raise ValueError(
                f"{fields.path}: {other.label} may be a scale of the depth, but is unknown; "
                "give depth_scale, in units per mm"
            )
    if field is None:
        return 1.0
    scale = factor * float(numbers(field.value, 0, path=fields.path, name=field.label)[0])
    if scale <= 0:
        raise ValueError(f"{fields.path}: {field.label} is {scale:g}; it must be more than 0")
    return scale


def check_focal_lengths(lens: Lens, path: PathLike) -> None:
    """Refuses focal lengths that are no pixels of a camera, whatever its picture's size.

    Args:
      lens: of the camera.
      path: its file, for messages.

    Raises:
      ValueError: they are 0 or less, in shares of the picture, or differ by more than 5 %.
    """
    for name, value in (("fx", lens.fx), ("fy", lens.fy)):
        if value <= 0:
            raise ValueError(f"{path}: {name} is {value:g}; it must be more than 0")
        if value < MIN_FOCAL_PIXELS:
            raise ValueError(
                f"{path}: {name} is {value:g}, which is not in pixels; "
                "multiply shares of the picture by its width and height"
            )
    difference = max(lens.fx, lens.fy) / min(lens.fx, lens.fy) - 1.0
    sentence = f"fx is {lens.fx:g} and fy {lens.fy:g}, {100 * difference:.0f} % apart"
    if difference > ASPECT_REFUSED:
        raise ValueError(
            f"{path}: {sentence}; correct them, or resize the picture so that pixels are square"
        )
    if difference > ASPECT_SAID:
        notices.say(path, f"{sentence}; check that both are right")


def check_principal_point(
    lens: Lens, path: PathLike, size: tuple[int, int] | None, *, unchecked: bool | None = False
) -> None:
    """Refuses a principal point, and focal lengths, that do not belong to the picture's size.

    Args:
      lens: of the camera.
      path: its file, for messages.
      size: width and height of the picture, pixels, if known.
      unchecked: as in :func:`read_lens`.

    Raises:
      ValueError: the principal point lies outside the picture, or far from its middle, or the
        field of view is none of a camera.
    """
    remedy = "give the intrinsics of this size, and pad a cropped picture to the whole one"
    for name, value in (("cx", lens.cx), ("cy", lens.cy)):
        if value <= 0:
            raise ValueError(f"{path}: {name} is {value:g}; the principal point is in the picture")
    if size is None:
        return
    place = f"the principal point {lens.cx:g}, {lens.cy:g}"
    picture = f"the picture of {size[0]}x{size[1]}"
    if lens.cx >= size[0] or lens.cy >= size[1]:
        raise ValueError(f"{path}: {place} lies outside {picture}; {remedy}")
    share = max(
        abs((center + 0.5) / side - 0.5)
        for center, side in zip((lens.cx, lens.cy), size, strict=True)
    )
    if share > CENTER_REFUSED:
        raise ValueError(
            f"{path}: {place} lies {100 * share:.0f} % off the middle of {picture}; {remedy}"
        )
    if share > CENTER_DOUBTED:
        sentence = f"{place} lies {100 * share:.0f} % off the middle of {picture}"
        notices.doubt(path, sentence, remedy=remedy, unchecked=unchecked)
    focal_share = float(np.mean([lens.fx, lens.fy])) / max(size)
    if not MIN_FOCAL_SHARE < focal_share < MAX_FOCAL_SHARE:
        raise ValueError(
            f"{path}: a focal length of {lens.fx:g} pixels fits no camera with {picture}; {remedy}"
        )
