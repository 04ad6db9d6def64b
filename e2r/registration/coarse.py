"""The coarse stage: where is the model, with no pose to start from?

A network reads some points of the scene beside samples of the complete model, and tells of each
scene point where on the model it belongs; weighted Procrustes makes that a pose. Its teachers are
the pose and nothing else: the coordinates of every point, and the error of the pose.

The network sees the scene **upright**: turned about the optical axis until the spine's head points
up, roughly. Nobody knows that roll, so at inference the same points are shown at eight rolls, and
the refinement tells which was right.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry import poses, procrustes
from e2r.segmentation.network import UNIT
from e2r.types import Array, Pose, Surface

FACING = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, -1.0, 0.0]], np.float32)
"""Canonical from camera axes, for a camera behind the patient whose up is cranial."""
WAVES = (200.0, 100.0, 50.0, 25.0)
"""Wavelengths of the positional features, mm."""


class Tokens(NamedTuple):
    """What the coarse network reads of a scene; the order means nothing."""

    points: Array  # (S, 3) mm, camera frame
    normals: Array  # (S, 3)
    features: Array  # (S, C) of the mask network
    use: Array  # (S,) bool


class Correspondences(NamedTuple):
    """Where scene points belong on the model."""

    places: Array  # (S, 3) mm, canonical frame
    confidence: Array  # (S,) in [0, 1], zero where not used


class Samples(NamedTuple):
    """What the coarse network reads of a model."""

    points: Array  # (M, 3) mm, canonical frame
    normals: Array  # (M, 3)
    apart: Array  # (M, 3) mm, from the middle of the level


def model_samples(surface: Surface, count: int) -> Samples:
    """``count`` samples of a model in its canonical frame, evenly by area."""
    pick = np.arange(count) * surface.points.shape[0] // count  # samples are in order of level
    points = poses.apply(surface.upright, jnp.asarray(surface.points)[pick])
    normals = poses.rotate(surface.upright, jnp.asarray(surface.normals)[pick])
    levels = jnp.asarray(surface.levels)[pick]
    same = (levels[:, None] == levels).astype(points.dtype)
    middle = jnp.matmul(same, points, precision="highest") / jnp.sum(same, axis=1, keepdims=True)
    return Samples(points, normals, points - middle)


def choose_tokens(
    key: Array, points: Array, normals: Array, features: Array, logits: Array, valid: Array,
    *, count: int,
) -> Tokens:  # fmt: skip
    """Draws ``count`` different points, by their mask probability and a little more.

    Args:
      key: consumed.
      points, normals: (N, 3).
      features: (N, C).
      logits: (N,) of the mask.
      valid: (N,) bool; others are drawn only when there are no more.
      count: S, at most N.
    """
    chance = jnp.where(valid, jnp.log(jax.nn.sigmoid(logits) + 0.01), -1e9)
    chance = chance + jax.random.gumbel(key, logits.shape, points.dtype)
    _, pick = jax.lax.top_k(jax.lax.stop_gradient(chance), count)
    return Tokens(points[pick], normals[pick], features[pick], valid[pick])


def upright_frame(tokens: Tokens, roll: Array) -> Pose:
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


def roll_of(pose: Pose, surface: Surface) -> jax.Array:
    """The roll (radians) that turns a scene upright, whose pose is known."""
    rotation = jnp.matmul(pose.rotation, surface.upright.rotation.T, precision="highest")
    cranial = rotation[:, 2]  # in the camera frame, where up is -y
    return jnp.arctan2(-cranial[0], -cranial[1])


def solve(tokens: Tokens, found: Correspondences, surface: Surface) -> Pose:
    """The pose, camera from model, that correspondences speak for."""
    model = poses.apply_inverse(surface.upright, found.places)
    return procrustes.procrustes(model, tokens.points, found.confidence).pose


class CoarseNetwork(nn.Module):
    """Attention among model samples, among scene points, and from scene to model.

    The answer is a soft correspondence (a mean of model samples by attention, as in DCP, Wang and
    Solomon, ICCV 2019) and a correction, so that points off the bone have a place as well.

    Attributes:
      width: channels.
      layers: of the scene's side; the model's side has one less, and one at least.
      heads: of the attention.
      dtype: of the layers, that of the inputs without it; places and confidence have that of the
        inputs always.
    """

    width: int = 96
    layers: int = 3
    heads: int = 4
    dtype: Any = None

    @nn.compact
    def __call__(self, tokens: Tokens, samples: Samples) -> Correspondences:
        """Correspondences of tokens that are in the upright frame, mm."""
        dense = partial(nn.Dense, dtype=self.dtype)
        norm = partial(nn.LayerNorm, dtype=self.dtype)
        layer = partial(Layer, self.heads, self.dtype)
        place = dense(self.width)
        m = place(_position(samples.points)) + dense(self.width)(
            jnp.concatenate([samples.normals, samples.apart / UNIT, _waves(samples.apart)], axis=1)
        )
        for _ in range(max(1, self.layers - 1)):
            m = layer()(m, m, None)
        m = norm()(m)
        s = dense(self.width)(_position(tokens.points)) + dense(self.width)(
            jnp.concatenate([tokens.normals, tokens.features], axis=1)
        )
        for _ in range(self.layers):
            s = layer()(s, s, tokens.use)
            s = layer()(s, m, None)
        s = norm()(s)
        query, key = dense(self.width)(s), dense(self.width)(m)
        likeness = (query @ key.T).astype(samples.points.dtype)
        share = jax.nn.softmax(likeness / np.sqrt(self.width), axis=1)
        mean = jnp.matmul(share, samples.points, precision="highest")
        out = dense(4, kernel_init=nn.initializers.normal(0.01))(nn.gelu(dense(self.width)(s)))
        out = out.astype(samples.points.dtype)
        confidence = jnp.where(tokens.use, jax.nn.sigmoid(out[:, 3]), 0.0)
        return Correspondences(mean + UNIT * out[:, :3], confidence)


class Layer(nn.Module):
    """Attention and an MLP, each after a norm and beside a shortcut."""

    heads: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, onto: Array, use: Array | None) -> jax.Array:
        """From ``x`` (N, C) onto ``onto`` (M, C), where ``use`` (M,) allows."""
        dense = partial(nn.Dense, dtype=self.dtype)
        norm = partial(nn.LayerNorm, dtype=self.dtype)
        width = x.shape[1]
        mask = None if use is None else jnp.broadcast_to(use, (1, x.shape[0], onto.shape[0]))
        y = norm()(x)
        other = y if onto is x else onto
        x = x + nn.MultiHeadDotProductAttention(self.heads, dtype=self.dtype)(y, other, mask=mask)
        y = nn.gelu(dense(2 * width)(norm()(x)))
        out: jax.Array = x + dense(width)(y)
        return out


def _waves(points: Array) -> jax.Array:
    angles = points[:, :, None] * jnp.asarray(2.0 * np.pi / np.array(WAVES), points.dtype)
    angles = angles.reshape(points.shape[0], -1)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


def _position(points: Array) -> jax.Array:
    return jnp.concatenate([points / UNIT, _waves(points)], axis=1)
