"""A preoperative model straight from a CT label map: one closed surface a level, in mm (RAS)."""

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

from e2r.geometry import anatomical_frame

VERSE: dict[int, str] = {
    **{i: f"C{i}" for i in range(1, 8)},
    **{7 + i: f"T{i}" for i in range(1, 13)},
    **{19 + i: f"L{i}" for i in range(1, 7)},
    26: "S1",
    28: "T13",
}
"""VerSe's label numbers (Sekuboyina et al., Medical Image Analysis 2021); 26 is the sacrum."""
SMOOTH_MM = 0.6
"""Standard deviation of the Gaussian that takes the voxels' steps off a label."""
CRUMB = 200.0
"""mm^3: smaller pieces of a label are noise."""


def read_labels(path: Path, names: Mapping[int, str] | None = None) -> dict[str, trimesh.Trimesh]:
    """Reads a NIfTI label map as surfaces, head first.

    Args:
      path: ``.nii`` or ``.nii.gz``, whole numbers, three axes.
      names: label number -> level name; VerSe's numbers without it.

    Returns:
      level name -> closed surface in mm, in the file's own world axes (RAS by NIfTI's convention),
      its normals outwards.

    Raises:
      ValueError: no such label map, or nothing in it that ``names`` knows.
    """
    labels, affine = _read(path)
    names = VERSE if names is None else names
    boxes = find_objects(labels)
    found = {}
    for number, name in names.items():
        if 0 < number <= len(boxes) and boxes[number - 1] is not None:
            mesh = _surface(labels, number, boxes[number - 1], affine)
            if mesh is not None:
                found[name] = mesh
    if not found:
        there = ", ".join(str(i + 1) for i, box in enumerate(boxes) if box is not None) or "none"
        raise ValueError(
            f"{path}: none of the labels {sorted(names)} is there (but {there}); "
            "name the right ones with --labels and --levels"
        )
    return {name: found[name] for name in anatomical_frame.sort_levels(list(found))}


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels (X, Y, Z) int32, and the affine (4, 4) from voxels to mm."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a NIfTI label map (.nii or .nii.gz)")
    try:
        image: Any = nibabel.load(path)
        values = np.asanyarray(image.dataobj)
        affine = np.asarray(image.affine, np.float64)
        unit = image.header.get_xyzt_units()[0]
    except (
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
    ) as error:
        raise ValueError(
            f"{path}: cannot be read as NIfTI ({' '.join(str(error).split())[:120]}); "
            "export the label map again"
        ) from None
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise ValueError(f"{path}: has {values.ndim} axes; give one label map with three")
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise ValueError(f"{path}: holds values that are no numbers; give whole-number labels")
    labels = np.rint(values)
    if np.abs(labels - values).max(initial=0) > 1e-3 or not 0 <= labels.max(initial=0) < 2**15:
        raise ValueError(f"{path}: holds values that are no labels; give the label map, not the CT")
    if labels.min(initial=0) < 0:
        raise ValueError(f"{path}: holds negative values; give the label map, not the CT")
    if unit in ("meter", "micron"):
        raise ValueError(f"{path}: is in {unit}s; convert it to mm")
    size = abs(np.linalg.det(affine[:3, :3])) if np.isfinite(affine).all() else 0.0
    if not 1e-3 < size < 1e3:
        raise ValueError(
            f"{path}: its affine makes voxels of {size:.3g} mm^3; export it with its geometry in mm"
        )
    return labels.astype(np.int32), affine


def _surface(
    labels: np.ndarray, number: int, box: tuple[slice, ...], affine: np.ndarray
) -> trimesh.Trimesh | None:
    """The closed surface of a label in mm, or None where it is a crumb."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    margin = np.ceil(3.0 * SMOOTH_MM / spacing).astype(int) + 1
    low = np.array([s.start for s in box])
    inside = np.pad((labels[box] == number).astype(np.float32), [(m, m) for m in margin])
    if inside.sum() * np.prod(spacing) < CRUMB:
        return None
    smooth = gaussian_filter(inside, SMOOTH_MM / spacing)
    vertices, faces, _, _ = marching_cubes(smooth, 0.5)
    vertices = (vertices + low - margin) @ affine[:3, :3].T + affine[:3, 3]
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    parts = [part for part in mesh.split(only_watertight=True) if abs(part.volume) > CRUMB]
    if not parts:
        return None
    mesh = trimesh.util.concatenate(parts)
    if mesh.volume < 0:  # marching cubes winds by the axes, and the affine may mirror them
        mesh.invert()
    return mesh


def write(meshes: Mapping[str, trimesh.Trimesh], folder: Path) -> list[Path]:
    """Writes one binary STL a level into a folder, as ``model/`` of a case wants them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, mesh in meshes.items():
        path = folder / f"{name}.stl"
        mesh.export(path)
        paths.append(path)
    return paths
