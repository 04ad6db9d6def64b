"""Reads scene points and their normals at some pixels of a depth image, inside jit.

A plane is linear in inverse depth over the pixels. So a window's plane is a 3x3 least-squares fit,
and needs neither neighbours nor a tree.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from e2r.types import Array, Bool, Float, Int

REACH = 3
"""Pixels of the window to each side; it holds every second one, and the middle."""
SAME_SURFACE_MM = 6.0
"""A pixel of the window belongs to the plane if its depth differs by less from the middle one."""
MIN_PIXELS = 5
"""Pixels to which a plane is fitted, at least."""


class Pinhole(NamedTuple):
    """A camera without distortion. Integer pixel (u, v) is the pixel's centre."""

    fx: Float[Array, ""]  # pixels
    fy: Float[Array, ""]
    cx: Float[Array, ""]
    cy: Float[Array, ""]


class PixelPoints(NamedTuple):
    """What a depth image shows where some points project."""

    points: Float[Array, "n 3"]  # mm, camera frame: the pixels' scene points
    normals: Float[Array, "n 3"]  # unit, towards the camera; zeros where there is none
    inside: Bool[Array, "n"]  # the projection lies in the picture
    seen: Bool[Array, "n"]  # its pixel has a depth and a normal
    ahead: Float[Array, "n"]  # mm by which the scene lies before the projected point


def find_pixels(
    points: Float[Array, "n 3"], camera: Pinhole, shape: tuple[int, int], *, margin: int = 0
) -> tuple[Int[Array, "n"], Int[Array, "n"], Bool[Array, "n"]]:
    """Row and column of the pixel to which each point projects, and whether it is in the picture.

    Args:
      points: mm, camera frame.
      camera: of the picture.
      shape: its height and width.
      margin: pixels at each border that count as outside; what is outside gets the pixel there.
    """
    height, width = shape
    x, y, z = points[:, 0], points[:, 1], points[:, 2]
    before = z > 1.0
    safe = jnp.where(before, z, 1.0)
    u = jnp.round(camera.fx * x / safe + camera.cx)
    v = jnp.round(camera.fy * y / safe + camera.cy)
    inside = before & (u >= margin) & (u < width - margin)
    inside = inside & (v >= margin) & (v < height - margin)
    row, column = (jnp.where(inside, axis, margin).astype(jnp.int32) for axis in (v, u))
    return row, column, inside


def read_pixels(
    depth: Float[Array, "h w"], camera: Pinhole, points: Float[Array, "n 3"]
) -> PixelPoints:
    """The scene at the pixels to which some points project.

    Args:
      depth: mm along the optical axis, 0 where unseen.
      camera: of the depth image.
      points: mm, camera frame.
    """
    depth = jnp.asarray(depth)
    height, width = depth.shape
    v, u, inside = find_pixels(points, camera, (height, width), margin=REACH)
    z = points[:, 2]
    offset = np.arange(-REACH, REACH + 1, 2, dtype=np.int32)
    across, down = (np.append(grid, np.int32(0)) for grid in np.meshgrid(offset, offset))
    window = depth[v[:, None] + down[None], u[:, None] + across[None]]
    middle = window[:, -1]
    measured = middle > 0
    near = (window > 0) & (jnp.abs(window - middle[:, None]) < SAME_SURFACE_MM)
    weights = near.astype(depth.dtype)
    over = jnp.where(near, 1.0 / jnp.where(near, window, 1.0), 0.0)
    slope_u, slope_v, level = _fit_plane(weights, over, across, down)
    right, below = u.astype(depth.dtype) - camera.cx, v.astype(depth.dtype) - camera.cy
    column, row = right / camera.fx, below / camera.fy
    normal = jnp.stack(
        [slope_u * camera.fx, slope_v * camera.fy, level - slope_u * right - slope_v * below],
        axis=1,
    )
    length = jnp.sqrt(jnp.sum(normal * normal, axis=1, keepdims=True))
    usable = measured & inside & (jnp.sum(weights, axis=1) >= MIN_PIXELS) & (length[:, 0] > 0)
    normal = jnp.where(usable[:, None], -normal / jnp.where(length > 0, length, 1.0), 0.0)
    scene = jnp.where(measured, middle, 1.0)
    return PixelPoints(
        points=jnp.stack([column * scene, row * scene, scene], axis=1),
        normals=normal,
        inside=inside,
        seen=usable,
        ahead=jnp.where(measured & inside, z - middle, 0.0),
    )


def _fit_plane(
    weights: Float[Array, "n k"], values: Float[Array, "n k"], across: np.ndarray, down: np.ndarray
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Slopes along u and v, and the value in the middle, of weighted planes; by Cramer's rule."""
    basis = jnp.asarray(np.stack([across, down, np.ones_like(down)]), weights.dtype)
    products = jnp.asarray(
        np.stack([across * across, across * down, across, down * down, down, np.ones_like(down)]),
        weights.dtype,
    )
    a, b, c, d, e, f = jnp.matmul(weights, products.T, precision="highest").T
    p, q, r = jnp.matmul(weights * values, basis.T, precision="highest").T
    determinant = a * (d * f - e * e) - b * (b * f - c * e) + c * (b * e - c * d)
    regular = determinant > 1.0
    over = jnp.where(regular, 1.0 / jnp.where(regular, determinant, 1.0), 0.0)
    slope_u = over * (p * (d * f - e * e) + q * (c * e - b * f) + r * (b * e - c * d))
    slope_v = over * (p * (c * e - b * f) + q * (a * f - c * c) + r * (b * c - a * e))
    level = over * (p * (b * e - c * d) + q * (b * c - a * e) + r * (a * d - b * b))
    return slope_u, slope_v, level
