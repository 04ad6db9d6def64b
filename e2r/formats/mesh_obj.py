"""Polygons of OBJ files, put so that trimesh cuts them right.

trimesh 5.2.0 cuts a polygon as a fan from its first corner, whatever its shape is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from e2r.geometry import polygons

CONCAVE = "has a concave polygon that is no fan of triangles; export it as triangles"


def turn_polygons(lines: Sequence[bytes]) -> bytes:
    """A whole OBJ whose polygons begin at a corner from which a fan of triangles covers them.

    Args:
      lines: of the file; each face names vertices that are there.

    Raises:
      ValueError: a polygon has no such corner, or a vertex is no numbers; the message lacks its
        path.
    """
    vertices, turned = list[list[bytes]](), list(lines)
    places, numbers = dict[int, list[int]](), dict[int, list[list[int]]]()
    for place, line in enumerate(lines):
        if line.startswith((b"v ", b"v\t")):
            vertices.append(line.split()[1:4])
        elif line.startswith((b"f ", b"f\t")):
            given = [int(word.split(b"/", 1)[0]) for word in line.split()[1:]]
            corners = [one - 1 if one > 0 else len(vertices) + one for one in given]
            places.setdefault(len(corners), []).append(place)
            numbers.setdefault(len(corners), []).append(corners)
    try:
        points = np.array(vertices).astype(np.float64)
    except ValueError:
        raise ValueError("has words in place of numbers; export it again") from None
    finite = bool(np.isfinite(points).all())
    for size in [size for size in places if size > 3 and finite]:
        first = polygons.fan_corners(points[np.array(numbers[size])])
        if (first < 0).any():
            raise ValueError(CONCAVE)
        for at in np.flatnonzero(first):
            words = lines[places[size][at]].split()[1:]
            turned[places[size][at]] = b" ".join([b"f", *words[first[at] :], *words[: first[at]]])
    return b"\n".join(turned)
