"""Label maps of every kind that people have, as label volumes."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from e2r.formats import dicom_seg, label_tables, level_names, nifti, notices, nrrd_segmentation
from e2r.formats.file_checks import PathLike
from e2r.formats.voxels import LabelVolume

NIFTI = (".nii", ".nii.gz", ".hdr", ".img")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
REMEDY = "give a label map (.nii, .nii.gz, .nrrd, .mha, .mhd, DICOM SEG) or a folder of them"


def read(path: PathLike, numbers: Collection[int] = ()) -> list[LabelVolume]:
    """Reads a label map, or a folder of structures.

    A folder holds one label map a level, named by it (``vertebrae_L3.nii.gz``), or DICOM SEG files.
    In a file with a single label and a level in its name, the name counts.

    Args:
      path: the file or folder.
      numbers: the labels that the user names; others may be left unread.

    Returns:
      One volume, or several: the files of a folder, layers, segments that overlap.

    Raises:
      ValueError: nothing that can be read, or a file that is no label map.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, numbers)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; {REMEDY}")
    return _read_file(path, numbers)


def _read_file(path: Path, numbers: Collection[int]) -> list[LabelVolume]:
    name = path.name.lower()
    if dicom_seg.is_dicom(path):
        return dicom_seg.read(path, numbers)
    if name.endswith(NIFTI):
        volumes = [nifti.read(path)]
    elif name.endswith(ITK):
        volumes = nrrd_segmentation.read(path)
    else:
        raise ValueError(f"{path}: cannot be read, as it is no label map by its suffix; {REMEDY}")
    if len(volumes) == 1 and not volumes[0].names:
        names = label_tables.read_beside(path)
        volumes = [volumes[0]._replace(names=names)]
    return volumes


def _read_folder(folder: Path, numbers: Collection[int]) -> list[LabelVolume]:
    """The levels of a folder: by their files' names, or its DICOM SEG files."""
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and file.name[0] != "."]
    levels: dict[str, Path] = {}
    for file in files:
        is_map = file.name.lower().endswith((".nii", ".nii.gz", *ITK))
        level = level_names.level_of_file(label_tables.stem_of(file)) if is_map else None
        if level is not None and level in levels:
            raise ValueError(
                f"{folder}: {levels[level].name} and {file.name} are both {level}; keep one"
            )
        if level is not None:
            levels[level] = file
    if set(levels) == {"S1"} and level_names.may_be_a_subject(label_tables.stem_of(levels["S1"])):
        raise ValueError(
            f"{levels['S1']}: may be S1 or the first subject; name it sacrum, or give it alone "
            "with --labels and --levels"
        )
    if levels:
        if numbers:
            raise ValueError(f"{folder}: holds one file a structure; leave --labels out")
        volumes = [_read_structure(file, level) for level, file in levels.items()]
        return [volume for volume in volumes if volume is not None]
    dicom = [file for file in files if dicom_seg.is_dicom(file)]
    kinds = {file: dicom_seg.kind_of(file) for file in dicom}
    segs = [f for f, kind in kinds.items() if kind in (dicom_seg.SEG, dicom_seg.LABELMAP_SEG)]
    if segs:
        return [volume for file in segs for volume in dicom_seg.read(file, numbers)]
    what = "holds DICOM pictures but no segmentation (SEG)" if dicom else "is a folder"
    raise ValueError(
        f"{folder}: {what}, and no such file as vertebrae_L3.nii.gz is in it; give the label map "
        "itself, or a folder of one file a level"
    )


def _read_structure(path: Path, level: str) -> LabelVolume | None:
    """A file that holds one structure; None if it is empty."""
    volumes = _read_file(path, ())
    values = [int(value) for value in np.unique(volumes[0].labels) if value > 0]
    if len(volumes) > 1 or len(values) > 1:
        raise ValueError(
            f"{path}: holds {max(len(values), len(volumes))} labels, although its name says one "
            f"level ({level}); give this file alone"
        )
    return volumes[0]._replace(names={values[0]: level}, codes={}) if values else None


def name_by_file(volume: LabelVolume, path: PathLike) -> LabelVolume:
    """Names the single label of a volume after its file, where that says a level.

    Args:
      volume: of the file.
      path: the file.
    """
    stem = label_tables.stem_of(path)
    level = level_names.level_of_file(stem)
    if level == "S1" and level_names.may_be_a_subject(stem):
        level = None
    values = [int(value) for value in np.unique(volume.labels) if value > 0]
    if level is None or len(values) != 1:
        return volume
    notices.say(path, f"holds one label ({values[0]}), which was named {level} after the file")
    return volume._replace(names={values[0]: level})
