"""Three ellipsoids for levels, and the exact depth image of them: a scene made in a moment."""

from __future__ import annotations

import jax
import numpy as np
import trimesh

from e2r.formats.scenes import RgbdImage
from e2r.geometry import poses
from e2r.geometry.depth_pixels import Pinhole
from e2r.types import Pose

WIDTH, HEIGHT, FOCAL = 160, 120, 200.0
CENTRES = np.array([[-42.0, 3.0, 0.0], [0.0, -4.0, 2.0], [43.0, 2.0, -3.0]])
RADII = np.array([[22.0, 15.0, 12.0], [14.0, 23.0, 13.0], [20.0, 18.0, 10.0]])
LEVELS = ("L1", "L2", "L3")
PLANE_MM = 420.0
"""Depth of the plane behind the ellipsoids."""


def model() -> dict[str, trimesh.Trimesh]:
    """The levels, mm, model frame."""
    ball = trimesh.creation.icosphere(subdivisions=4)
    return {
        name: trimesh.Trimesh(ball.vertices * radii + centre, ball.faces, process=False)
        for name, centre, radii in zip(LEVELS, CENTRES, RADII, strict=True)
    }


def camera() -> Pinhole:
    return Pinhole(*np.float32([FOCAL, FOCAL, 0.5 * (WIDTH - 1), 0.5 * (HEIGHT - 1)]))


def level_poses(
    turn=(0.0, 0.0, 0.0), shift=(0.0, 0.0, 0.0), bend: float = 0.0, lift: float = 0.0
) -> Pose:
    """Pose of each level, 400 mm before the camera.

    ``bend`` turns the last one about the middle one (rad), ``lift`` moves it towards the camera.
    """
    base = Pose(
        np.asarray(poses.exp_rotation(np.float32(turn))),
        np.float32([0.0, 0.0, 400.0]) + np.float32(shift),
    )
    own = poses.about(
        Pose(poses.exp_rotation(np.float32([0.0, bend, 0.0])), np.float32([0.0, 0.0, -lift])),
        CENTRES[1].astype(np.float32),
    )
    each = [base, base, poses.compose(base, own)]
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *each)


def depth_image(
    pose: Pose, *, noise: float = 0.0, seed: int = 0, moving_plane: bool = False
) -> np.ndarray:
    """Depth of the levels before a plane, mm; a moving plane follows the first level."""
    v, u = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    rays = np.stack(
        [(u - 0.5 * (WIDTH - 1)) / FOCAL, (v - 0.5 * (HEIGHT - 1)) / FOCAL, np.ones_like(u)], -1
    )
    depth = np.full((HEIGHT, WIDTH), PLANE_MM)
    if moving_plane:
        normal = np.asarray(pose.rotation[0], float)[:, 2]
        depth = normal @ (pose.translation[0] + (PLANE_MM - 400.0) * normal) / (rays @ normal)
    for i in range(3):
        rotation, translation = (np.asarray(leaf[i], float) for leaf in pose)
        start = (-translation @ rotation - CENTRES[i]) / RADII[i]
        way = rays @ rotation / RADII[i]
        a, b = (way * way).sum(-1), way @ start
        square = b * b - a * (start @ start - 1.0)
        hit = square > 0
        found = np.where(hit, (-b - np.sqrt(np.where(hit, square, 1.0))) / a, np.inf)
        depth = np.minimum(depth, found)
    depth += noise * np.random.default_rng(seed).normal(size=depth.shape)
    return depth.astype(np.float32)


def image(depth: np.ndarray) -> RgbdImage:
    """An image of a depth, with one colour."""
    color = np.full((*depth.shape, 3), 200, np.uint8)
    view = camera()
    return RgbdImage(color, depth, *(float(value) for value in view))


def apart(a: Pose, b: Pose) -> np.ndarray:
    """Mean distance of each level's surface between two poses, mm."""
    found = []
    for i, mesh in enumerate(model().values()):
        one, other = (jax.tree.map(lambda leaf, i=i: leaf[i], pose) for pose in (a, b))
        gap = poses.apply_host(one, mesh.vertices) - poses.apply_host(other, mesh.vertices)
        found.append(np.linalg.norm(gap, axis=1).mean())
    return np.array(found)
