"""Label maps that SimpleITK reads: MetaImage, NRRD, and the segmentations of 3D Slicer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from e2r.formats import file_checks, level_names
from e2r.formats.file_checks import PathLike
from e2r.formats.voxels import LPS_TO_RAS, LabelVolume, check_affine, whole_numbers

SPACES = ("right-anterior-superior", "left-anterior-superior", "left-posterior-superior")
"""Values of NRRD's field ``space`` that say where the patient's left is; ITK turns them all."""
MAX_LAYERS = 100
MAX_HEADER_BYTES = 1_000_000


def read(path: PathLike) -> list[LabelVolume]:
    """Reads a label map, or the layers of a segmentation of 3D Slicer.

    Args:
      path: ``.nrrd``, ``.nhdr``, ``.seg.nrrd``, ``.mha`` or ``.mhd``.

    Returns:
      One volume a layer. A segmentation gives names and coded concepts, a label map none.

    Raises:
      ValueError: the file is no label map, or does not say where the patient's left is.
    """
    path = Path(path)
    values, affine, header = _load(path)
    if header.get("ITK_InputFilterName") == "NrrdImageIO":
        _check_space(header, path)
    else:
        _check_place(path)
    affine = check_affine(affine, path)
    segments = _segments(header, path)
    layers = values.shape[3] if values.ndim == 4 else 1
    if not segments:
        if layers > 1:
            raise ValueError(f"{path}: has {layers} values a voxel; give a label map with one")
        return [LabelVolume(whole_numbers(values, path), affine, {}, {})]
    volumes = []
    for layer in range(layers):
        labels = whole_numbers(values[..., layer] if values.ndim == 4 else values, path)
        here = [segment for segment in segments if segment["layer"] == layer]
        if len({segment["label"] for segment in here}) < len(here):
            raise ValueError(f"{path}: two segments have one label and layer; save it again")
        names = {segment["label"]: segment["name"] for segment in here}
        codes = {segment["label"]: segment["level"] for segment in here if segment["level"]}
        volumes.append(LabelVolume(labels, affine, names, codes))
    return volumes


def _load(path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Values (x, y, z) or (x, y, z, layer), the affine to RAS mm, and the header's entries."""
    import SimpleITK  # noqa: PLC0415  # slow to import

    try:
        image: Any = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        reason = file_checks.one_line(RuntimeError(str(error).split("ERROR: ")[-1]))
        raise ValueError(f"{path}: cannot be read ({reason}); export the label map again") from None
    if image.GetDimension() != 3:
        raise ValueError(f"{path}: has {image.GetDimension()} axes; give one label map with three")
    if image.GetNumberOfComponentsPerPixel() > MAX_LAYERS:
        raise ValueError(f"{path}: has too many values a voxel; give a label map with one")
    values = np.moveaxis(SimpleITK.GetArrayFromImage(image), (0, 1, 2), (2, 1, 0))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    header = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    return values, LPS_TO_RAS @ affine, header


def _check_space(header: Mapping[str, str], path: Path) -> None:
    """Refuses a NRRD file that does not say where the patient's left is: ITK guesses then."""
    space = header.get("NRRD_space", "")
    if space.lower() not in SPACES:
        what = f"is {space!r}" if space else "is missing"
        raise ValueError(
            f"{path}: its field `space` {what}, so left and right are unknown; save it with "
            "`space: left-posterior-superior`"
        )
    with path.open("rb") as file:  # ITK drops the units
        text = file.read(MAX_HEADER_BYTES).split(b"\n\n")[0].decode("latin-1")
    if not re.search(r"^space directions:", text, re.IGNORECASE | re.MULTILINE):
        raise ValueError(
            f"{path}: has no field `space directions`, so its voxels' size is unknown; save it so"
        )
    for line in text.splitlines():
        field, _, value = line.partition(":")
        units = re.findall(r"[^\s\"]+", value) if field.lower() == "space units" else []
        for unit in units:
            if unit.lower() not in ("mm", "millimeter", "millimeters", "???", "none"):
                raise ValueError(f"{path}: is in {unit}; convert it to mm")


def _check_place(path: Path) -> None:
    """Refuses a MetaImage that says no axes or no voxel size: ITK takes LPS and 1 mm then."""
    with path.open("rb") as file:
        text = file.read(MAX_HEADER_BYTES).split(b"ElementDataFile")[0].decode("latin-1")
    given = {line.partition("=")[0].strip().lower() for line in text.splitlines()}
    for names, unknown in (
        (("TransformMatrix", "Rotation", "Orientation"), "left and right are unknown"),
        (("ElementSpacing", "ElementSize"), "its voxels' size is unknown"),
    ):
        if not {name.lower() for name in names} & given:
            raise ValueError(f"{path}: has no {names[0]}, so {unknown}; save it again with it")


def _segments(header: Mapping[str, str], path: Path) -> list[dict[str, Any]]:
    """Name, label, layer and coded level of each segment (3D Slicer's SegmentN_ entries).

    Before Slicer 4.11, the entries had neither label nor layer: segment N was layer N, label 1.
    `Segmentation_ReferenceImageExtentOffset` is not used: the origin is that of the stored voxels.
    """
    numbers = sorted(int(m[1]) for key in header if (m := re.fullmatch(r"Segment(\d+)_ID", key)))
    numbers = numbers or sorted(
        int(m[1]) for key in header if (m := re.fullmatch(r"Segment(\d+)_Name", key))
    )
    segments = []
    for number in numbers:
        entries = {
            key: header.get(f"Segment{number}_{key}", "")
            for key in ("Name", "LabelValue", "Layer", "Tags")
        }
        try:
            label, layer = int(entries["LabelValue"] or 1), int(entries["Layer"] or 0)
        except ValueError:
            raise ValueError(
                f"{path}: Segment{number} has no whole number as label or layer; save it again"
            ) from None
        if not entries["LabelValue"]:
            layer = number
        level = _coded_level(entries["Tags"])
        segments.append({"name": entries["Name"], "label": label, "layer": layer, "level": level})
    return segments


def _coded_level(tags: str) -> str | None:
    """The level in a segment's terminology entry: category, type and region, each a code."""
    match = re.search(r"TerminologyEntry:([^|]*)", tags)
    parts = match[1].split("~") if match else []
    kind = parts[2].split("^") if len(parts) > 2 else []
    region = parts[5].split("^") if len(parts) > 5 else []
    return level_names.level_of_concepts(kind, region)
