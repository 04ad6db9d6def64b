"""Calibration files of devices that no general rule can read: Azure Kinect and ZED."""

from __future__ import annotations

import re
from typing import Any

from e2r.formats import notices
from e2r.formats.cameras.fields import numbers, shown
from e2r.formats.file_checks import PathLike

COEFFICIENTS_BY_NUMBER = ("k1", "k2", "k3", "k4", "k5", "k6")
AZURE_MODES: dict[str, dict[tuple[int, int], tuple[int, int, int, int]]] = {
    "PV0": {
        (1280, 720): (1280, 960, 0, 120),
        (1920, 1080): (1920, 1440, 0, 180),
        (2560, 1440): (2560, 1920, 0, 240),
        (2048, 1536): (2048, 1536, 0, 0),
        (3840, 2160): (3840, 2880, 0, 360),
        (4096, 3072): (4096, 3072, 0, 0),
    },
    "D0": {
        (640, 576): (1024, 1024, 192, 180),
        (320, 288): (512, 512, 96, 90),
        (1024, 1024): (1024, 1024, 0, 0),
        (512, 512): (512, 512, 0, 0),
    },
}
"""Camera -> size of the picture -> size of the binned sensor and offset of the picture in it.

Source: mode_specific_calibration.c of the Azure Kinect Sensor SDK.
"""
AZURE_PARAMETERS = ("cx", "cy", "fx", "fy", *COEFFICIENTS_BY_NUMBER, "codx", "cody", "p2", "p1")
"""Order of ModelParameters; a metric radius may follow."""
ZED_SIZES = {
    "2K": (2208, 1242),
    "FHD": (1920, 1080),
    "FHD1200": (1920, 1200),
    "HD": (1280, 720),
    "VGA": (672, 376),
    "SVGA": (960, 600),
    "QHDPLUS": (3200, 1800),
    "4K": (3840, 2160),
}
"""Name of a resolution in ZED's files -> width and height."""


def is_azure(document: dict[str, Any]) -> bool:
    """Whether a document is the raw calibration of an Azure Kinect.

    Args:
      document: names and values.
    """
    inner = document.get("CalibrationInformation", document)
    cameras = inner.get("Cameras") if isinstance(inner, dict) else None
    return isinstance(cameras, list) and any(
        isinstance(camera, dict) and "ModelParameters" in str(camera.get("Intrinsics"))
        for camera in cameras
    )


def read_azure(
    document: dict[str, Any], path: PathLike, size: tuple[int, int] | None
) -> dict[str, Any]:
    """The fields of the colour or depth camera of an Azure Kinect, for one size of picture.

    Args:
      document: names and values; intrinsics are in shares of the sensor, from its corner.
      path: its file, for messages.
      size: width and height of the picture; without it, the colour camera's whole sensor.

    Raises:
      ValueError: a camera, a parameter or this size is unknown.
    """
    cameras = document.get("CalibrationInformation", document)["Cameras"]
    by_place = {
        str(camera.get("Location", "")).rsplit("_", 1)[-1].removeprefix("CameraLocation"): camera
        for camera in cameras
        if isinstance(camera, dict)
    }
    place = next((p for p, modes in AZURE_MODES.items() if size in modes), None)
    if place is None and size is not None:
        raise ValueError(
            f"{path}: an Azure Kinect takes no picture of {size[0]}x{size[1]}; "
            "give fx, fy, cx and cy of this picture"
        )
    place, size = place or "PV0", size or (4096, 3072)
    if place not in by_place:
        raise ValueError(f"{path}: has no camera {place}; give the whole calibration")
    camera = by_place[place]
    values = _azure_parameters(camera, path)
    sensor = tuple(camera.get(name) for name in ("SensorWidth", "SensorHeight"))
    right = ((4096, 3072),) if place == "PV0" else ((1024, 1024),)
    if sensor not in right:
        raise ValueError(
            f"{path}: has a sensor of {sensor[0]}x{sensor[1]}, not of {right[0][0]}x{right[0][1]}; "
            "give fx, fy, cx and cy of this picture"
        )
    width, height, left, top = AZURE_MODES[place][size]
    name = "colour" if place == "PV0" else "depth"
    notices.say(
        path,
        f"holds shares of the picture; the {name} camera is read for {size[0]}x{size[1]} pixels",
    )
    return {
        **{name: values[name] for name in (*COEFFICIENTS_BY_NUMBER, "p1", "p2")},
        "fx": values["fx"] * width,
        "fy": values["fy"] * height,
        "cx": values["cx"] * width - left - 0.5,
        "cy": values["cy"] * height - top - 0.5,
        "width": size[0],
        "height": size[1],
        "distortion_model": "rational_polynomial",
    }


def _azure_parameters(camera: dict[str, Any], path: PathLike) -> dict[str, float]:
    intrinsics = camera.get("Intrinsics")
    given = intrinsics.get("ModelParameters") if isinstance(intrinsics, dict) else None
    kind = str(intrinsics.get("ModelType", "")) if isinstance(intrinsics, dict) else ""
    if not isinstance(given, list) or len(given) not in (14, 15):
        raise ValueError(f"{path}: ModelParameters must be 14 numbers; give the whole calibration")
    parameters = numbers(given, len(given), path=path, name="ModelParameters")
    values = dict(zip(AZURE_PARAMETERS, map(float, parameters), strict=False))
    if values["codx"] or values["cody"] or not kind.endswith("LensDistortionModelBrownConrady"):
        raise ValueError(
            f"{path}: the lens model {shown(kind, 60) or 'without a name'} is unknown; "
            "give fx, fy, cx, cy and distortion of the picture"
        )
    return values


# ZED ----------------------------------------------------------------------------------------------


def is_zed(document: dict[str, Any]) -> bool:
    """Whether a document is a calibration file of a ZED camera.

    Args:
      document: names and values.
    """
    return any(re.match(r"LEFT_CAM_", str(name), re.IGNORECASE) for name in document)


def read_zed(
    document: dict[str, Any], path: PathLike, size: tuple[int, int] | None
) -> dict[str, Any]:
    """The fields of the left camera of a ZED, for one size of picture.

    Args:
      document: sections and their values.
      path: the file, for messages.
      size: width and height of the picture; without it, there must be only one.

    Raises:
      ValueError: the file does not know this size, or it holds several and none is given.
    """
    sections = {str(name).upper(): value for name, value in document.items()}
    known = {
        ZED_SIZES[name.removeprefix("LEFT_CAM_")]: value
        for name, value in sections.items()
        if name.removeprefix("LEFT_CAM_") in ZED_SIZES and isinstance(value, dict)
    }
    if size is None and len(known) == 1:
        size = next(iter(known))
    if size not in known:
        asked = "of several sizes" if size is None else f"of {size[0]}x{size[1]}"
        raise ValueError(
            f"{path}: gives no single left camera {asked}; leave only the section of the picture"
        )
    shared = sections.get("LEFT_DISTO", {})
    fields = {**shared, **known[size], "width": size[0], "height": size[1]}
    if "k4" in shared and "p1" not in fields:
        fields["distortion_model"] = "equidistant"
    elif "k4" in fields:
        fields["distortion_model"] = "rational_polynomial"
    notices.say(
        path,
        "holds the left camera before rectification; for a picture of the ZED SDK, "
        "give fx, fy, cx and cy of the SDK instead",
    )
    return fields
