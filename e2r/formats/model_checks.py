"""Checks of a model: the size of its levels, their places, and what its folder holds besides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path

import igl
import numpy as np
import trimesh

from e2r.formats import mesh_checks, notices
from e2r.formats.file_checks import PathLike
from e2r.geometry.anatomical_frame import LEVEL_ORDER

MIN_LEVEL_MM, MAX_LEVEL_MM, MAX_SPINE_MM = 15.0, 200.0, 1000.0
"""mm: extents that a vertebra, or a surface of several, can have."""
MM_PER_LEVEL = 100.0
"""mm: no two neighbouring levels are as far apart."""
SAME_PLACE_MM, NEAR_MM = 5.0, 20.0
"""mm: the middles of two levels are farther apart; and may overlap only if they are this near."""
MAX_SHARED = 0.25
"""Share of a level inside another; segmentations of neighbours share up to 5 %."""
PROBES = 400
"""So many vertices tell how far two levels overlap."""
LEVEL_PATTERN = re.compile(rf"(?i)(?<![a-z0-9])({'|'.join(LEVEL_ORDER)})(?![a-z0-9])")


def check_extent(mesh: trimesh.Trimesh, name: str) -> None:
    """Refuses a surface that is no vertebra in mm, by its size.

    Args:
      mesh: the surface.
      name: of its file. One that names one level, such as L3, allows one vertebra only.

    Raises:
      ValueError: the surface is too small or too large; the message lacks its path.
    """
    extent = float(mesh.extents.max())
    levels = _levels_of(name)
    if extent < 1.0:
        raise ValueError(f"is {extent:.3g} mm large, so it is in metres; multiply it by 1000")
    if extent < MIN_LEVEL_MM:
        raise ValueError(
            f"is {extent:.3g} mm large, so it is in centimetres; multiply it by 10 "
            "(or by 25.4, if it is in inches)"
        )
    if extent > MAX_SPINE_MM:
        raise ValueError(f"is {extent:.4g} mm large, which no spine is; export it again, in mm")
    if len(levels) == 1 and extent > MAX_LEVEL_MM:
        raise ValueError(
            f"is {extent:.4g} mm large, which no vertebra is; export {levels.pop()} alone, in mm"
        )


def check_model(model: Mapping[str, trimesh.Trimesh], path: PathLike) -> None:
    """Refuses levels that cannot be parts of one spine, by their places.

    Args:
      model: level -> surface, mm, one frame.
      path: their folder, for the message.

    Raises:
      ValueError: two levels lie at one place, or too far apart.
    """
    middles = {name: np.mean(mesh.bounds, axis=0) for name, mesh in model.items()}
    rank = {name: i for i, name in enumerate(LEVEL_ORDER)}
    for a, b in combinations(model, 2):
        apart = float(np.linalg.norm(middles[a] - middles[b]))
        if apart < SAME_PLACE_MM:
            raise ValueError(
                f"{path}: {a} and {b} lie at one place, so one is a copy of the other or has a "
                "frame of its own; export each level once, all in one frame"
            )
        if apart < NEAR_MM and _shared(model[a], model[b]) > MAX_SHARED:
            raise ValueError(
                f"{path}: {a} and {b} lie in each other, so each has a frame of its own; "
                "export all levels in one frame"
            )
        limit = MAX_SPINE_MM
        if a.upper() in rank and b.upper() in rank:
            steps = abs(rank[a.upper()] - rank[b.upper()])
            limit = min(limit, MM_PER_LEVEL * (steps + 1))
        if apart > limit:
            raise ValueError(
                f"{path}: {a} and {b} lie {apart:.4g} mm apart, which no spine allows; "
                "export all levels in one frame"
            )


def _shared(a: trimesh.Trimesh, b: trimesh.Trimesh) -> float:
    """The share of either surface's vertices that lie inside the other: the larger one."""
    shares = []
    for inner, outer in ((a, b), (b, a)):
        probes = inner.vertices[:: max(1, len(inner.vertices) // PROBES)]
        winding = igl.fast_winding_number(
            np.ascontiguousarray(outer.vertices, np.float64),
            np.ascontiguousarray(outer.faces, np.int64),
            np.ascontiguousarray(probes, np.float64),
        )
        shares.append(float((winding > 0.5).mean()))
    return max(shares)


def check_folder(paths: Iterable[Path], suffixes: tuple[str, ...]) -> None:
    """Refuses surfaces of formats that are not read, which would be left out silently.

    Other files and folders that are named by a level without a surface are told.

    Args:
      paths: the content of a folder of surfaces.
      suffixes: of the formats that are read.

    Raises:
      ValueError: a level is there in another format only.
    """
    paths = list(paths)
    read = {path.stem for path in paths if path.suffix.lower() in suffixes}
    levels = {name for stem in read for name in _levels_of(stem)}
    for path in paths:
        suffix = path.suffix.lower()
        packed = suffix in mesh_checks.ARCHIVES and Path(path.stem).suffix.lower() in suffixes
        if packed and Path(path.stem).stem not in read:
            raise ValueError(f"{path}: is an archive; unpack it")
        if suffix in mesh_checks.OTHER_SUFFIXES and path.stem not in read:
            raise ValueError(
                f"{path}: is of the format {suffix[1:].upper()}; export it as STL, PLY or OBJ"
            )
        if suffix not in suffixes and not levels >= _levels_of(path.name):
            notices.say(path, "was left out of the model: it is no surface that is read")


def _levels_of(name: str) -> set[str]:
    """The levels that a file's name names."""
    return {found.upper() for found in LEVEL_PATTERN.findall(name)}
