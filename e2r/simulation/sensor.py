"""The depth camera's sensor: noise, holes and colour errors of a clean image."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from e2r.types import Array, Bool, Float, PRNGKey


def sense_depth(
    key: PRNGKey, depth: Float[Array, "h w"], shiny: Bool[Array, "h w"]
) -> Float[jax.Array, "h w"]:
    """A stereo camera's depth image in mm, 0 where it sees nothing.

    Noise grows with the square of the distance, 0.3 to 0.75 mm at half a metre. A bias of low
    frequency lies under it. Edges give flying pixels or none, metal is often blind, and patches
    drop out.

    Args:
      key: consumed.
      depth: mm, clean.
      shiny: metal.
    """
    h, w = depth.shape
    keys = jax.random.split(key, 8)
    gain = jnp.exp(jax.random.uniform(keys[0], (), minval=jnp.log(1.2e-6), maxval=jnp.log(3e-6)))
    noise = gain * depth**2 * jax.random.normal(keys[1], (h, w))
    bias_size = jax.random.uniform(keys[2], (), minval=0.05, maxval=0.2)
    bias = bias_size * (depth / 500.0) ** 2 * _smooth_noise(keys[3], (h, w), (4, 5))
    low, high = _neighbourhood_range(depth)
    edge = high - low > 8.0
    chance = jax.random.uniform(keys[4], (h, w))
    mixed = low + (high - low) * jax.random.uniform(keys[5], (h, w))
    seen = jnp.where(edge & (chance < 0.3), mixed, depth) + noise + bias
    patch = _smooth_noise(keys[6], (h, w), (9, 12)) > 2.1
    lost = jax.random.uniform(keys[7], (h, w))
    hole = patch | (edge & (lost > 0.7)) | (shiny & (lost > 0.45)) | (lost < 0.004)
    seen = jnp.where(shiny & (lost < 0.15), seen + 40.0 * (chance - 0.5), seen)
    return jnp.where(hole, 0.0, seen)


def sense_color(key: PRNGKey, color: Float[Array, "h w 3"]) -> Float[jax.Array, "h w 3"]:
    """The colour image in [0, 1] after white balance, exposure, gamma and noise."""
    k_gain, k_white, k_gamma, k_noise = jax.random.split(key, 4)
    exposure = jnp.exp(0.3 * jax.random.normal(k_gain))
    white = jnp.exp(0.1 * jax.random.normal(k_white, (3,)))
    gamma = jnp.exp(0.15 * jax.random.normal(k_gamma))
    seen = jnp.clip(color * exposure * white[None, None], 0.0, 1.0) ** gamma
    return jnp.clip(seen + 0.02 * jax.random.normal(k_noise, color.shape), 0.0, 1.0)


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
