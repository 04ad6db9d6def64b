"""A case: one RGB-D frame (or cloud), one preoperative model, maybe the truth. On the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import trimesh

from e2r.geometry import point_clouds
from e2r.types import Pose


class RgbdImage(NamedTuple):
    """An RGB-D frame. Integer pixel (u, v) is the pixel's centre."""

    color: np.ndarray  # (H, W, 3) uint8
    depth: np.ndarray  # (H, W) mm, 0 where unseen
    fx: float
    fy: float
    cx: float
    cy: float


@dataclass(frozen=True)
class Case:
    """One registration problem, on the host.

    Attributes:
      id: unique within a data set.
      model: level name -> surface, mm, all in one model frame.
      points: (M, 3) mm, camera frame.
      colors: (M, 3) in [0, 1].
      normals: (M, 3) or None.
      picture: the RGB-D frame the points come from, or None.
      truth: level name -> camera-from-model pose, or None. For scoring and named starts only.
      targets: level name -> (T, 3) mm, model frame, or None.
      exposed: levels the surgeon says are in the wound, or None.
      source: the specimen or patient; statistics are grouped by it.
      bone: (M,) bool, which points are bone, or None. Only a simulator knows; the oracle mask of
        an evaluation uses it, nothing else.
    """

    id: str
    model: Mapping[str, trimesh.Trimesh]
    points: np.ndarray
    colors: np.ndarray
    normals: np.ndarray | None = None
    image: RgbdImage | None = None
    truth: Mapping[str, Pose] | None = None
    targets: Mapping[str, np.ndarray] | None = None
    exposed: tuple[str, ...] | None = None
    source: str = ""
    bone: np.ndarray | None = None


def case_from_image(picture: RgbdImage, *, bone: np.ndarray | None = None, **fields: Any) -> Case:
    """A case whose points are the picture's pixels that have a depth; ``bone`` is (H, W)."""
    points, pixels = point_clouds.back_project(
        picture.depth, picture.fx, picture.fy, picture.cx, picture.cy
    )
    colors = picture.color.reshape(-1, 3)[pixels] / 255.0
    if bone is not None:
        bone = bone.ravel()[pixels]
    return Case(points=points, colors=colors, image=picture, bone=bone, **fields)


def scored_targets(case: Case) -> dict[str, np.ndarray]:
    """Targets at which a case is judged, by level: the named ones, else model vertices."""
    if case.truth is None:
        return {}
    if case.targets:
        return {name: np.asarray(points) for name, points in case.targets.items()}
    result = {}
    for name in case.truth:
        vertices = np.asarray(case.model[name].vertices)
        result[name] = vertices[:: max(1, len(vertices) // 200)]
    return result


def true_pose(case: Case) -> Pose:
    """The one rigid pose of a case that has a truth: that of its middle scored level."""
    names = list(scored_targets(case))
    if case.truth is None or not names:
        raise ValueError(f"{case.id}: has no truth.json")
    return case.truth[names[len(names) // 2]]
