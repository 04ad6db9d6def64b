"""The coarse network: reads scene points beside model samples, and tells where each point belongs."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry import poses
from e2r.networks.mask_network import COORDINATE_UNIT_MM
from e2r.types import Array, Surface

WAVES = (200.0, 100.0, 50.0, 25.0)
"""Wavelengths of the positional features, mm."""


class SceneTokens(NamedTuple):
    """What the coarse network reads of a scene; the order means nothing."""

    points: Array  # (S, 3) mm, camera frame
    normals: Array  # (S, 3)
    features: Array  # (S, C) of the mask network
    use: Array  # (S,) bool


class CoarseCorrespondences(NamedTuple):
    """Where scene points belong on the model."""

    places: Array  # (S, 3) mm, canonical frame
    confidence: Array  # (S,) in [0, 1], zero where not used


class ModelSamples(NamedTuple):
    """What the coarse network reads of a model."""

    points: Array  # (M, 3) mm, canonical frame
    normals: Array  # (M, 3)
    apart: Array  # (M, 3) mm, from the middle of the level


def model_samples(surface: Surface, count: int) -> ModelSamples:
    """``count`` samples of a model in its canonical frame, evenly by area."""
    pick = np.arange(count) * surface.points.shape[0] // count  # samples are in order of level
    points = poses.apply(surface.canonical_from_model, jnp.asarray(surface.points)[pick])
    normals = poses.rotate(surface.canonical_from_model, jnp.asarray(surface.normals)[pick])
    levels = jnp.asarray(surface.levels)[pick]
    same = (levels[:, None] == levels).astype(points.dtype)
    middle = jnp.matmul(same, points, precision="highest") / jnp.sum(same, axis=1, keepdims=True)
    return ModelSamples(points, normals, points - middle)


def choose_tokens(
    key: Array,
    points: Array,
    normals: Array,
    features: Array,
    logits: Array,
    valid: Array,
    *,
    count: int,
) -> SceneTokens:
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
    return SceneTokens(points[pick], normals[pick], features[pick], valid[pick])


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
    def __call__(self, tokens: SceneTokens, samples: ModelSamples) -> CoarseCorrespondences:
        """Correspondences of tokens that are in the upright frame, mm."""
        dense = partial(nn.Dense, dtype=self.dtype)
        norm = partial(nn.LayerNorm, dtype=self.dtype)
        layer = partial(Layer, self.heads, self.dtype)
        place = dense(self.width)
        m = place(_position(samples.points)) + dense(self.width)(
            jnp.concatenate(
                [samples.normals, samples.apart / COORDINATE_UNIT_MM, _waves(samples.apart)], axis=1
            )
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
        return CoarseCorrespondences(mean + COORDINATE_UNIT_MM * out[:, :3], confidence)


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
    return jnp.concatenate([points / COORDINATE_UNIT_MM, _waves(points)], axis=1)
