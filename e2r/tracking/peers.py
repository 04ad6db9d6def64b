"""Trackers made of other libraries' ICP, for comparison with ours on the same scene points."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import trimesh

from e2r.datasets.case import vertex_targets
from e2r.evaluation.metrics import distances_apart
from e2r.evaluation.open3d_icp import PeerModel, open3d_icp, sample_model
from e2r.formats.scenes import RgbdImage
from e2r.geometry import poses
from e2r.geometry.depth_pixels import Pinhole, read_pixels
from e2r.simulation.sequences import SequenceFrame
from e2r.tracking.finder import Found
from e2r.tracking.measures import VISIBLE

ICP_MM = (5.0, 2.0)
"""Farthest correspondences of the two rounds."""

Follow = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Scene points and normals (N, 3), and model from camera (4, 4) -> model from camera."""


def open3d_tracker(model: PeerModel) -> Follow:
    """Point-to-plane ICP by Open3D, from wide to narrow."""
    refine = open3d_icp(model, ICP_MM)
    return lambda points, normals, start: np.linalg.inv(refine(points, start))


def small_gicp_tracker(model: PeerModel) -> Follow:
    """Point-to-plane ICP by small_gicp on two threads, from wide to narrow."""
    import small_gicp  # noqa: PLC0415

    target = small_gicp.PointCloud(model.points.astype(np.float64))
    tree = small_gicp.KdTree(target, num_threads=2)
    small_gicp.estimate_normals_covariances(target, tree, num_neighbors=20, num_threads=2)

    def follow(points: np.ndarray, normals: np.ndarray, start: np.ndarray) -> np.ndarray:
        source = small_gicp.PointCloud(points.astype(np.float64))
        pose = start
        for distance in ICP_MM:
            pose = small_gicp.align(
                target,
                source,
                tree,
                init_T_target_source=pose,
                registration_type="PLANE_ICP",
                max_correspondence_distance=distance,
                num_threads=2,
            ).T_target_source
        return np.asarray(pose)

    return follow


PEERS: dict[str, Callable[[PeerModel], Follow]] = {
    "Open3D": open3d_tracker,
    "small_gicp": small_gicp_tracker,
}


def follow_by_peer(
    frames: Sequence[SequenceFrame],
    images: Sequence[RgbdImage],
    model: Mapping[str, trimesh.Trimesh],
    first: Found,
    make: Callable[[PeerModel], Follow],
) -> tuple[str, list[float], list[float]]:
    """The level with most bone, its TRE (mm) and the seconds of each frame until one is hidden.

    Args:
      frames: of a recording.
      images: the same frames.
      model: level -> surface, mm, model frame.
      first: a registration of the first frame: where the peer begins.
      make: prepares the peer for the model.
    """
    follow, look = make(sample_model(model)), jax.jit(read_pixels)
    weights, targets = np.asarray(first.bone.weights), vertex_targets(model)
    level = int(np.bincount(np.asarray(first.bone.levels), weights).argmax())
    name = list(model)[level]
    pose = jax.tree.map(lambda leaf: leaf[level], first.pose)
    errors, seconds = [], []
    for frame, image in zip(frames, images, strict=True):
        if frame.visible < VISIBLE:
            break  # a peer does not know that it is lost
        lens = Pinhole(*(jnp.float32(v) for v in (image.fx, image.fy, image.cx, image.cy)))
        placed = poses.apply(jax.tree.map(jnp.asarray, pose), first.bone.points)
        seen = look(np.asarray(image.depth, np.float32), lens, placed)
        use = np.asarray(seen.seen) & (np.asarray(seen.ahead) < 8.0) & (weights > 0)
        points, normals = np.asarray(seen.points)[use], np.asarray(seen.normals)[use]
        start = np.linalg.inv(poses.to_matrix(pose))
        began = time.perf_counter()
        after = follow(points, normals, start)
        seconds.append(time.perf_counter() - began)
        pose = poses.from_matrix(np.linalg.inv(after), "peer")
        truth = frame.level_poses(model)[name]
        errors.append(float(distances_apart(pose, truth, targets[name]).mean()))
    return name, errors, seconds
