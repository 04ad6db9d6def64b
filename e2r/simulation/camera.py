"""The depth camera: where it stands, and what its sensor makes of a clean picture."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.geometry import poses
from e2r.types import Array, Pose


class Camera(NamedTuple):
    """A pinhole (OpenCV convention: x right, y down, z forward) and its place in the scene."""

    focal: Array  # () pixels, both axes
    pose: Pose  # camera from canonical


def sample_camera(
    key: Array,
    look_at: Array,
    opening: Array,
    *,
    width: int,
    height: int,
    wound_fraction: tuple[float, float],
    standoff: tuple[float, float] = (350.0, 700.0),
    tilt: float = 30.0,
) -> Camera:
    """Draws a camera behind the patient, whose zoom makes the wound fill a share of the picture.

    Args:
      key: consumed.
      look_at: (3,) mm, canonical frame; the picture's middle falls near it.
      opening: () mm^2, area of the wound.
      width, height: of the picture in pixels.
      fill: range of the wound's share of the picture, drawn log-uniformly.
      standoff: range of the distance, mm.
      tilt: largest angle between the viewing ray and the posterior direction, degrees.
    """
    k_fill, k_far, k_tilt, k_way, k_roll, k_aim = jax.random.split(key, 6)
    low, high = jnp.log(jnp.array(wound_fraction))
    share = jnp.exp(jax.random.uniform(k_fill, (), minval=low, maxval=high))
    far = jax.random.uniform(k_far, (), minval=standoff[0], maxval=standoff[1])
    lean = jnp.deg2rad(tilt) * jnp.sqrt(jax.random.uniform(k_tilt))  # even over the disc
    way = jax.random.uniform(k_way, (), maxval=2 * jnp.pi)
    roll = jax.random.uniform(k_roll, (), maxval=2 * jnp.pi)
    focal = far * jnp.sqrt(share * width * height / opening)
    backward = jnp.stack(
        [jnp.sin(lean) * jnp.cos(way), jnp.cos(lean), jnp.sin(lean) * jnp.sin(way)]
    )
    forward = -backward
    side = jnp.cross(forward, jnp.array([0.0, 0.0, 1.0]))
    side = side / jnp.linalg.norm(side)
    down = jnp.cross(forward, side)
    right = jnp.cos(roll) * side + jnp.sin(roll) * down
    rotation = jnp.stack([right, jnp.cross(forward, right), forward])
    half = 0.5 * far / focal * min(width, height)
    shift = half * jnp.array([0.35, 0.35]) * jax.random.uniform(k_aim, (2,), minval=-1.0)
    aim = look_at + shift[0] * rotation[0] + shift[1] * rotation[1]
    position = aim + far * backward
    return Camera(focal, Pose(rotation, -jnp.matmul(rotation, position, precision="highest")))


def rays(camera: Camera, width: int, height: int) -> tuple[jax.Array, jax.Array]:
    """Origin (3,) and directions (H*W, 3) in the canonical frame; one unit along it is 1 mm of z.

    Pixel (u, v) is the centre of its square; the principal point is the picture's middle.
    """
    u, v = jnp.meshgrid(jnp.arange(width) * 1.0, jnp.arange(height) * 1.0)
    cx, cy = 0.5 * (width - 1), 0.5 * (height - 1)
    local = jnp.stack([(u - cx) / camera.focal, (v - cy) / camera.focal, jnp.ones_like(u)], -1)
    directions = jnp.matmul(local.reshape(-1, 3), camera.pose.rotation, precision="highest")
    return poses.apply_inverse(camera.pose, jnp.zeros(3)), directions


def _smooth_noise(key: Array, height: int, width: int, coarse: tuple[int, int]) -> Array:
    """A smooth random field of unit variance at its nodes."""
    return jax.image.resize(jax.random.normal(key, coarse), (height, width), "cubic")


def _neighbourhood(image: Array) -> tuple[Array, Array]:
    """Smallest and largest value in each 3x3 window."""
    padded = jnp.pad(image, 1, mode="edge")
    h, w = image.shape
    windows = jnp.stack([padded[i : i + h, j : j + w] for i in range(3) for j in range(3)])
    return jnp.min(windows, 0), jnp.max(windows, 0)


def sense_depth(key: Array, depth: Array, shiny: Array) -> jax.Array:
    """A stereo camera's depth picture (H, W) in mm, 0 where it sees none.

    Noise grows with the square of the distance (0.3 to 0.75 mm at half a metre), a bias of low
    frequency lies under it, edges send flying pixels or nothing, metal is often blind, and
    patches drop out.

    Args:
      key: consumed.
      depth: (H, W) mm, clean.
      shiny: (H, W) bool, metal.
    """
    h, w = depth.shape
    keys = jax.random.split(key, 8)
    gain = jnp.exp(jax.random.uniform(keys[0], (), minval=jnp.log(1.2e-6), maxval=jnp.log(3e-6)))
    noise = gain * depth**2 * jax.random.normal(keys[1], (h, w))
    bias_size = jax.random.uniform(keys[2], (), minval=0.05, maxval=0.2)
    bias = bias_size * (depth / 500.0) ** 2 * _smooth_noise(keys[3], h, w, (4, 5))
    low, high = _neighbourhood(depth)
    edge = high - low > 8.0
    chance = jax.random.uniform(keys[4], (h, w))
    mixed = low + (high - low) * jax.random.uniform(keys[5], (h, w))
    seen = jnp.where(edge & (chance < 0.3), mixed, depth) + noise + bias
    blob = _smooth_noise(keys[6], h, w, (9, 12)) > 2.1
    lost = jax.random.uniform(keys[7], (h, w))
    hole = blob | (edge & (lost > 0.7)) | (shiny & (lost > 0.45)) | (lost < 0.004)
    seen = jnp.where(shiny & (lost < 0.15), seen + 40.0 * (chance - 0.5), seen)
    return jnp.where(hole, 0.0, seen)


def sense_color(key: Array, color: Array) -> jax.Array:
    """The colour picture (H, W, 3) in [0, 1] after white balance, exposure, gamma and noise."""
    k_gain, k_white, k_gamma, k_noise = jax.random.split(key, 4)
    exposure = jnp.exp(0.3 * jax.random.normal(k_gain))
    white = jnp.exp(0.1 * jax.random.normal(k_white, (3,)))
    gamma = jnp.exp(0.15 * jax.random.normal(k_gamma))
    seen = jnp.clip(color * exposure * white, 0.0, 1.0) ** gamma
    return jnp.clip(seen + 0.02 * jax.random.normal(k_noise, color.shape), 0.0, 1.0)
