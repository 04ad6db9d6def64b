"""A registration in motion: images of its steps, and a file that shows one after the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh
from PIL import Image, ImageDraw

from e2r.types import Array, Pose
from e2r.visualisation.figures import PALETTE, RED, Surfaces, place_points

SAMPLES = 20000
"""Dots that a surface is drawn with."""


def frames(
    points: Array,
    colours: Array,
    surfaces: Surfaces,
    trajectory: Pose,
    *,
    weights: Array | None = None,
    size: int = 320,
) -> np.ndarray:
    """How a model moves into a cloud: (K, size, 2 * size, 3) uint8, from the camera and aside.

    Points are drawn by a parallel projection around where the model ends, the nearest on top.

    Args:
      points: (N, 3) mm, camera frame.
      colours: (N, 3) in [0, 1].
      surfaces: level name -> surface, mm, model frame.
      trajectory: camera from model, leading axis K.
      weights: (N,) in [0, 1]; the mask is tinted red.
      size: pixels.
    """
    seen = np.isfinite(np.asarray(points)).all(axis=1)
    cloud = np.asarray(points, np.float64)[seen]
    paint = 255.0 * np.asarray(colours, np.float64)[seen]
    if weights is not None:
        alpha = 0.7 * np.asarray(weights, np.float64)[seen, None]
        paint = (1.0 - alpha) * paint + alpha * RED
    sampled = [
        trimesh.sample.sample_surface(mesh, SAMPLES, seed=0)[:2] for mesh in surfaces.values()
    ]
    corners = np.concatenate([places for places, _ in sampled])
    pairs = zip(surfaces.values(), sampled, strict=True)
    outward = np.concatenate([mesh.face_normals[faces] for mesh, (_, faces) in pairs])
    bone = np.repeat(
        [_rgb(PALETTE[i % len(PALETTE)]) for i in range(len(sampled))], SAMPLES, axis=0
    )
    steps = [Pose(r, t) for r, t in zip(*map(np.asarray, trajectory), strict=True)]
    end = place_points(steps[-1], corners)
    centre = (end.max(0) + end.min(0)) / 2.0
    scale = 0.4 * size / float(np.linalg.norm(end - centre, axis=1).max())
    aside = np.deg2rad(65.0)
    turn = np.array(
        [[np.cos(aside), 0, -np.sin(aside)], [0, 1, 0], [np.sin(aside), 0, np.cos(aside)]]
    )
    sheets = []
    for k, pose in enumerate(steps):
        placed, normals = place_points(pose, corners), outward @ np.asarray(pose.rotation).T
        halves = []
        for view in (np.eye(3), turn):
            facing = -(normals @ view.T)[:, 2]
            near = facing > 0.1
            shade = bone[near] * (0.35 + 0.65 * facing[near, None])
            where = (np.concatenate([cloud, placed[near]]) - centre) @ view.T
            halves.append(_splat(where * scale, np.concatenate([paint, shade]), size))
        image = Image.fromarray(np.concatenate(halves, axis=1))
        ImageDraw.Draw(image).text((8, 6), f"step {k} of {len(steps) - 1}", fill=(255, 255, 255))
        sheets.append(np.asarray(image))
    return np.stack(sheets)


def write(path: Path, images: np.ndarray, *, seconds: float = 0.12, hold: float = 1.5) -> None:
    """Writes images (K, H, W, 3) uint8, such as :func:`frames`, as a GIF or WebP that repeats.

    Args:
      path: its suffix, .gif or .webp, says which.
      images: first to last.
      seconds: each is shown.
      hold: seconds that the last one is shown.

    Raises:
      ValueError: another suffix, or no image.
    """
    if path.suffix.lower() not in (".gif", ".webp") or not len(images):
        raise ValueError(f"{path}: give images, and a file name that ends in .gif or .webp")
    shown = [Image.fromarray(image) for image in images]
    lasts = [round(1000 * seconds)] * (len(shown) - 1) + [round(1000 * hold)]
    path.parent.mkdir(parents=True, exist_ok=True)
    shown[0].save(path, save_all=True, append_images=shown[1:], duration=lasts, loop=0)


def _splat(points: np.ndarray, colours: np.ndarray, size: int) -> np.ndarray:
    """Draws points (N, 3), in pixels around the middle, as dots; the nearest on top."""
    canvas = np.full((size, size, 3), 18, np.uint8)
    order = np.argsort(-points[:, 2], kind="stable")
    columns, rows = (np.round(points[order, :2]) + size // 2).astype(int).T
    paint = np.clip(colours[order], 0, 255).astype(np.uint8)
    dots = [(columns + du, rows + dv, paint) for du in (0, 1) for dv in (0, 1)]
    # Dot by dot, not pixel by pixel: else a far dot's corner would hide a near dot.
    u, v, tint = (
        np.stack(part, 1).reshape(-1, *part[0].shape[1:]) for part in zip(*dots, strict=True)
    )
    inside = (u >= 0) & (u < size) & (v >= 0) & (v < size)
    canvas[v[inside], u[inside]] = tint[inside]  # of several, the last stays
    return canvas


def _rgb(color: str) -> list[int]:
    return [int(color[k : k + 2], 16) for k in (1, 3, 5)]
