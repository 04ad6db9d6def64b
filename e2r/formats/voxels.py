"""Label volumes: whole numbers on a grid, with the grid's place in the patient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from e2r.formats.file_checks import PathLike
from e2r.types import Float, Int

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From DICOM's and ITK's axes (left, posterior, superior) to NIfTI's (right, anterior)."""
MAX_LABEL = 2**15 - 1
"""Larger values are no labels."""


class LabelVolume(NamedTuple):
    """Labels on a grid.

    Attributes:
      labels: one number a voxel; 0 is no structure.
      affine: voxel index to mm in the patient's axes: right, anterior, superior (RAS).
      names: label -> name, as the file itself gives it; empty if it gives none.
      codes: label -> level, as the file's coded concepts say.
      oriented: whether the file says how its axes lie in the patient.
    """

    labels: Int[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]
    names: Mapping[int, str]
    codes: Mapping[int, str]
    oriented: bool = True


def whole_numbers(values: np.ndarray, path: PathLike) -> Int[np.ndarray, "x y z"]:
    """Voxel values as labels.

    Args:
      values: three axes, after trailing axes of length one are dropped.
      path: their file, for the message.

    Raises:
      ValueError: other axes, or values that are no labels.
    """
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise ValueError(f"{path}: has {values.ndim} axes; give one label map with three")
    if values.dtype.kind not in "iufb" or (
        values.dtype.kind == "f" and not np.isfinite(values).all()
    ):
        raise ValueError(f"{path}: holds values that are no numbers; give whole-number labels")
    labels = np.rint(values) if values.dtype.kind == "f" else values
    if values.dtype.kind == "f" and np.abs(labels - values).max(initial=0) > 1e-3:
        raise ValueError(f"{path}: holds values that are no labels; give the label map, not the CT")
    if labels.min(initial=0) < 0:
        raise ValueError(f"{path}: holds negative values; give the label map, not the CT")
    if labels.max(initial=0) > MAX_LABEL:
        raise ValueError(f"{path}: holds values that are no labels; give the label map, not the CT")
    return labels.astype(np.int32)


def check_affine(affine: Float[np.ndarray, "4 4"], path: PathLike) -> Float[np.ndarray, "4 4"]:
    """Returns an affine, or refuses one whose voxels no scanner makes.

    Args:
      affine: voxel index to mm.
      path: its file, for the message.

    Raises:
      ValueError: not finite, flat, or voxels outside 0.001 to 1000 mm^3.
    """
    voxel = abs(np.linalg.det(affine[:3, :3])) if np.isfinite(affine).all() else 0.0
    if not 1e-3 < voxel < 1e3:
        raise ValueError(
            f"{path}: its affine makes voxels of {voxel:.3g} mm^3; export it with its geometry in "
            "mm"
        )
    return affine
