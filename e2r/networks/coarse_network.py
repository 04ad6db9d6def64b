"""The coarse network: places scene points on the model, by attention to samples of the model."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry import poses
from e2r.networks.mask_network import COORDINATE_UNIT_MM, MaskOutput
from e2r.types import Array, Bool, Cloud, Float, PRNGKey, Surface

WAVELENGTHS_MM = (200.0, 100.0, 50.0, 25.0)
"""Wavelengths of the positional features."""


class SceneTokens(NamedTuple):
    """The scene points that the coarse network reads; their order has no meaning."""

    points: Float[Array, "s 3"]  # mm, camera frame
    normals: Float[Array, "s 3"]  # unit, camera frame
    features: Float[Array, "s c"]  # of the mask network
    use: Bool[Array, "s"]  # False where there were too few valid points


class CoarseCorrespondences(NamedTuple):
    """The places of scene points on the model."""

    places: Float[Array, "s 3"]  # mm, canonical frame
    confidence: Float[Array, "s"]  # in [0, 1], zero where not used


class ModelSamples(NamedTuple):
    """The model points that the coarse network reads."""

    points: Float[Array, "m 3"]  # mm, canonical frame
    normals: Float[Array, "m 3"]  # unit, canonical frame
    from_level: Float[Array, "m 3"]  # mm, from the centroid of the level's samples


def model_samples(surface: Surface, count: int) -> ModelSamples:
    """``count`` samples of a model in its canonical frame, evenly by area."""
    rows = np.arange(count) * surface.points.shape[0] // count  # samples are in order of level
    points = poses.apply(surface.canonical_from_model, jnp.asarray(surface.points)[rows])
    normals = poses.rotate(surface.canonical_from_model, jnp.asarray(surface.normals)[rows])
    levels = jnp.asarray(surface.levels)[rows]
    same = (levels[:, None] == levels[None]).astype(points.dtype)
    centroids = jnp.matmul(same, points, precision="highest") / jnp.sum(same, 1, keepdims=True)
    return ModelSamples(points, normals, points - centroids)


def draw_tokens(key: PRNGKey, cloud: Cloud, output: MaskOutput, *, count: int) -> SceneTokens:
    """Draws ``count`` different points by their mask probability; every point has a small chance.

    Args:
      key: consumed.
      cloud: the scene; invalid points are drawn only when there are no others.
      output: of the mask network, for this cloud.
      count: at most the number of points.
    """
    points, normals = jnp.asarray(cloud.points), jnp.asarray(cloud.normals)
    features, logits, valid = output.features, output.logits, jnp.asarray(cloud.valid)
    chance = jnp.where(valid, jnp.log(jax.nn.sigmoid(logits) + 0.01), -1e9)
    chance = chance + jax.random.gumbel(key, logits.shape, points.dtype)
    _, rows = jax.lax.top_k(jax.lax.stop_gradient(chance), count)
    return SceneTokens(points[rows], normals[rows], features[rows], valid[rows])


class CoarseNetwork(nn.Module):
    """Attention among model samples, among scene points, and from scene to model.

    A point's place is a soft correspondence (the mean of the model samples by attention, as in DCP,
    Wang and Solomon, ICCV 2019) plus a correction. So points off the bone have a place as well.

    Attributes:
      width: channels.
      layers: of the scene's side; the model's side has one less, but at least one.
      heads: of the attention.
      dtype: of the layers; None: that of the inputs. Places and confidence always have that of the
        inputs.
    """

    width: int = 96
    layers: int = 3
    heads: int = 4
    dtype: Any = None

    @nn.compact
    def __call__(self, tokens: SceneTokens, samples: ModelSamples) -> CoarseCorrespondences:
        """Places tokens of the upright frame on the model."""
        dense = partial(nn.Dense, dtype=self.dtype)
        norm = partial(nn.LayerNorm, dtype=self.dtype)
        layer = partial(Layer, self.heads, self.dtype)
        place = dense(self.width)
        m = place(_position(samples.points)) + dense(self.width)(
            jnp.concatenate(
                [
                    samples.normals,
                    samples.from_level / COORDINATE_UNIT_MM,
                    _waves(samples.from_level),
                ],
                axis=1,
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
    """Attention and an MLP, each with a norm before it and a residual connection around it."""

    heads: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, onto: Array, use: Array | None) -> jax.Array:
        """Lets ``x`` (N, C) attend to ``onto`` (M, C) where ``use`` (M,) is true."""
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
    frequencies = jnp.asarray(2.0 * np.pi / np.array(WAVELENGTHS_MM), points.dtype)
    angles = points[:, :, None] * frequencies[None, None]
    angles = angles.reshape(points.shape[0], -1)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


def _position(points: Array) -> jax.Array:
    return jnp.concatenate([points / COORDINATE_UNIT_MM, _waves(points)], axis=1)
