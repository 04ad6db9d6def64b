"""What a label looks like: its volume, its place, its size, and whether it can be a vertebra."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.ndimage import find_objects

from e2r.formats.voxels import LabelVolume
from e2r.geometry.anatomical_frame import LEVEL_ORDER, sort_levels
from e2r.types import Float

NOISE_CM3 = 0.2
"""A smaller label is noise."""
LIMITS_CM3 = {"C": (2.0, 45.0), "T": (3.0, 90.0), "L": (3.0, 140.0), "S": (5.0, 500.0)}
"""A label outside these is not this vertebra: a fragment, an organ, two vertebrae, a wrong unit."""
USUAL_CM3 = {"C": (4.0, 35.0), "T": (8.0, 75.0), "L": (15.0, 120.0), "S": (30.0, 350.0)}
"""Adults' vertebrae; a phantom or a child's may lie outside, which is said."""
UPPER_THORACIC, UPPER_THORACIC_CM3 = {f"T{i}" for i in range(1, 9)}, (8.0, 42.0)
"""T1 to T8 are smaller than lumbar vertebrae."""
UNLIKE = 1.8
"""Neighbouring levels whose volumes differ by more are not alike."""
REGION_NAMES = {"C": "cervical vertebra", "T": "thoracic vertebra", "L": "lumbar vertebra"}
MAX_LENGTH_MM = 150.0
"""No vertebra is longer; its transverse processes are about 100 mm apart."""
MAX_HEIGHT_MM = 95.0
"""No vertebra is higher along the spine, spinous process included."""
MAX_STEP_MM = 100.0
"""Neighbouring levels lie nearer to each other."""
LIKELY_STEPS_MM = {"C": (5.0, 30.0), "T": (10.0, 55.0), "L": (10.0, 60.0), "S": (10.0, 90.0)}
"""Distance from a level to the next one below, where the numbering itself is in doubt."""
UPRIGHT = 0.4
"""Share of the head-foot axis in the spine's direction from which on it says what is above."""
SAMPLE = 4000


class Body(NamedTuple):
    """The voxels of one label.

    Attributes:
      volume_cm3: of all its voxels.
      points: centres of some of its voxels, RAS mm.
      touches: whether it touches the first or the last slice of an axis.
    """

    volume_cm3: float
    points: Float[np.ndarray, "n 3"]
    touches: bool

    @property
    def centre(self) -> np.ndarray:
        """Its centre (3,), RAS mm; islands hardly move it."""
        return np.median(self.points, axis=0)

    def length(self, axis: np.ndarray | None = None) -> float:
        """Its length in mm along an axis (3,), without its outermost hundredth.

        Args:
          axis: unit; by default, the one in which it is longest.
        """
        points = self.points - self.points.mean(0)
        if axis is None:
            axis = np.linalg.svd(points, full_matrices=False)[2][0]
        low, high = np.quantile(points @ axis, [0.005, 0.995])
        return float(high - low)


