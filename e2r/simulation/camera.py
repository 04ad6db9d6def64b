"""Where the depth camera stands, and the rays of its pixels."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from e2r.geometry import poses
from e2r.types import Array, Float, Pose, PRNGKey


class Camera(NamedTuple):
    """A pinhole camera (OpenCV convention: x right, y down, z forward) and its pose."""

    focal: Float[Array, ""]  # pixels, both axes
    pose: Pose  # camera from canonical


def sample_camera(
    key: PRNGKey,
    look_at: Float[Array, "3"],
    opening: Float[Array, ""],
    *,
    width: int,
    height: int,
    wound_fraction: tuple[float, float],
    standoff: tuple[float, float] = (350.0, 700.0),
    tilt: float = 30.0,
    focal_to_width: float = 0.0,
) -> Camera:
    """Draws a camera behind the patient. Its zoom makes the wound fill a share of the frame.

    Of a camera whose focal length is given, only the pose is drawn.

    Args:
      key: consumed.
      look_at: mm, canonical frame; it appears near the middle of the frame.
      opening: mm^2, area of the wound.
      width: pixels.
      height: pixels.
      wound_fraction: range of the wound's share of the frame, drawn log-uniformly.
      standoff: range of the distance, mm.
      tilt: largest angle between the viewing ray and the posterior direction, degrees.
      focal_to_width: focal length over the width; 0: the wound's share tells it.
    """
    k_fraction, k_far, k_tilt, k_way, k_roll, k_aim = jax.random.split(key, 6)
    low, high = jnp.log(jnp.array(wound_fraction))
    share = jnp.exp(jax.random.uniform(k_fraction, (), minval=low, maxval=high))
    far = jax.random.uniform(k_far, (), minval=standoff[0], maxval=standoff[1])
    lean = jnp.deg2rad(tilt) * jnp.sqrt(jax.random.uniform(k_tilt))  # uniform over the disc
    way = jax.random.uniform(k_way, (), maxval=2 * jnp.pi)
    roll = jax.random.uniform(k_roll, (), maxval=2 * jnp.pi)
    focal = far * jnp.sqrt(share * width * height / opening)
    if focal_to_width:
        focal = jnp.asarray(focal_to_width * width)
    backward = jnp.stack(
        [jnp.sin(lean) * jnp.cos(way), jnp.cos(lean), jnp.sin(lean) * jnp.sin(way)]
    )
    rotation = _rolled_axes(-backward, roll)
    half = 0.5 * far / focal * min(width, height)
    shift = half * jnp.array([0.35, 0.35]) * jax.random.uniform(k_aim, (2,), minval=-1.0)
    aim = look_at + shift[0] * rotation[0] + shift[1] * rotation[1]
    position = aim + far * backward
    return Camera(focal, Pose(rotation, -jnp.matmul(rotation, position, precision="highest")))


def _rolled_axes(forward: Float[Array, "3"], roll: Float[Array, ""]) -> Float[Array, "3 3"]:
    """Rows: the camera's right, down and forward axis in the canonical frame, roll in radians."""
    side = jnp.cross(forward, jnp.array([0.0, 0.0, 1.0]))
    side = side / jnp.linalg.norm(side)
    down = jnp.cross(forward, side)
    right = jnp.cos(roll) * side + jnp.sin(roll) * down
    return jnp.stack([right, jnp.cross(forward, right), forward])


def rays(
    camera: Camera, width: int, height: int
) -> tuple[Float[jax.Array, "3"], Float[jax.Array, "hw 3"]]:
    """The camera's centre and the direction of each pixel, canonical frame, row by row.

    One unit along a direction is 1 mm of depth. Pixel (u, v) is the centre of its square; the
    principal point is the middle of the image.

    Args:
      camera: of the frame.
      width: pixels.
      height: pixels.
    """
    u, v = jnp.meshgrid(jnp.arange(width, dtype=jnp.float32), jnp.arange(height, dtype=jnp.float32))
    cx, cy = 0.5 * (width - 1), 0.5 * (height - 1)
    local = jnp.stack([(u - cx) / camera.focal, (v - cy) / camera.focal, jnp.ones_like(u)], -1)
    directions = jnp.matmul(local.reshape(-1, 3), camera.pose.rotation, precision="highest")
    return poses.apply_inverse(camera.pose, jnp.zeros(3)), directions
