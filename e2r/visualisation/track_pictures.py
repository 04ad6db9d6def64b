"""Pictures of a track: the colour of a frame with the surfaces where the tracker has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageColor, ImageDraw, ImageFont
from scipy import ndimage

from e2r.datasets.recordings import RecordedFrame
from e2r.formats.scenes import RgbdImage
from e2r.geometry import poses
from e2r.geometry.poses import apply_host
from e2r.types import Int, Pose
from e2r.visualisation.colors import line_color
from e2r.visualisation.figures import Surfaces, simplify_mesh

TrackLine: TypeAlias = Mapping[str, Any]
"""A line of ``poses.jsonl``."""
MAX_FACES = 1500
"""Triangles of each level's surface in a picture."""
OPACITY = 0.45
NOT_ACCEPTED_RGB = (150, 150, 150)
"""Grey of surfaces that are followed, but not accepted."""
NEAREST_MM = 1.0
"""Nothing nearer to the camera is drawn."""


class ShownFrame(NamedTuple):
    """A frame that a viewer shows."""

    image: RgbdImage | None  # None where the frame cannot be read
    line: TrackLine  # of the track
    truth: Mapping[str, Pose]  # level -> true pose; empty if it is unknown


def coarse_surfaces(surfaces: Surfaces) -> Surfaces:
    """Surfaces that are quick to draw.

    Args:
      surfaces: level -> surface, mm, model frame.
    """
    return {name: simplify_mesh(mesh, MAX_FACES) for name, mesh in surfaces.items()}


def is_accepted(line: TrackLine, level: str) -> bool:
    """Whether the pose of a level may be used.

    Args:
      line: of the track.
      level: its name.
    """
    return bool(line.get("levels", {}).get(level, {}).get("accepted", False))


def line_poses(line: TrackLine) -> dict[str, Pose]:
    """The poses of a track's line, camera from model; empty where the levels are not followed.

    Args:
      line: of the track.
    """
    return {
        name: poses.from_matrix(level["T_camera_model"], name)
        for name, level in line.get("levels", {}).items()
    }


def draw_track(
    image: RgbdImage, line: TrackLine, surfaces: Surfaces, *, width: int
) -> UInt8[np.ndarray, "_ _ 3"]:
    """Draws the followed surfaces over the colour: in their colours if accepted, or else grey.

    Args:
      image: the frame.
      line: of the track.
      surfaces: level -> surface, mm, model frame.
      width: of the picture, pixels, at most.
    """
    shown = shrink(image, width)
    placed = {
        name: apply_host(pose, surfaces[name].vertices) for name, pose in line_poses(line).items()
    }
    level, light = shade_surfaces(shown, placed, surfaces)
    colors = [
        ImageColor.getrgb(line_color(i)) if is_accepted(line, name) else NOT_ACCEPTED_RGB
        for i, name in enumerate(surfaces)
    ]
    palette = np.array([(0, 0, 0), *colors], np.float64)
    inside = (level > 0)[..., None]
    edge = (level != ndimage.minimum_filter(level, 3)) & (level > 0)
    mixed = np.where(
        inside,
        (1 - OPACITY) * shown.color + OPACITY * palette[level] * light[..., None],
        shown.color,
    )
    mixed = np.where(edge[..., None], palette[level], mixed)
    picture = Image.fromarray(mixed.round().astype(np.uint8))
    words = line["state"]
    if words == "tracking" and not line["accepted"]:
        words += ", not accepted"
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(11, picture.width // 28))
    text = f"{line['seconds']:.1f} s  {words}"
    draw.text((8, 5), text, fill=(255, 255, 255), font=font, stroke_width=2, stroke_fill=(0, 0, 0))
    return np.asarray(picture)


def shrink(image: RgbdImage, width: int) -> RgbdImage:
    """The image with fewer pixels, unless it is small enough; the depth is left out.

    Args:
      image: of any size.
      width: pixels, at most.
    """
    height, full = image.color.shape[:2]
    scale = min(1.0, width / full)
    size = (round(full * scale), round(height * scale))
    color = np.asarray(Image.fromarray(image.color).resize(size, Image.Resampling.BOX))
    across, down = size[0] / full, size[1] / height
    return RgbdImage(
        color,
        np.zeros(color.shape[:2], np.float32),
        image.fx * across,
        image.fy * down,
        (image.cx + 0.5) * across - 0.5,
        (image.cy + 0.5) * down - 0.5,
    )


def shade_surfaces(
    image: RgbdImage, placed: Mapping[str, np.ndarray], surfaces: Surfaces
) -> tuple[Int[np.ndarray, "h w"], np.ndarray]:
    """Draws surfaces as the camera sees them, from the farthest triangle to the nearest.

    Args:
      image: its camera.
      placed: level -> vertices, mm, camera frame.
      surfaces: level -> surface, which has the triangles; their order numbers the levels.

    Returns:
      The number of the level that each pixel shows, from 1, or 0; and its light, 0 to 1.
    """
    corners, tags = [], []
    for i, name in enumerate(surfaces):
        if name not in placed:
            continue
        triangles = placed[name][np.asarray(surfaces[name].faces)]
        normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        middle = triangles.mean(1)
        length = np.linalg.norm(normals, axis=1) * np.linalg.norm(middle, axis=1)
        facing = -(normals * middle).sum(1) / np.maximum(length, 1e-9)
        kept = (facing > 0) & (triangles[..., 2].min(1) > NEAREST_MM)
        corners.append(triangles[kept])
        light = np.round(255 * (0.4 + 0.6 * facing[kept])).astype(int)
        tags.append(np.column_stack([np.full(len(light), i + 1), light]))
    canvas = Image.new("RGB", image.color.shape[1::-1])
    if corners:
        all_corners, all_tags = np.concatenate(corners), np.concatenate(tags)
        order = np.argsort(-all_corners[..., 2].mean(1))
        z = all_corners[..., 2]
        pixels = np.stack(
            [
                all_corners[..., 0] / z * image.fx + image.cx,
                all_corners[..., 1] / z * image.fy + image.cy,
            ],
            -1,
        )
        draw = ImageDraw.Draw(canvas)
        for corner, (level, light) in zip(
            pixels[order].reshape(-1, 6).tolist(), all_tags[order].tolist(), strict=True
        ):
            draw.polygon(corner, fill=(level, light, 0))
    drawn = np.asarray(canvas)
    return drawn[..., 0].astype(int), drawn[..., 1] / 255.0


def draw_frames(
    frames: Iterable[RecordedFrame],
    lines: Mapping[int, TrackLine],
    surfaces: Surfaces,
    *,
    width: int,
) -> Iterator[tuple[int, UInt8[np.ndarray, "_ _ 3"]]]:
    """Number and picture of frames, one after the other; those that cannot be read are left out.

    Args:
      frames: of the recording.
      lines: number of a frame -> its line.
      surfaces: level -> surface, mm, model frame.
      width: of the pictures, pixels, at most.
    """
    for frame in frames:
        if frame.image is not None:
            line = lines[frame.number]
            yield frame.number, draw_track(frame.image, line, surfaces, width=width)


def readable(lines: Iterable[TrackLine]) -> list[TrackLine]:
    """The lines of frames that could be read.

    Args:
      lines: of the track.
    """
    return [line for line in lines if "error" not in line]
