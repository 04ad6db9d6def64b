"""The closed surface of a label: without islands, smoothed, in mm."""

from __future__ import annotations

import numpy as np
import trimesh
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from e2r.formats import notices
from e2r.formats.file_checks import PathLike
from e2r.formats.voxels import LabelVolume

SMOOTHING_MM = 0.6
"""Standard deviation of the Gaussian that smooths the voxel steps of a label."""
MIN_VOLUME_MM3 = 200.0
"""Smaller pieces of a label are noise."""
NEAR_MM = 3.0
"""A piece at most this far from its vertebra belongs to it: a gap in a thin arch."""
SECOND_BODY = 0.25
"""A far piece with this share of the vertebra's volume is another vertebra."""
CAP_MM2 = 100.0
"""A flat cap of at least this area at the scan's edge is said."""


def extract(volume: LabelVolume, number: int, *, level: str, path: PathLike) -> trimesh.Trimesh:
    """The surface of a label.

    Args:
      volume: holds the label.
      number: the label.
      level: its name, for messages.
      path: the file, for messages.

    Returns:
      Closed, with outward normals, RAS mm.

    Raises:
      ValueError: two large bodies far from each other, or only pieces of less than 200 mm^3.
    """
    spacing = np.linalg.norm(volume.affine[:3, :3], axis=0)
    (box,) = ndimage.find_objects((volume.labels == number).astype(np.uint8))
    corner = np.array([axis.start for axis in box])
    mask = _without_islands(volume, number, box, level=level, path=path)
    _say_caps(mask, corner, volume, level=level, path=path)
    margin = np.ceil(3.0 * SMOOTHING_MM / spacing).astype(int) + 1
    inside = np.pad(mask.astype(np.float32), [(m, m) for m in margin])
    smooth = ndimage.gaussian_filter(inside, SMOOTHING_MM / spacing)
    smooth[smooth == 0.5] += 1e-4  # a vertex on a voxel would be there several times
    vertices, faces, _, _ = marching_cubes(smooth, 0.5)
    vertices = (vertices + corner - margin) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    pieces = [
        piece for piece in mesh.split(only_watertight=True) if abs(piece.volume) > MIN_VOLUME_MM3
    ]
    if not pieces:
        raise ValueError(f"{path}: {level} has no piece of {MIN_VOLUME_MM3:.0f} mm3; leave it out")
    mesh = trimesh.util.concatenate(pieces)
    if mesh.volume < 0:  # the affine may mirror the axes that marching cubes winds triangles by
        mesh.invert()
    return mesh


def _without_islands(
    volume: LabelVolume, number: int, box: tuple[slice, ...], *, level: str, path: PathLike
) -> np.ndarray:
    """The voxels of a label in its box, without pieces far from the largest one."""
    mask = volume.labels[box] == number
    pieces, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if count < 2:
        return mask
    voxel = abs(np.linalg.det(volume.affine[:3, :3]))
    sizes = np.bincount(pieces.ravel())[1:] * voxel
    largest = int(sizes.argmax()) + 1
    tree = cKDTree(np.argwhere(pieces == largest) @ volume.affine[:3, :3].T)
    far, near, distance = [], [], 0.0
    for piece in range(1, count + 1):
        if piece == largest:
            continue
        points = np.argwhere(pieces == piece) @ volume.affine[:3, :3].T
        apart = float(tree.query(points)[0].min())
        if apart <= NEAR_MM:
            near += [piece] if sizes[piece - 1] > MIN_VOLUME_MM3 else []
            continue
        if sizes[piece - 1] > SECOND_BODY * sizes[largest - 1]:
            raise ValueError(
                f"{path}: {level} (label {number}) is two bodies of "
                f"{sizes[largest - 1] / 1000:.3g} and {sizes[piece - 1] / 1000:.3g} cm3, "
                f"{apart:.0f} mm apart; correct the label"
            )
        far.append(piece)
        distance = max(distance, apart)
    for some, what in ((far, f"up to {distance:.0f} mm from it, left out"), (near, "kept")):
        if some:
            total = sizes[np.array(some) - 1].sum()
            notices.say(path, f"{level} has islands: {len(some)} of {total:.0f} mm3 in all, {what}")
    return mask & ~np.isin(pieces, far)


def _say_caps(
    mask: np.ndarray, corner: np.ndarray, volume: LabelVolume, *, level: str, path: PathLike
) -> None:
    """Says where a level reaches the edge of the volume with a face, which becomes a flat cap."""
    steps = volume.affine[:3, :3]
    for axis in range(3):
        first, second = (steps[:, other] for other in range(3) if other != axis)
        pixel = float(np.linalg.norm(np.cross(first, second)))
        for side, place in ((0, corner[axis]), (-1, corner[axis] + mask.shape[axis] - 1)):
            at_edge = place == (0 if side == 0 else volume.labels.shape[axis] - 1)
            area = float(mask.take(side, axis).sum()) * pixel
            if at_edge and area >= CAP_MM2:
                notices.say(
                    path,
                    f"{level} reaches the edge of the volume with {area:.0f} mm2; if the scan ends "
                    "there, its surface has a flat cap",
                )
