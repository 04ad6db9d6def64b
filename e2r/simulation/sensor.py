"""The depth camera's sensor: noise, holes and colour errors of a clean image."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from e2r.simulation.uniform_draws import UniformDraws
from e2r.types import Array, Bool, Float, PRNGKey

BLUR_REACH = 5
"""Pixels that a blur reaches to each side."""


def sense_depth(
    key: PRNGKey,
    depth: Float[Array, "h w"],
    shiny: Bool[Array, "h w"],
    *,
    steady: PRNGKey | None = None,
) -> Float[jax.Array, "h w"]:
    """A stereo camera's depth image in mm, 0 where it sees nothing.

    Noise grows with the square of the distance, 0.3 to 0.75 mm at half a metre. A bias of low
    frequency lies under it. Edges give flying pixels or none, metal is often blind, and patches
    drop out.

    Args:
      key: consumed.
      depth: mm, clean.
      shiny: metal.
      steady: of a recording, whose frames share it: the loudness, the bias, the patches and half
        of the noise then stay from frame to frame.
    """
    h, w = depth.shape
    keys = jax.random.split(key, 8)
    if steady is not None:
        kept = jax.random.split(steady, 8)
        keys = keys.at[np.array([0, 2, 3, 6])].set(kept[np.array([0, 2, 3, 6])])
    gain = jnp.exp(jax.random.uniform(keys[0], (), minval=jnp.log(1.2e-6), maxval=jnp.log(3e-6)))
    draw = jax.random.normal(keys[1], (h, w))
    if steady is not None:
        draw = math.sqrt(0.5) * (draw + jax.random.normal(kept[1], (h, w)))
    noise = gain * depth**2 * draw
    bias_size = jax.random.uniform(keys[2], (), minval=0.05, maxval=0.2)
    bias = bias_size * (depth / 500.0) ** 2 * _smooth_noise(keys[3], (h, w), (4, 5))
    edge, mixed = _mixed_edges(keys[5], depth)
    chance = jax.random.uniform(keys[4], (h, w))
    seen = jnp.where(edge & (chance < 0.3), mixed, depth) + noise + bias
    patch = _smooth_noise(keys[6], (h, w), (9, 12)) > 2.1
    lost = jax.random.uniform(keys[7], (h, w))
    hole = patch | (edge & (lost > 0.7)) | (shiny & (lost > 0.45))
    return _with_holes(seen, hole, shiny, chance=chance, lost=lost)


def sense_any_depth(
    key: PRNGKey, depth: Float[Array, "h w"], shiny: Bool[Array, "h w"], facing: Float[Array, "h w"]
) -> Float[jax.Array, "h w"]:
    """The depth image in mm of a camera of any make, 0 where it sees nothing.

    Beyond :func:`sense_depth`, a matching window or light from all sides rounds the shapes off,
    neighbouring pixels err together, depth comes in steps, and surfaces at a slant are lost.

    Args:
      key: consumed.
      depth: mm, clean.
      shiny: metal.
      facing: cosine between the surface's normal and the way to the camera.
    """
    k_draws, k_noise, k_bias, k_fine, k_edge, k_mixed, k_patch, k_lost = jax.random.split(key, 8)
    uniform = UniformDraws(k_draws, 16)
    height, width = depth.shape
    shape = (height, width)
    far = (depth / 500.0) ** 2
    window = jnp.where(uniform.happens(0.6), uniform(0.0, 2.0), 0.0)
    rounded = depth + jnp.clip(_blur(depth, window)[0] - depth, -3.0, 3.0)
    noise, loudness = _blur(jax.random.normal(k_noise, shape), uniform(0.0, 1.5))
    sigma = jnp.exp(uniform(math.log(0.3), math.log(1.2)))
    bias = uniform(0.05, 0.4) * _smooth_noise(k_bias, shape, (4, 5))
    bias = bias + uniform(0.0, 0.25) * _smooth_noise(k_fine, shape, (12, 16))
    seen = rounded + far * (sigma * noise / loudness + bias)
    step = jnp.where(uniform.happens(0.4), uniform(0.01, 0.8), 0.01) * far
    seen = step * jnp.round(seen / step)
    edge, mixed = _mixed_edges(k_mixed, depth)
    chance, lost = jax.random.uniform(k_edge, shape), jax.random.uniform(k_lost, shape)
    seen = jnp.where(edge & (chance < uniform(0.0, 0.5)), mixed, seen)
    patch = _smooth_noise(k_patch, shape, (9, 12)) > uniform(1.2, 2.4)
    slanted = (facing < uniform(0.0, 0.35)) & (lost < 0.8)
    blind = shiny & (lost > uniform(0.2, 0.8))
    hole = patch | slanted | blind | (edge & (lost > uniform(0.5, 0.9)))
    return _with_holes(seen, hole, shiny, chance=chance, lost=lost)


def _mixed_edges(
    key: PRNGKey, depth: Float[Array, "h w"]
) -> tuple[Bool[Array, "h w"], Float[Array, "h w"]]:
    """Which pixels lie at an edge, and a depth anywhere between its two sides, mm."""
    low, high = _neighbourhood_range(depth)
    mixed = low + (high - low) * jax.random.uniform(key, depth.shape)
    return high - low > 8.0, mixed


def _with_holes(
    seen: Float[Array, "h w"],
    hole: Bool[Array, "h w"],
    shiny: Bool[Array, "h w"],
    *,
    chance: Float[Array, "h w"],
    lost: Float[Array, "h w"],
) -> Float[jax.Array, "h w"]:
    """A depth image with its holes, a few lone ones more, and metal that is centimetres off.

    Args:
      seen: mm.
      hole: pixels without depth.
      shiny: metal.
      chance: 0 to 1, uniform.
      lost: 0 to 1, uniform.
    """
    seen = jnp.where(shiny & (lost < 0.15), seen + 40.0 * (chance - 0.5), seen)
    return jnp.where(hole | (lost < 0.004), 0.0, seen)


def sense_color(key: PRNGKey, color: Float[Array, "h w 3"]) -> Float[jax.Array, "h w 3"]:
    """The colour image in [0, 1] after white balance, exposure, gamma and noise."""
    k_gain, k_white, k_gamma, k_noise = jax.random.split(key, 4)
    exposure = jnp.exp(0.3 * jax.random.normal(k_gain))
    white = jnp.exp(0.1 * jax.random.normal(k_white, (3,)))
    gamma = jnp.exp(0.15 * jax.random.normal(k_gamma))
    seen = jnp.clip(color * exposure * white[None, None], 0.0, 1.0) ** gamma
    return jnp.clip(seen + 0.02 * jax.random.normal(k_noise, color.shape), 0.0, 1.0)


def degrade_color(key: PRNGKey, color: Float[Array, "h w 3"]) -> Float[jax.Array, "h w 3"]:
    """A colour image in [0, 1] after poor optics, mixed channels and lossy compression.

    Hues are kept coarsely, as compression keeps them. Of 12 images, one has no colour at all.

    Args:
      key: consumed.
      color: h and w are multiples of 4.
    """
    k_draws, k_mix = jax.random.split(key)
    uniform = UniformDraws(k_draws, 8)
    h, w, _ = color.shape
    mix = jnp.eye(3) + 0.06 * jax.random.normal(k_mix, (3, 3))
    color = jnp.matmul(color, mix / jnp.sum(mix, 1, keepdims=True), precision="highest")
    width = jnp.where(uniform.happens(0.6), uniform(0.0, 1.5), 0.0)
    color = jax.vmap(lambda channel: _blur(channel, width)[0], 2, 2)(color)
    grey = jnp.mean(color, -1, keepdims=True)
    hue = (color - grey).reshape(h // 4, 4, w // 4, 4, 3).mean((1, 3))
    hue = jax.image.resize(hue, (h, w, 3), "linear")
    color = color + uniform(0.0, 1.0) * (grey + hue - color)
    away = jnp.square(jnp.linspace(-1, 1, h))[:, None] + jnp.square(jnp.linspace(-1, 1, w))[None]
    color = color * (1.0 - uniform(0.0, 0.25) * away)[..., None]
    lost = uniform.happens(1 / 12)
    return jnp.clip(jnp.where(lost, uniform(0.2, 0.8), color), 0.0, 1.0)


def _blur(
    image: Float[Array, "h w"], sigma: Float[Array, ""]
) -> tuple[Float[jax.Array, "h w"], Float[jax.Array, ""]]:
    """An image under a Gaussian of ``sigma`` pixels (0 to 2), and the loudness of blurred noise.

    Returns the image, and the standard deviation of white noise of unit variance after it.
    """
    offsets = jnp.arange(-BLUR_REACH, BLUR_REACH + 1, dtype=image.dtype)
    kernel = jnp.exp(-0.5 * (offsets / jnp.maximum(sigma, 0.05)) ** 2)
    kernel = kernel / jnp.sum(kernel)
    h, w = image.shape
    padded = jnp.pad(image, BLUR_REACH, mode="edge")
    rows = sum((tap * padded[i : i + h] for i, tap in enumerate(kernel)), jnp.zeros(()))
    blurred = sum((tap * rows[:, i : i + w] for i, tap in enumerate(kernel)), jnp.zeros(()))
    return blurred, jnp.sum(kernel**2)


def _smooth_noise(
    key: PRNGKey, shape: tuple[int, int], nodes: tuple[int, int]
) -> Float[Array, "h w"]:
    """A smooth random field of the given shape, of unit variance at its nodes."""
    return jax.image.resize(jax.random.normal(key, nodes), shape, "cubic")


def _neighbourhood_range(
    image: Float[Array, "h w"],
) -> tuple[Float[Array, "h w"], Float[Array, "h w"]]:
    """Smallest and largest value in each 3x3 window."""
    padded = jnp.pad(image, 1, mode="edge")
    h, w = image.shape
    windows = jnp.stack([padded[i : i + h, j : j + w] for i in range(3) for j in range(3)])
    return jnp.min(windows, 0), jnp.max(windows, 0)
