"""A preoperative model from a CT label map: one closed surface a level, in mm (RAS)."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import trimesh
from nibabel.filebasedimages import ImageFileError
from scipy.ndimage import find_objects, gaussian_filter
from skimage.measure import marching_cubes

from e2r.formats import file_checks
from e2r.formats.file_checks import PathLike
from e2r.geometry import anatomical_frame
from e2r.types import Float, Int

VERSE: dict[int, str] = {
    **{i: f"C{i}" for i in range(1, 8)},
    **{7 + i: f"T{i}" for i in range(1, 13)},
    **{19 + i: f"L{i}" for i in range(1, 7)},
    26: "S1",
    28: "T13",
}
"""VerSe's label numbers (Sekuboyina et al., Medical Image Analysis 2021); 26 is the sacrum."""
SMOOTHING_MM = 0.6
"""Standard deviation of the Gaussian that smooths the voxel steps of a label."""
MIN_VOLUME_MM3 = 200.0
"""Smaller pieces of a label are noise."""
NIFTI_ERRORS = (
    ImageFileError,
    OSError,
    EOFError,
    ValueError,
    AttributeError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    zlib.error,
)
"""What nibabel raises for a broken file."""


def read_labels(
    path: PathLike, names: Mapping[int, str] | None = None
) -> dict[str, trimesh.Trimesh]:
    """Reads a NIfTI label map as surfaces.

    Args:
      path: ``.nii`` or ``.nii.gz``, whole numbers, three axes.
      names: label number -> level; VerSe's numbers by default.

    Returns:
      level -> closed surface with outward normals, sorted from head to foot. Coordinates are mm in
      the file's world axes (RAS by NIfTI's convention).

    Raises:
      ValueError: the file is no label map, or has none of the labels.
    """
    path = Path(path)
    labels, affine = _read_voxels(path)
    names = VERSE if names is None else names
    boxes = find_objects(labels)
    found = {}
    for number, name in names.items():
        if 0 < number <= len(boxes) and boxes[number - 1] is not None:
            mesh = _extract_surface(labels, number, boxes[number - 1], affine=affine)
            if mesh is not None:
                found[name] = mesh
    if not found:
        there = ", ".join(str(i + 1) for i, box in enumerate(boxes) if box is not None) or "none"
        raise ValueError(
            f"{path}: has none of the labels {sorted(names)} (but {there}); "
            "name the right ones with --labels and --levels"
        )
    return {name: found[name] for name in anatomical_frame.sort_levels(list(found))}


def _read_voxels(path: Path) -> tuple[Int[np.ndarray, "x y z"], Float[np.ndarray, "4 4"]]:
    """Labels (int32), and the affine from voxels to mm."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a NIfTI label map (.nii or .nii.gz)")
    try:
        image: Any = nibabel.load(path)
        values = np.asanyarray(image.dataobj)
        affine = np.asarray(image.affine, np.float64)
        unit = image.header.get_xyzt_units()[0]
    except NIFTI_ERRORS as error:
        raise ValueError(
            f"{path}: cannot be read as NIfTI ({file_checks.one_line(error, 120)}); "
            "export the label map again"
        ) from None
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise ValueError(f"{path}: has {values.ndim} axes; give one label map with three")
    if unit in ("meter", "micron"):
        raise ValueError(f"{path}: is in {unit}s; convert it to mm")
    voxel = abs(np.linalg.det(affine[:3, :3])) if np.isfinite(affine).all() else 0.0
    if not 1e-3 < voxel < 1e3:
        raise ValueError(
            f"{path}: its affine makes voxels of {voxel:.3g} mm^3; export it with its geometry in "
            "mm"
        )
    return _whole_numbers(values, path), affine


def _whole_numbers(values: np.ndarray, path: Path) -> np.ndarray:
    """Voxel values as labels (int32)."""
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise ValueError(f"{path}: holds values that are no numbers; give whole-number labels")
    labels = np.rint(values)
    if np.abs(labels - values).max(initial=0) > 1e-3 or not 0 <= labels.max(initial=0) < 2**15:
        raise ValueError(f"{path}: holds values that are no labels; give the label map, not the CT")
    if labels.min(initial=0) < 0:
        raise ValueError(f"{path}: holds negative values; give the label map, not the CT")
    return labels.astype(np.int32)


def _extract_surface(
    labels: np.ndarray, number: int, box: tuple[slice, ...], *, affine: np.ndarray
) -> trimesh.Trimesh | None:
    """The closed surface of a label in mm; None if the label is noise."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    margin = np.ceil(3.0 * SMOOTHING_MM / spacing).astype(int) + 1
    corner = np.array([axis.start for axis in box])
    inside = np.pad((labels[box] == number).astype(np.float32), [(m, m) for m in margin])
    if inside.sum() * np.prod(spacing) < MIN_VOLUME_MM3:
        return None
    smooth = gaussian_filter(inside, SMOOTHING_MM / spacing)
    vertices, faces, _, _ = marching_cubes(smooth, 0.5)
    vertices = (vertices + corner - margin) @ affine[:3, :3].T + affine[:3, 3]
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    pieces = [
        piece for piece in mesh.split(only_watertight=True) if abs(piece.volume) > MIN_VOLUME_MM3
    ]
    if not pieces:
        return None
    mesh = trimesh.util.concatenate(pieces)
    if mesh.volume < 0:  # the affine may mirror the axes that marching cubes winds triangles by
        mesh.invert()
    return mesh
