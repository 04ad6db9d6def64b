"""Made-up label maps of spines: boxes with a spinous process, in several file formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np

LUMBAR = ("L1", "L2", "L3", "L4", "L5")
BODY_MM = {"C": (22.0, 16.0, 14.0), "T": (30.0, 26.0, 20.0), "L": (46.0, 34.0, 28.0)}
"""Sizes of the boxes: about 6, 17 and 49 cm^3 with their processes."""
STEP_MM = {"C": 18.0, "T": 24.0, "L": 34.0, "S": 46.0}
VOXEL_MM = 2.0
ORIGIN = np.array([-60.0, -40.0, 300.0])
"""Centre of the first voxel of an upright map, RAS mm."""


def stack(
    numbers: Mapping[str, int], *, margin: int = 4, extra: Sequence[tuple] = ()
) -> np.ndarray:
    """Labels (x, y, z) in RAS of a spine: levels from head to foot, level -> number.

    ``extra`` holds boxes (number, low, high) in voxels, such as organs.
    """
    names = list(numbers)
    steps = [STEP_MM[name[0]] for name in names]
    height = int(sum(steps) / VOXEL_MM) + 2 * margin + 16
    labels = np.zeros((60, 50, height), np.uint8)
    top = height - margin - 10.0
    for name, step in zip(names, steps, strict=True):
        size = np.array(BODY_MM.get(name[0], (100.0, 50.0, 44.0))) / VOXEL_MM
        centre = np.array([30.0, 32.0, top])
        low, high = np.round(centre - size / 2).astype(int), np.round(centre + size / 2).astype(int)
        labels[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = numbers[name]
        labels[28:32, max(low[1] - 10, 1) : low[1], low[2] : low[2] + 5] = numbers[name]
        top -= step / VOXEL_MM
    for number, low, high in extra:
        labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = number
    return labels


def affine_of(linear: np.ndarray | None = None, origin: np.ndarray = ORIGIN) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = VOXEL_MM * np.eye(3) if linear is None else linear
    affine[:3, 3] = origin
    return affine


def write_nifti(
    path: Path,
    labels: np.ndarray,
    *,
    affine: np.ndarray | None = None,
    names: Mapping | None = None,
) -> Path:
    """A NIfTI label map; ``names`` become an XML label table as TotalSegmentator writes it."""
    image = nibabel.Nifti1Image(labels, affine_of() if affine is None else affine)
    if names is not None:
        rows = "\n".join(
            f'<Label Key="{key}" Red="1" Green="0" Blue="0" Alpha="1"><![CDATA[{name}]]></Label>'
            for key, name in names.items()
        )
        text = (
            '<?xml version="1.0" encoding="UTF-8"?> <CaretExtension> <VolumeInformation Index="0">'
            f"<LabelTable>\n{rows}\n</LabelTable></VolumeInformation></CaretExtension>\n      "
        )
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, text.encode()))
    image.to_filename(path)
    return path


def centre_of(labels: np.ndarray, number: int, affine: np.ndarray) -> np.ndarray:
    """Mean of a label's voxel centres in mm, as the affine defines them."""
    return (np.argwhere(labels == number) @ affine[:3, :3].T + affine[:3, 3]).mean(0)


def lps(affine: np.ndarray) -> np.ndarray:
    """The same affine to LPS mm, or back."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
