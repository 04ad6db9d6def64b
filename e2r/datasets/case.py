"""A case in memory: one camera frame (or cloud), one preoperative model, perhaps the truth."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import trimesh

from e2r.formats.scenes import RgbdImage, ScenePoints
from e2r.geometry import point_clouds
from e2r.types import Bool, Float, Int, Pose

MAX_TARGETS = 200
"""About the number of vertices that serve as targets of a level, where a case names none."""


@dataclass(frozen=True)
class Case:
    """One registration problem, on the host.

    Attributes:
      id: unique within a data set.
      model: level -> surface, mm, all in one model frame.
      points: scene points, mm, camera frame.
      colors: of the points, 0 to 1.
      normals: of the points, unit; None: estimated from the points.
      image: the RGB-D image that the points come from, if there is one.
      truth: level -> true pose, camera from model. It scores results and makes perturbed initial
        poses; the registration never sees it.
      targets: level -> target points, mm, model frame.
      exposed: the levels in the wound, as named by the surgeon.
      source: the specimen or patient; statistics are grouped by it.
      bone: whether each point is bone. Only a simulator knows it, and only the oracle mask of an
        evaluation uses it.
      folder: the case folder that it was read from.
    """

    id: str
    model: Mapping[str, trimesh.Trimesh]
    points: Float[np.ndarray, "m 3"]
    colors: Float[np.ndarray, "m 3"]
    normals: Float[np.ndarray, "m 3"] | None = None
    image: RgbdImage | None = None
    truth: Mapping[str, Pose] | None = None
    targets: Mapping[str, Float[np.ndarray, "_ 3"]] | None = None
    exposed: tuple[str, ...] | None = None
    source: str = ""
    bone: Bool[np.ndarray, "m"] | None = None
    folder: Path | None = None

    @property
    def scene(self) -> ScenePoints:
        """The scene's points alone."""
        return ScenePoints(self.points, self.colors, self.normals)


def make_case(
    scene: RgbdImage | ScenePoints,
    *,
    id: str,
    model: Mapping[str, trimesh.Trimesh],
    truth: Mapping[str, Pose] | None = None,
    targets: Mapping[str, Float[np.ndarray, "_ 3"]] | None = None,
    exposed: tuple[str, ...] | None = None,
    source: str = "",
    bone: Bool[np.ndarray, "h w"] | None = None,
) -> Case:
    """Makes a case of a scene; the points of an image are its pixels that have a depth.

    Args:
      scene: the image, or a cloud.
      id: a field of :class:`Case`, as are those that follow.
      model: level -> surface, mm, model frame.
      truth: level -> true pose, camera from model.
      targets: level -> target points, mm, model frame.
      exposed: the levels in the wound.
      source: the specimen or patient.
      bone: whether each pixel of the image shows bone.
    """
    image = None
    if isinstance(scene, RgbdImage):
        image = scene
        scene, pixels = _scene_of(image)
        bone = None if bone is None else bone.ravel()[pixels]
    return Case(
        **scene._asdict(),
        id=id,
        model=model,
        image=image,
        truth=truth,
        targets=targets,
        exposed=exposed,
        source=source,
        bone=bone,
    )


class SlimCase(NamedTuple):
    """A case to send: without the points that its image gives, which are eight times as large."""

    case: Case
    bone: Bool[np.ndarray, "m"] | None

    @property
    def id(self) -> str:
        """Of the case."""
        return self.case.id


def slim(case: Case) -> Case | SlimCase:
    """The case without the points of its image; without an image, the case itself.

    Args:
      case: whole.
    """
    if case.image is None or case.normals is not None:
        return case
    none = np.zeros((0, 3))
    return SlimCase(replace(case, points=none, colors=none, bone=None), case.bone)


def whole(sent: SlimCase) -> Case:
    """The case with its points again.

    Args:
      sent: by :func:`slim`.
    """
    if sent.case.image is None:
        raise ValueError(f"{sent.id}: has no image to make points of")
    scene, _ = _scene_of(sent.case.image)
    return replace(sent.case, points=scene.points, colors=scene.colors, bone=sent.bone)


def _scene_of(image: RgbdImage) -> tuple[ScenePoints, Int[np.ndarray, "m"]]:
    """The points of an image, and their pixels."""
    points, pixels = point_clouds.back_project(
        image.depth, fx=image.fx, fy=image.fy, cx=image.cx, cy=image.cy
    )
    return ScenePoints(points, image.color.reshape(-1, 3)[pixels] / 255.0), pixels


def case_digest(case: Case) -> str:
    """A digest of a case's model and frame, which ties a prediction to its case.

    It depends on the levels' names and triangles, and on the scene's points, colours and normals:
    on all that a pose is found from, and on no path or name. A moved or copied case keeps it.

    Args:
      case: the case.
    """
    digest = hashlib.sha256(b"case 1")
    for name, mesh in sorted(case.model.items()):
        _add_array(digest, name, mesh.triangles)
    _add_array(digest, "points", case.points)
    _add_array(digest, "colors", case.colors)
    if case.normals is not None:
        _add_array(digest, "normals", case.normals)
    return digest.hexdigest()


def _add_array(digest: Any, name: str, values: np.ndarray) -> None:
    """Adds an array with its name and shape, in the precision that files keep."""
    digest.update(f"{name} {values.shape}".encode())
    digest.update(np.ascontiguousarray(values, np.float32).tobytes())


def scored_targets(case: Case) -> dict[str, Float[np.ndarray, "_ 3"]]:
    """The points at which a case is scored: the targets it names, or else model vertices.

    Args:
      case: without a truth, nothing is scored.

    Returns:
      level -> points, mm, model frame.
    """
    if case.truth is None:
        return {}
    if case.targets:
        return {name: np.asarray(points) for name, points in case.targets.items()}
    return vertex_targets({name: case.model[name] for name in case.truth})


def vertex_targets(model: Mapping[str, trimesh.Trimesh]) -> dict[str, Float[np.ndarray, "_ 3"]]:
    """Some vertices of each level as its targets, mm, model frame.

    Args:
      model: level -> surface, mm, model frame.
    """
    vertices = {name: np.asarray(mesh.vertices) for name, mesh in model.items()}
    return {name: rows[:: max(1, len(rows) // MAX_TARGETS)] for name, rows in vertices.items()}


def true_pose(case: Case) -> Pose:
    """The true pose of the whole model: that of the middle one of the scored levels.

    Args:
      case: a case with a truth.

    Raises:
      ValueError: the case has no truth.
    """
    levels = list(scored_targets(case))
    if case.truth is None or not levels:
        raise ValueError(f"{case.id}: has no truth.json")
    return case.truth[levels[len(levels) // 2]]


def visible_bone(case: Case) -> Int[np.ndarray, "b"]:
    """The rows of the bone points among the points of a simulated case.

    Args:
      case: a case that knows its bone.

    Raises:
      ValueError: the case does not know its bone.
    """
    if case.bone is None:
        raise ValueError(f"{case.id}: has no bone.png, which only simulated cases have")
    return np.flatnonzero(case.bone)
