"""DICOM segmentations (SEG), read by highdicom. SimpleITK reads them without their geometry."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from e2r.formats import file_checks, level_names
from e2r.formats.file_checks import PathLike
from e2r.formats.voxels import LPS_TO_RAS, LabelVolume, check_affine

SEG, LABELMAP_SEG = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"
RT_STRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
MAX_GAP = 2
"""More empty slices than this lie between two bodies."""
MIN_SHARED_PIXELS = 10
"""Slices on both sides of a gap that share as many pixels show one body, not an island."""


def is_dicom(path: PathLike) -> bool:
    """Whether a file is DICOM: ``DICM`` follows 128 bytes.

    Args:
      path: the file.
    """
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def kind_of(path: PathLike) -> str:
    """The SOP class of a DICOM file; an empty text if it cannot be read.

    Args:
      path: the file.
    """
    import pydicom  # noqa: PLC0415

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
            return str(data.get("SOPClassUID", ""))
    except Exception:  # pydicom raises whatever it meets
        return ""


def read(path: PathLike, numbers: Collection[int] = ()) -> list[LabelVolume]:
    """Reads a DICOM SEG: binary, fractional (above one half) or a label map.

    Args:
      path: the file.
      numbers: segments to read; by default, those whose name or code gives a level, else all.

    Returns:
      One volume, or one a segment if segments overlap. Labels are the segments' numbers.

    Raises:
      ValueError: the file is no SEG, or its frames form no volume in the patient's axes.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind not in (SEG, LABELMAP_SEG):
        what = "an RT structure set" if kind == RT_STRUCT else "no segmentation (SEG)"
        raise ValueError(f"{path}: is {what}; export the segmentation as DICOM SEG or NIfTI")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _read(path, numbers)
    except Exception as error:  # highdicom and pydicom raise whatever they meet
        raise ValueError(
            f"{path}: cannot be read as DICOM SEG ({file_checks.one_line(error, 120)}); export the "
            "segmentation again"
        ) from None


def _read(path: Path, numbers: Collection[int]) -> list[LabelVolume]:
    import highdicom  # noqa: PLC0415  # slow to import

    seg = highdicom.seg.segread(path)
    descriptions = {
        int(item.SegmentNumber): item for item in seg.SegmentSequence if int(item.SegmentNumber)
    }
    names = {
        number: str(item.get("SegmentLabel", "") or "") for number, item in descriptions.items()
    }
    codes = {number: level for number, item in descriptions.items() if (level := _level(item))}
    named = [n for n in names if n in codes or level_names.level_of_name(names[n])]
    chosen = sorted(set(numbers) & set(names)) or named or list(names)
    kind = seg.segmentation_type.value
    if kind == "LABELMAP":  # highdicom 0.28 keeps a segment that a list leaves out: read all
        parts = [seg.get_volume(combine_segments=True)]
    elif kind == "BINARY":
        try:
            parts = [seg.get_volume(combine_segments=True, segment_numbers=chosen)]
        except RuntimeError:  # segments overlap
            parts = [_read_segment(path, number) for number in chosen]
    else:
        parts = [seg.get_volume(segment_numbers=[n]) for n in chosen]
    volumes = []
    for i, part in enumerate(parts):
        if part.coordinate_system.value != "PATIENT":
            raise ValueError("it lies on a microscope's slide")
        affine = check_affine(LPS_TO_RAS @ np.asarray(part.affine, np.float64), path)
        labels = np.asarray(part.array)
        if kind == "FRACTIONAL":
            labels = np.where(labels[..., 0] > 0.5, chosen[i], 0)
        labels = np.where(np.isin(labels, chosen), labels, 0).astype(np.int32)
        for number in chosen:
            _check_gaps(labels == number)
        volumes.append(LabelVolume(labels, affine, names, codes))
    return volumes


def _read_segment(path: Path, number: int) -> Any:
    """One segment's volume, from a file opened anew.

    highdicom 0.28 leaves its database locked after it met an overlap.
    """
    import highdicom  # noqa: PLC0415

    seg = highdicom.seg.segread(path)
    return seg.get_volume(combine_segments=True, segment_numbers=[number])


def _check_gaps(mask: np.ndarray) -> None:
    """Refuses a segment with an empty slice between two that show the same pixels.

    highdicom takes uneven distances for slices left out, and fills them with nothing.
    """
    shown = np.flatnonzero(mask.any((1, 2)))
    for above, below in pairwise(shown):
        if (
            1 < below - above <= 1 + MAX_GAP
            and (mask[above] & mask[below]).sum() >= MIN_SHARED_PIXELS
        ):
            raise ValueError("a slice is missing inside a segment, or slices lie unevenly")


def _level(item: Any) -> str | None:
    """The level that a segment's coded concepts mean."""
    kind = _concept(item.get("SegmentedPropertyTypeCodeSequence"))
    region = _concept(item.get("AnatomicRegionSequence"))
    return level_names.level_of_concepts(kind, region)


def _concept(sequence: Any) -> list[str]:
    """Scheme, code and meaning; empty without them."""
    if not sequence:
        return []
    fields = ("CodingSchemeDesignator", "CodeValue", "CodeMeaning")
    return [str(sequence[0].get(field, "") or "") for field in fields]
