"""The coarse stage: where is the model, with no pose to start from?

A network reads some points of the scene beside samples of the complete model, and tells of each
scene point where on the model it belongs; weighted Procrustes makes that a pose. Its teachers are
the pose and nothing else: the coordinates of every point, and the error of the pose.

The network sees the scene **upright**: turned about the optical axis until the spine's head points
up, roughly. Nobody knows that roll, so at inference the same points are shown at eight rolls, and
the refinement tells which was right.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry import poses, procrustes
from e2r.networks import coarse_network
from e2r.networks.build import NetworkConfig, build_coarse_network
from e2r.networks.coarse_network import CoarseCorrespondences, SceneTokens
from e2r.types import Array, Params, Pose, Surface


def predict_pose(
    settings: NetworkConfig,
    params: Params,
    tokens: coarse_network.SceneTokens,
    surface: Surface,
    roll: Array,
) -> tuple[Pose, coarse_network.CoarseCorrespondences]:
    """One guess of the coarse stage: the pose, camera from model, if the scene's roll is this.

    Args:
      settings, params: of the networks.
      tokens: of the scene, camera frame.
      surface: the model.
      roll: () radians that turn the scene upright.
    """
    frame = upright_frame(tokens, roll)
    upright = tokens._replace(
        points=poses.apply(frame, tokens.points), normals=poses.rotate(frame, tokens.normals)
    )
    samples = coarse_network.model_samples(surface, settings.samples)
    found = build_coarse_network(settings).apply(params["coarse"], upright, samples)
    return solve_pose(tokens, found, surface), found


FACING = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, -1.0, 0.0]], np.float32)
"""Canonical from camera axes, for a camera behind the patient whose up is cranial."""


def upright_frame(tokens: SceneTokens, roll: Array) -> Pose:
    """The motion that brings camera coordinates into the frame the network sees them in.

    It turns by ``roll`` (radians) about the optical axis, then to the axes of the canonical frame,
    and puts the tokens' middle at the origin.
    """
    zero = jnp.zeros_like(roll)
    spin = poses.exp_rotation(jnp.stack([zero, zero, roll]))
    rotation = jnp.matmul(jnp.asarray(FACING, spin.dtype), spin, precision="highest")
    use = tokens.use[:, None]
    total = jnp.maximum(jnp.sum(use), 1)
    middle = jnp.sum(jnp.where(use, tokens.points, 0.0), axis=0) / total
    return Pose(rotation, -jnp.matmul(rotation, middle, precision="highest"))


def upright_roll(pose: Pose, surface: Surface) -> jax.Array:
    """The roll (radians) that turns a scene upright, whose pose is known."""
    rotation = jnp.matmul(
        pose.rotation, surface.canonical_from_model.rotation.T, precision="highest"
    )
    cranial = rotation[:, 2]  # in the camera frame, where up is -y
    return jnp.arctan2(-cranial[0], -cranial[1])


def solve_pose(tokens: SceneTokens, found: CoarseCorrespondences, surface: Surface) -> Pose:
    """The pose, camera from model, that correspondences speak for."""
    model = poses.apply_inverse(surface.canonical_from_model, found.places)
    return procrustes.procrustes(model, tokens.points, found.confidence).pose
