"""The colours that all figures share."""

from __future__ import annotations

MASK_COLORS = {"all": "#8d8d8d", "learnt": "#d1495b", "oracle": "#2e86ab"}
"""Line colour of each mask's results."""
LEVEL_COLORS = ("#e9dcc0", "#b8d0c8", "#d9b48f", "#b9bfd9", "#dcc5d3", "#cfd3a6", "#c9c2b6")
"""Surface colours of the levels, in order; they repeat after the seventh."""
LINE_COLORS = ("#2e86ab", "#d1495b", "#2a9d4a", "#e09f3e", "#6a4c93", "#00798c", "#8d6a4f")
"""Colours of the levels where a surface colour is too pale: of lines, and over pictures."""
MASK_RGB = (214, 40, 60)
"""Red of the masked points, 0 to 255."""
TRUTH_RGB = (42, 157, 74)
"""Green of the true pose and the true targets, 0 to 255."""


def level_color(index: int) -> str:
    """The surface colour of the level at this place in the case, as ``#rrggbb``."""
    return LEVEL_COLORS[index % len(LEVEL_COLORS)]


def line_color(index: int) -> str:
    """The line colour of the level at this place in the case, as ``#rrggbb``."""
    return LINE_COLORS[index % len(LINE_COLORS)]


def hex_color(rgb: tuple[int, int, int]) -> str:
    """A colour of three channels, 0 to 255, as ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*rgb)
