"""The registration animation: the model moves into the cloud, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import trimesh
from jaxtyping import UInt8
from PIL import Image, ImageColor, ImageDraw

from e2r.geometry.poses import apply_host
from e2r.types import Array, Float, Pose
from e2r.visualisation.colors import MASK_RGB, level_color
from e2r.visualisation.figures import Surfaces
from e2r.visualisation.snapshots import Snapshot

SURFACE_DOTS = 20000
"""Dots with which each level's surface is drawn."""
SIDE_VIEW_DEG = 65.0
"""Rotation of the side view about the camera's y axis."""


def registration_animation(
    snapshot: Snapshot,
    path: Path,
    *,
    size: int = 320,
    seconds_per_step: float = 0.12,
    last_seconds: float = 1.5,
) -> None:
    """Writes the steps of a registration as an animated GIF or WebP that repeats.

    Args:
      snapshot: the registered case.
      path: the file; its suffix, .gif or .webp, sets the format.
      size: height in pixels; the width is twice as large.
      seconds_per_step: time that each step is shown.
      last_seconds: time that the last step is shown.

    Raises:
      ValueError: the file name has another suffix.
    """
    if path.suffix.lower() not in (".gif", ".webp"):
        raise ValueError(f"{path}: give a file name that ends in .gif or .webp")
    steps = registration_images(
        snapshot.points,
        snapshot.colors,
        snapshot.weights,
        surfaces=snapshot.surfaces,
        trajectory=snapshot.trajectory,
        size=size,
    )
    first, *others = [Image.fromarray(step) for step in steps]
    milliseconds = [round(1000 * seconds_per_step)] * len(others) + [round(1000 * last_seconds)]
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0)


def registration_images(
    points: Float[Array, "n 3"],
    colors: Float[Array, "n 3"],
    weights: Float[Array, "n"],
    *,
    surfaces: Surfaces,
    trajectory: Pose,
    size: int = 320,
) -> UInt8[np.ndarray, "k height width 3"]:
    """Draws each step twice by parallel projection: seen from the camera, and from the side.

    Args:
      points: scene points, mm, camera frame; rows that are not finite are left out.
      colors: of the points, 0 to 1.
      weights: mask weights, 0 to 1; masked points are tinted red.
      surfaces: level -> surface, mm, model frame.
      trajectory: camera from model, leading axis K.
      size: height and width in pixels of each of the two views, which lie side by side.
    """
    finite = np.isfinite(np.asarray(points)).all(axis=1)
    cloud = np.asarray(points, np.float64)[finite]
    alpha = 0.7 * np.asarray(weights, np.float64)[finite, None]
    cloud_rgb = (1.0 - alpha) * 255.0 * np.asarray(colors, np.float64)[finite]
    cloud_rgb += alpha * np.asarray(MASK_RGB, np.float64)
    dots, normals, bone_rgb = _surface_dots(surfaces)
    poses = [Pose(r, t) for r, t in zip(*map(np.asarray, trajectory), strict=True)]
    last = apply_host(poses[-1], dots)
    centre = (last.max(0) + last.min(0)) / 2.0
    pixels_per_mm = 0.4 * size / float(np.linalg.norm(last - centre, axis=1).max())
    images = []
    for k, pose in enumerate(poses):
        placed, placed_normals = apply_host(pose, dots), normals @ np.asarray(pose.rotation).T
        views = []
        for view in (np.eye(3), _side_view()):
            facing = -(placed_normals @ view.T)[:, 2]
            front = facing > 0.1
            shaded = bone_rgb[front] * (0.35 + 0.65 * facing[front, None])
            seen = (np.concatenate([cloud, placed[front]]) - centre) @ view.T
            views.append(
                _draw_dots(seen * pixels_per_mm, np.concatenate([cloud_rgb, shaded]), size)
            )
        image = Image.fromarray(np.concatenate(views, axis=1))
        ImageDraw.Draw(image).text((8, 6), f"step {k} of {len(poses) - 1}", fill=(255, 255, 255))
        images.append(np.asarray(image))
    return np.stack(images)


def _surface_dots(surfaces: Surfaces) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dots on all surfaces, their outward normals and their colours (0 to 255), each (D, 3)."""
    dots: list[np.ndarray] = []
    normals: list[np.ndarray] = []
    colors: list[Sequence[int]] = []
    for i, mesh in enumerate(surfaces.values()):
        sampled, faces = trimesh.sample.sample_surface(mesh, SURFACE_DOTS, seed=0)[:2]
        dots.append(sampled)
        normals.append(mesh.face_normals[faces])
        colors.append(ImageColor.getrgb(level_color(i)))
    return np.concatenate(dots), np.concatenate(normals), np.repeat(colors, SURFACE_DOTS, axis=0)


def _side_view() -> np.ndarray:
    angle = np.deg2rad(SIDE_VIEW_DEG)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])


def _draw_dots(points: np.ndarray, colors: np.ndarray, size: int) -> np.ndarray:
    """Draws points (N, 3), in pixels from the image's centre, as dots; the nearest on top."""
    canvas = np.full((size, size, 3), 18, np.uint8)
    order = np.argsort(-points[:, 2], kind="stable")
    columns, rows = (np.round(points[order, :2]) + size // 2).astype(int).T
    rgb = np.clip(colors[order], 0, 255).astype(np.uint8)
    # The four pixels of a dot stay together: otherwise a far dot could hide a near one.
    u = np.stack([columns, columns, columns + 1, columns + 1], axis=1).ravel()
    v = np.stack([rows, rows + 1, rows, rows + 1], axis=1).ravel()
    rgb = np.repeat(rgb, 4, axis=0)
    inside = (u >= 0) & (u < size) & (v >= 0) & (v < size)
    canvas[v[inside], u[inside]] = rgb[inside]  # of several colours of a pixel, the last stays
    return canvas
