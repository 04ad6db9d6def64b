"""Where a remembered view of a scene lies in another depth image, without an initial pose. Pure.

A keyframe keeps points of the scene around the wound: bone, gristle, skin, whatever does not move
against the bone. That is more than the bone shows, and unlike vertebrae it does not repeat. The
search turns the keyframe's middle towards pixels all over the picture, at several rolls. From each
start it descends by point-to-plane steps (Chen and Medioni, 1992) whose correspondences are the
pixels to which the points project (Blais and Levine, PAMI 1995). The best few descend further.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry import depth_pixels, linear_algebra, poses
from e2r.geometry.depth_pixels import Pinhole
from e2r.registration import kernels
from e2r.types import Array, Float, Pose

WIDTH = 160
"""Pixels of the coarse view."""
RADIUS_MM = 90.0
"""A keyframe keeps what lies so near to its middle."""
POINTS, FEW = 1024, 256
"""Points of a keyframe, and of the first descent."""
PLACES = 36
"""Pixels that are tried for the middle, evenly over those that are seen."""
ROLLS = np.deg2rad(np.arange(-60.0, 61.0, 20.0)).astype(np.float32)
"""Turns about the line of sight that are tried, rad."""
FIRST_SCALES = np.geomspace(20.0, 6.0, 8).astype(np.float32)
LAST_SCALES = np.geomspace(6.0, 1.0, 12).astype(np.float32)
"""Robust scales of the two descents, mm."""
KEPT = 16
"""Starts that descend further."""
FIRST_SCORE_MM, SCORE_MM = 3.0, 1.5
"""Robust scale of the scores after each descent, mm."""
SAME_NORMAL = 30.0
"""Concentration of the kernel that counts how many points share a normal: about 15 degrees."""
MIN_FACING = 0.5
"""A pair counts where the cosine between its normals is larger."""
LEVER, PRIOR = 30.0, 1.0
"""Arm at which a turn counts as a shift, mm; damping of a step, in points."""


class Keyframe(NamedTuple):
    """Points of a scene around its wound, camera frame, N of them."""

    points: Float[Array, "n 3"]  # mm, in random order
    normals: Float[Array, "n 3"]  # unit
    weights: Float[Array, "n"]  # by which the score counts; 0 where the scene has fewer points
    middle: Float[Array, "3"]  # mm


class DepthView(NamedTuple):
    """A depth image at a coarse grid of pixels."""

    points: Float[Array, "h w 3"]  # mm, camera frame
    normals: Float[Array, "h w 3"]  # unit; zeros where nothing is seen
    camera: Pinhole  # of the grid


def view_depth(depth: Float[Array, "h w"], camera: Pinhole) -> DepthView:
    """A depth image at every so many-th pixel, with normals from all of them.

    Args:
      depth: mm along the optical axis, 0 where unseen.
      camera: of the depth image.
    """
    depth = jnp.asarray(depth)
    height, width = depth.shape
    stride = max(round(width / WIDTH), 1)
    first = stride // 2
    z = depth[first::stride, first::stride]
    rows, columns = np.meshgrid(
        *(np.arange(first, n, stride, dtype=np.float32) for n in (height, width)), indexing="ij"
    )
    across, down = (columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy
    points = jnp.where(z > 0, z, 1000.0)[..., None] * jnp.stack(
        [across, down, jnp.ones_like(across)], axis=-1
    )
    found = depth_pixels.read_pixels(depth, camera, points.reshape(-1, 3))
    normals = jnp.where(found.seen[:, None], found.normals, 0.0).reshape(points.shape)
    grid = Pinhole(
        camera.fx / stride,
        camera.fy / stride,
        (camera.cx - first) / stride,
        (camera.cy - first) / stride,
    )
    return DepthView(points, normals, grid)


def make_keyframe(view: DepthView, middle: Float[Array, "3"]) -> Keyframe:
    """Points of a view around a place, drawn evenly from its pixels; always the same number.

    The more points share a normal, the less each of them counts in the score: flat skin fits
    everywhere (after Rusinkiewicz and Levoy, "Efficient variants of the ICP algorithm", 2001).

    Args:
      view: of the scene.
      middle: mm, camera frame.
    """
    points, normals = view.points.reshape(-1, 3), view.normals.reshape(-1, 3)
    near = jnp.sum(jnp.square(points - jnp.asarray(middle)[None]), axis=1) < RADIUS_MM**2
    usable = near & (jnp.sum(jnp.square(normals), axis=1) > 0)
    order = np.random.default_rng(0).permutation(points.shape[0]).astype(np.float32)
    count = min(POINTS, points.shape[0])
    rows = jax.lax.top_k(jnp.where(usable, 1.0 + order, 0.0), count)[1]
    points, normals, kept = points[rows], normals[rows], usable[rows].astype(points.dtype)
    alike = jnp.exp(SAME_NORMAL * (jnp.matmul(normals, normals.T, precision="highest") - 1.0))
    weights = kept / jnp.maximum(jnp.matmul(alike, kept, precision="highest"), 1.0)
    return Keyframe(points, normals, weights, jnp.asarray(middle))


def relocalise(keyframe: Keyframe, view: DepthView) -> tuple[Pose, Float[Array, ""]]:
    """The motion of a keyframe's scene into a view, and how well it fits there.

    Args:
      keyframe: of the scene.
      view: of another depth image.

    Returns:
      the motion, from the keyframe's camera frame to the view's; and its score, 0 to 1: the mean
      over the keyframe's points, by their weights, of the robust weight of a point's distance to
      the view, times the squared cosine between both normals. A point out of the picture counts 0.
    """
    few = keyframe._replace(
        points=keyframe.points[:FEW], normals=keyframe.normals[:FEW], weights=keyframe.weights[:FEW]
    )
    starts = _starts(view, keyframe.middle)
    first = jax.vmap(lambda one: _descend(view, few, one, FIRST_SCALES))(starts)
    scores = jax.vmap(lambda one: _score(view, few, one, FIRST_SCORE_MM))(first)
    best = jax.lax.top_k(scores, KEPT)[1]
    some = jax.tree.map(lambda leaf: leaf[best], first)
    last = jax.vmap(lambda one: _descend(view, keyframe, one, LAST_SCALES))(some)
    scores = jax.vmap(lambda one: _score(view, keyframe, one, SCORE_MM))(last)
    winner = jnp.argmax(scores)
    return jax.tree.map(lambda leaf: leaf[winner], last), scores[winner]


def _starts(view: DepthView, middle: Float[Array, "3"]) -> Pose:
    """Motions that take the middle to the scene at some pixels, at some rolls."""
    targets = jnp.repeat(_spread(view), len(ROLLS), axis=0)
    sight = middle / jnp.sqrt(jnp.sum(middle * middle))

    def one(target: Array, roll: Array) -> Pose:
        ray = target / jnp.sqrt(jnp.sum(target * target))
        skew = poses.hat(jnp.cross(sight, ray))
        swing = jnp.eye(3) + skew + skew @ skew / (1.0 + jnp.sum(sight * ray))
        rotation = swing @ poses.exp_rotation(roll * sight)
        return Pose(rotation, target - rotation @ middle)

    rolls = jnp.tile(jnp.asarray(ROLLS), PLACES)
    found: Pose = jax.vmap(one)(targets, rolls)
    return found


def _spread(view: DepthView) -> jax.Array:
    """Points of the view (PLACES, 3) that are seen, at even distances along Morton's curve."""
    height, width, _ = view.points.shape
    bits = 2 ** np.arange(16)
    rows, columns = (
        (grid.reshape(-1, 1) // bits % 2) @ (bits * bits) for grid in np.mgrid[:height, :width]
    )
    order = np.argsort(2 * rows + columns).astype(np.int32)
    seen = jnp.sum(jnp.square(view.normals), axis=2).reshape(-1)[order] > 0
    count = jnp.cumsum(seen.astype(jnp.float32))
    ranks = (np.arange(PLACES, dtype=np.float32) + 0.5) / PLACES * count[-1]
    found = jnp.minimum(jnp.searchsorted(count, ranks), len(order) - 1)
    return view.points.reshape(-1, 3)[jnp.asarray(order)[found]]


def _pairs(
    view: DepthView, keyframe: Keyframe, motion: Pose
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Moved points; normals and distances (mm) where they project; the cosine of both normals."""
    points = poses.apply(motion, keyframe.points)
    height, width, _ = view.points.shape
    row, column, inside = depth_pixels.find_pixels(points, view.camera, (height, width))
    normals = view.normals[row, column]
    apart = jnp.sum((view.points[row, column] - points) * normals, axis=1)
    facing = jnp.sum(poses.rotate(motion, keyframe.normals) * normals, axis=1)
    return points, normals, apart, jnp.where(inside, facing, 0.0)


def _descend(view: DepthView, keyframe: Keyframe, start: Pose, scales: np.ndarray) -> Pose:
    """The motion after a point-to-plane step at each scale."""
    seen = keyframe.weights > 0

    def body(motion: Pose, scale: jax.Array) -> tuple[Pose, None]:
        points, normals, apart, facing = _pairs(view, keyframe, motion)
        robust = kernels.welsch(jnp.square(apart), keyframe.weights, scale)
        weights = jnp.where(seen & (facing > MIN_FACING), robust, 0.0)
        total = jnp.maximum(jnp.sum(weights), 1e-6)
        centre = jnp.sum(weights[:, None] * points, axis=0) / total
        rows = jnp.concatenate(
            [jnp.cross((points - centre[None]) / LEVER, normals), normals], axis=1
        )
        weighted = weights[:, None] * rows
        matrix = jnp.matmul(weighted.T, rows, precision="highest") + PRIOR * jnp.eye(6)
        right = jnp.matmul(apart, weighted, precision="highest")
        twist = jnp.matmul(linear_algebra.inverse_6x6(matrix), right, precision="highest")
        turn = Pose(poses.exp_rotation(twist[:3] / LEVER), twist[3:])
        return poses.compose(poses.about(turn, centre), motion), None

    found: Pose = jax.lax.scan(body, start, jnp.asarray(scales))[0]
    return found


def _score(view: DepthView, keyframe: Keyframe, motion: Pose, scale: float) -> jax.Array:
    _, _, apart, facing = _pairs(view, keyframe, motion)
    robust = kernels.welsch(jnp.square(apart), keyframe.weights, scale)
    fit = robust * jnp.square(jnp.maximum(facing, 0.0))
    return jnp.sum(fit * keyframe.weights) / jnp.maximum(jnp.sum(keyframe.weights), 1e-6)
