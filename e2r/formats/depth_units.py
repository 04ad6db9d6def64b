"""Whether a distance can be that of a wound, and which unit of depth would make it one."""

from __future__ import annotations

from pathlib import Path

from e2r.formats import notices
from e2r.formats.file_checks import MIN_DISTANCE_MM, Unit

NEAREST_MM = 60.0
"""No RGB-D camera measures nearer than this; a RealSense D405 begins at 70 mm."""
FARTHEST_MM = 2000.0
"""No camera over a wound hangs farther away than this."""
NOT_IN_METRES_MM = 5000.0
"""Numbers said to be metres that lie beyond this are not metres."""
FAR_MM = 1200.0
"""From here on, 16-bit numbers may as well be in units of 0.1 mm: this is said, not refused."""
D405_NEAREST_MM = 70.0
"""A RealSense D405 measures from here on, in steps of 0.1 mm."""
WIDE_MM = 1100.0
"""No wound is watched in a picture that shows more across; that of a D405 at 70 mm would be wider,
were its steps taken for mm."""


def is_plausible(distance_mm: float) -> bool:
    """Whether a median depth can be that of a wound.

    Args:
      distance_mm: the median depth, mm.
    """
    return NEAREST_MM <= distance_mm <= FARTHEST_MM


def mm_per_unit(distance: float, unit: Unit | None, *, path: Path, remedy: str) -> float:
    """The factor from a file's numbers to mm; an implausible distance is refused.

    Args:
      distance: median depth, in the file's numbers.
      unit: of these numbers, as the user says; None: mm, and no option says otherwise.
      path: the file, for the message.
      remedy: for a distance in mm that is too large.

    Raises:
      ValueError: the distance is that of no wound.
    """
    factor = 1000.0 if unit == "m" else 1.0
    found = factor * distance
    if found < MIN_DISTANCE_MM:
        way_out = "write it in mm" if unit is None else "convert it with --unit m"
        raise ValueError(f"{path}: is {found:.3g} mm away, so it is in metres; {way_out}")
    if found < NEAREST_MM:
        raise ValueError(
            f"{path}: is {found:.3g} mm away, nearer than any RGB-D camera sees; is it in cm? "
            "write it in mm"
        )
    if found > FARTHEST_MM:
        remedy = "leave --unit m out" if unit == "m" and found > NOT_IN_METRES_MM else remedy
        raise ValueError(f"{path}: is {found / 1000:.3g} m away, which is no wound; {remedy}")
    return factor


def depth_mm_per_unit(
    median: float, scale: float, unit: Unit, *, whole: bool, path: Path, widths: float = 0.0
) -> float:
    """The factor to mm from the numbers of a depth picture divided by its scale.

    The scale of e2r is in depth units per mm. Other programs write metres per unit (RealSense),
    units per metre (Open3D) or mm per unit: where the distance shows it, the scale to use is named.

    Args:
      median: of the numbers that are a measurement.
      scale: units per mm, as the file of the lens says; 1 if it says nothing.
      unit: of depth divided by scale, as the user says.
      whole: whether the numbers are integers.
      path: the picture, for the message.
      widths: the width of what the picture shows, over its distance: pixels over focal length.

    Raises:
      ValueError: the distance is that of no wound, or the scale that of no camera.
    """
    distance = median / scale
    to_use, why = _better_scale(median, scale)
    given = distance * (1000.0 if unit == "m" else 1.0)
    remedy = "give its depth_scale, in units per mm"
    if to_use is not None:
        remedy += f": {to_use:.6g} {why}"
    if to_use is not None and scale != 1.0 and not is_plausible(given):
        raise ValueError(f"{path}: is {given / 1000:.3g} m away, which is no wound; {remedy}")
    factor = mm_per_unit(distance, unit, path=path, remedy=remedy)
    if whole and unit == "mm" and scale < 0.999:
        raise ValueError(
            f"{path}: has a depth_scale of {scale:.6g} units per mm, so steps of {1 / scale:.3g} "
            f"mm, which no camera has; give {1 / scale:.6g} if a unit is {scale:.6g} mm"
        )
    if whole and scale == 1.0:
        _say_tenths(factor * distance, factor * distance * widths, path)
    return factor


def _say_tenths(distance: float, width: float, path: Path) -> None:
    """Says that whole numbers, taken for mm, may be steps of 0.1 mm."""
    remedy = "give a depth_scale of 10 if its units are 0.1 mm, as of a RealSense D405"
    if distance > FAR_MM:
        notices.say(path, f"is {distance / 1000:.3g} m away, far for a wound; {remedy}")
    elif distance >= 10.0 * D405_NEAREST_MM and width > WIDE_MM:
        notices.say(path, f"shows {width / 1000:.3g} m across, wide for a wound; {remedy}")


def _better_scale(median: float, scale: float) -> tuple[float | None, str]:
    """A scale in units per mm that puts the picture where a wound is, and why."""
    if scale == 1.0:
        for found, what in ((10.0, "0.1 mm, as of a RealSense D405"), (1000.0, "0.001 mm")):
            if is_plausible(median / found):
                return found, f"if its units are {what}"
        return None, ""
    for found, what in (
        (1.0 / (1000.0 * scale), "metres per unit"),
        (scale / 1000.0, "units per metre"),
        (1.0 / scale, "mm per unit"),
    ):
        if is_plausible(median / found):
            return found, f"instead of {scale:.6g}, which is in {what}"
    return None, ""