def find_bodies(volume: LabelVolume) -> dict[int, Body]:
    """The labels of a volume that are more than noise.

    Args:
      volume: the labels and their place.
    """
    voxel_cm3 = abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000.0
    bodies = {}
    for label, box in enumerate(find_objects(volume.labels), 1):
        if box is None:
            continue
        index = np.argwhere(volume.labels[box] == label) + [axis.start for axis in box]
        if len(index) * voxel_cm3 < NOISE_CM3:
            continue
        some = index[:: max(1, len(index) // SAMPLE)]
        points = some @ volume.affine[:3, :3].T + volume.affine[:3, 3]
        ends = np.array(volume.labels.shape) - 1
        touches = bool((index == 0).any() or (index == ends).any())
        bodies[label] = Body(len(index) * voxel_cm3, points, touches)
    return bodies


def is_small(level: str, body: Body) -> bool:
    """Whether a label is too small for its level: a fragment, or what the scan's edge left.

    Args:
      level: its name.
      body: its voxels.
    """
    return body.volume_cm3 < LIMITS_CM3[level[0] if level in LEVEL_ORDER else "L"][0]


def complaint(levels: Mapping[str, Body], *, guessed: bool = False) -> str | None:
    """Why labels cannot be these levels, or None.

    Args:
      levels: level -> voxels. Names that are no levels are only held against a vertebra's size.
      guessed: whether the numbering is a guess, which must then be likely in all respects.

    Returns:
      A clause such as ``L3 has 300 cm3, but a lumbar vertebra has 15 to 120``.
    """
    for level, body in levels.items():
        known = level if level in LEVEL_ORDER else "L0"
        low, high = LIMITS_CM3[known[0]]
        high = usual_range(known)[1] if guessed and known[0] != "S" else high
        if not low <= body.volume_cm3 <= high:
            usual = usual_range(known)
            kind = REGION_NAMES.get(known[0], "sacrum") if known == level else "vertebra"
            return (
                f"{level} has {body.volume_cm3:.3g} cm3, but a {kind} has "
                f"{usual[0]:.0f} to {usual[1]:.0f}"
            )
        if known[0] != "S" and body.length() > MAX_LENGTH_MM:
            return f"{level} is {body.length():.0f} mm long, but no vertebra is"
    return _order_complaint({k: v for k, v in levels.items() if k in LEVEL_ORDER}, guessed)


def _order_complaint(levels: Mapping[str, Body], guessed: bool) -> str | None:
    """Why levels do not lie along a spine, from head to foot, or None."""
    names = sort_levels(list(levels))
    if len(names) < 2:
        return None
    centres = {name: levels[name].centre for name in names}
    chord = centres[names[0]] - centres[names[-1]]
    axis = chord / np.maximum(np.linalg.norm(chord), 1e-9)
    if axis[2] < -UPRIGHT:
        return f"{names[0]} lies below {names[-1]}, so the levels are out of order"
    if guessed and axis[2] < UPRIGHT:
        return f"{names[0]} and {names[-1]} lie side by side"
    for above, below in pairwise(names):
        step = centres[above] - centres[below]
        if step @ axis < 1.0:
            return f"{above} does not lie above {below}, so the levels are out of order"
        count = LEVEL_ORDER.index(below) - LEVEL_ORDER.index(above)
        distance = float(np.linalg.norm(step)) / count
        low, high = LIKELY_STEPS_MM[below[0]] if guessed else (0.0, MAX_STEP_MM)
        if below == "S1":
            low = 0.0
        if not low <= distance <= high:
            return f"{above} and {below} are {np.linalg.norm(step):.0f} mm apart"
    for name in names:
        if name != "S1" and levels[name].length(axis) > MAX_HEIGHT_MM:
            return f"{name} is {levels[name].length(axis):.0f} mm high, but no vertebra is"
    return None


def usual_range(level: str) -> tuple[float, float]:
    """The least and the largest volume of an adult's vertebra, cm^3.

    Args:
      level: its name.
    """
    if level in UPPER_THORACIC:
        return UPPER_THORACIC_CM3
    return USUAL_CM3[level[0] if level in LEVEL_ORDER else "L"]


def remarks(levels: Mapping[str, Body]) -> list[tuple[str, str]]:
    """What is unusual about levels, though possible.

    Args:
      levels: level -> voxels.

    Returns:
      Level and clause, such as ``has 4.6 cm3, which is unusual``.
    """
    found = []
    for level, body in levels.items():
        low, high = usual_range(level)
        if not low <= body.volume_cm3 <= high:
            found.append((level, f"has {body.volume_cm3:.3g} cm3, which is unusual"))
    for above, below in pairwise(sort_levels(list(levels))):
        pair = levels[above], levels[below]
        if below == "S1" or any(body.touches for body in pair):
            continue
        large, small = (above, below) if pair[0].volume_cm3 > pair[1].volume_cm3 else (below, above)
        ratio = levels[large].volume_cm3 / levels[small].volume_cm3
        if ratio > UNLIKE:
            found.append((large, f"has {ratio:.1f} times the volume of {small}"))
    return found
