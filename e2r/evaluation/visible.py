"""Which levels of a case the camera sees: their poses can be judged, the others' only guessed."""

from __future__ import annotations

import numpy as np

from e2r.datasets.case import Case
from e2r.geometry.closest_points import distance_to_mesh

MIN_VISIBLE, MIN_POINTS = 0.001, 8
"""A level is seen if its bone fills this share of the frame's points, and so many of them."""


def visible_levels(case: Case) -> set[str]:
    """The levels of which the camera sees bone.

    Args:
      case: with a truth, and with its true bone.

    Raises:
      ValueError: the case does not know its truth or its bone.
    """
    if case.truth is None or case.bone is None:
        raise ValueError(f"{case.id}: has no truth or no bone.png, so nobody knows what it shows")
    bone = case.points[case.bone]
    if not len(bone):
        return set()
    apart = []
    known = [name for name in case.model if name in case.truth]
    for name in known:
        mesh = case.model[name]
        rotation, translation = (np.asarray(leaf, np.float64) for leaf in case.truth[name])
        apart.append(
            distance_to_mesh((bone - translation) @ rotation, mesh.vertices, mesh.faces)[0]
        )
    counts = np.bincount(np.argmin(apart, axis=0), minlength=len(apart))
    least = max(MIN_POINTS, MIN_VISIBLE * len(case.points))
    return {name for name, count in zip(known, counts, strict=True) if count >= least}
