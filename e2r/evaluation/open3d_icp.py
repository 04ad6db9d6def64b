"""A peer's refinement from a start: Open3D's point-to-plane ICP, for comparison only.

Open3D is no dependency of e2r. It is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import trimesh

from e2r.geometry import anatomical_frame

MODEL_SAMPLES = 40_000
"""Points that a peer's model has before the half that faces forwards is left out."""


class PeerModel(NamedTuple):
    """What a peer knows of a model: samples of its surface."""

    points: np.ndarray  # (S, 3) mm, model frame
    normals: np.ndarray  # (S, 3) unit, outward


def sample_model(meshes: Mapping[str, trimesh.Trimesh]) -> PeerModel:
    """Samples the half of a model's surface that faces backwards.

    Args:
      meshes: level -> surface, mm, model frame.
    """
    spine = trimesh.util.concatenate(list(meshes.values()))
    points, faces = trimesh.sample.sample_surface(spine, MODEL_SAMPLES, seed=4)
    normals = spine.face_normals[faces]
    posterior = normals @ anatomical_frame.estimate_frame(meshes).rotation[1] > 0.0
    return PeerModel(points[posterior], normals[posterior])


def open3d_icp(
    model: PeerModel, distances_mm: Sequence[float]
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The function (scene points, model from camera) -> camera from model, by point-to-plane ICP.

    Args:
      model: what the scene is registered to.
      distances_mm: farthest correspondence of each round.
    """
    import open3d  # noqa: PLC0415

    registration = open3d.pipelines.registration
    target = open3d_cloud(model.points, model.normals)
    plane = registration.TransformationEstimationPointToPlane()

    def refine(points: np.ndarray, start: np.ndarray) -> np.ndarray:
        source, pose = open3d_cloud(points), start
        for distance in distances_mm:
            result = registration.registration_icp(source, target, distance, pose, plane)
            pose = result.transformation
        return np.asarray(np.linalg.inv(pose))

    return refine


def open3d_cloud(points: np.ndarray, normals: np.ndarray | None = None) -> Any:
    """Open3D's cloud of the points that are finite.

    Args:
      points: (N, 3), mm.
      normals: (N, 3), unit.
    """
    import open3d  # noqa: PLC0415

    finite = np.isfinite(points).all(axis=1)  # one NaN spoils the search tree of a target
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points[finite]))
    if normals is not None:
        cloud.normals = open3d.utility.Vector3dVector(normals[finite])
    return cloud
