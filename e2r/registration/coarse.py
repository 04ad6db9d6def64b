"""The coarse stage: a pose of the model without an initial pose.

A network reads some scene points and some samples of the model, and places each scene point on the
model. Weighted Procrustes turns these correspondences into a pose. Only the true pose supervises
the network: through the coordinates of every point, and through the pose's error.

The network sees the scene **upright**: rolled about the optical axis until the spine's head points
up, roughly. At inference that roll is unknown. So the same points are shown at several rolls, and
the refinement decides which is right.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry import poses, procrustes
from e2r.networks import coarse_network
from e2r.networks.build import NetworkConfig, build_coarse_network
from e2r.networks.coarse_network import CoarseCorrespondences, SceneTokens
from e2r.types import Array, Float, Params, Pose, Surface

CANONICAL_FROM_CAMERA = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, -1.0, 0.0]], np.float32)
"""Rotation of a camera behind the patient whose up is cranial."""


def predict_pose(
    params: Params,
    tokens: SceneTokens,
    surface: Surface,
    *,
    roll: Float[Array, ""],
    config: NetworkConfig,
) -> tuple[Pose, CoarseCorrespondences]:
    """The coarse network's pose, camera from model, if the scene has a given roll.

    Args:
      params: of both networks.
      tokens: of the scene, camera frame.
      surface: the model.
      roll: angle about the optical axis that turns the scene upright, radians.
      config: of both networks.

    Returns:
      The pose, and the correspondences that it was fitted to.
    """
    upright_from_camera = upright_frame(tokens, roll)
    upright = tokens._replace(
        points=poses.apply(upright_from_camera, tokens.points),
        normals=poses.rotate(upright_from_camera, tokens.normals),
    )
    samples = coarse_network.model_samples(surface, config.samples)
    found = build_coarse_network(config).apply(params["coarse"], upright, samples)
    return solve_pose(tokens, found, surface), found


def upright_frame(tokens: SceneTokens, roll: Float[Array, ""]) -> Pose:
    """The pose from the camera frame to the upright frame that the network sees.

    It rolls about the optical axis, changes to the axes of the canonical frame, and moves the
    tokens' centroid to the origin.

    Args:
      tokens: of the scene, camera frame.
      roll: radians.
    """
    zero = jnp.zeros_like(roll)
    spin = poses.exp_rotation(jnp.stack([zero, zero, roll]))
    rotation = jnp.matmul(jnp.asarray(CANONICAL_FROM_CAMERA, spin.dtype), spin, precision="highest")
    use = tokens.use[:, None]
    total = jnp.maximum(jnp.sum(use), 1)
    points = jnp.sum(jnp.where(use, tokens.points, 0.0), axis=0)
    centroid = points / total.astype(points.dtype)
    return Pose(rotation, -jnp.matmul(rotation, centroid, precision="highest"))


def upright_roll(pose: Pose, surface: Surface) -> Float[jax.Array, ""]:
    """The roll in radians that turns a scene upright, if its pose (camera from model) is known."""
    rotation = jnp.matmul(
        pose.rotation, surface.canonical_from_model.rotation.T, precision="highest"
    )
    cranial = rotation[:, 2]  # in the camera frame, where up is -y
    return jnp.arctan2(-cranial[0], -cranial[1])


def solve_pose(tokens: SceneTokens, found: CoarseCorrespondences, surface: Surface) -> Pose:
    """The pose, camera from model, that fits the coarse correspondences best."""
    model_points = poses.apply_inverse(surface.canonical_from_model, found.places)
    return procrustes.procrustes(model_points, tokens.points, found.confidence).pose
