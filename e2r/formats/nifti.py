"""NIfTI label maps: which of the header's two forms holds the patient's millimetres."""

from __future__ import annotations

import itertools
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError

from e2r.formats import file_checks, label_tables, notices
from e2r.formats.file_checks import PathLike
from e2r.formats.voxels import LabelVolume, check_affine, whole_numbers
from e2r.types import Float

ERRORS = (
    ImageFileError,
    HeaderDataError,
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
SCANNER, ALIGNED = 1, 2
"""Codes of a form that keeps the patient's millimetres; 3 and above are an atlas's."""
TOLERANCE_MM = 0.5
"""Places in the volume that differ by more are different places."""


def read(path: PathLike) -> LabelVolume:
    """Reads a NIfTI label map.

    Args:
      path: ``.nii``, ``.nii.gz``, or ``.hdr`` beside ``.img``.

    Returns:
      Labels, their place in RAS mm, and the names of a label table in the header's extensions.

    Raises:
      ValueError: the file is no label map, or its header does not say where it lies.
    """
    path = Path(path)
    try:
        image: Any = nibabel.load(path)
        if not isinstance(image, nibabel.nifti1.Nifti1Pair):  # Analyze says not which way is left
            raise ImageFileError(f"it is {type(image).__name__}")
        header = image.header  # nibabel has mended pixdim here
        unit = header.get_xyzt_units()[0]
        values = np.asanyarray(image.dataobj)
        extensions = [bytes(extension) for extension in _contents(header)]
        files = image.file_map
        with ImageOpener(files.get("header", files["image"]).filename) as file:
            pixdim = type(header).from_fileobj(file, check=False)["pixdim"][1:4]
    except ERRORS as error:
        raise ValueError(
            f"{path}: cannot be read as NIfTI ({file_checks.one_line(error, 120)}); "
            "export the label map again"
        ) from None
    labels = whole_numbers(values, path)
    if unit in ("meter", "micron"):
        raise ValueError(f"{path}: is in {unit}s; convert it to mm")
    affine = choose_affine(header, labels.shape, pixdim=pixdim.astype(np.float64), path=path)
    names = label_tables.read_extensions(extensions)
    oriented = bool(header["qform_code"] or header["sform_code"])
    return LabelVolume(labels, check_affine(affine, path), names, {}, oriented)


def _contents(header: Any) -> list[bytes]:
    """The bytes of the header's extensions."""
    contents = [extension.get_content() for extension in header.extensions]
    return [
        content if isinstance(content, bytes) else str(content).encode() for content in contents
    ]


def choose_affine(
    header: Any, shape: tuple[int, ...], *, pixdim: Float[np.ndarray, "3"], path: PathLike
) -> Float[np.ndarray, "4 4"]:
    """The affine from voxels to RAS mm, by the header's codes.

    - A form of code 3 or more (Talairach, MNI, template) is not the patient's. It is never used.
    - With both codes 0, the voxel sizes alone count (method 1 of nifti1.h). Nothing is turned.
    - The sform wins where its code is 1, or where the qform has none. Else the qform wins. ITK
      does the same.

    Args:
      header: nibabel's.
      shape: of the volume, in voxels.
      pixdim: voxel sizes as the file has them, mm.
      path: the file, for messages.

    Raises:
      ValueError: no usable form, or one whose voxels have another size than ``pixdim`` says.
    """
    q_code, s_code = int(header["qform_code"]), int(header["sform_code"])
    if s_code not in (SCANNER, ALIGNED) and not (np.isfinite(pixdim) & (pixdim > 0)).all():
        raise ValueError(
            f"{path}: its affine cannot be known, as pixdim is {pixdim.round(4).tolist()}; export "
            "the label map again"
        )
    if q_code == 0 and s_code == 0:
        notices.say(
            path,
            "does not say how it lies in the patient (qform_code and sform_code are 0); its first "
            "axis was taken as right, its second as anterior, its third as superior",
        )
        return np.diag([*pixdim, 1.0])
    sform = np.asarray(header.get_sform(), np.float64) if s_code in (SCANNER, ALIGNED) else None
    qform = _qform(header, path) if q_code in (SCANNER, ALIGNED) and (pixdim > 0).all() else None
    if sform is None and qform is None:
        raise ValueError(
            f"{path}: lies in an atlas's space (qform_code {q_code}, sform_code {s_code}), whose "
            "millimetres are not the patient's; export it in the scanner's space"
        )
    if s_code > ALIGNED or q_code > ALIGNED:
        used, unused = ("qform", "sform") if s_code > ALIGNED else ("sform", "qform")
        code = s_code if s_code > ALIGNED else q_code
        notices.say(path, f"its {used} was used; its {unused} (code {code}) is an atlas's space")
    if sform is None or (qform is not None and s_code != SCANNER):
        chosen, other, used = qform, sform, "qform"
    else:
        chosen, other, used = sform, qform, "sform"
    assert chosen is not None
    if other is not None and (apart := _distance(chosen, other, shape)) > TOLERANCE_MM:
        notices.say(
            path,
            f"its qform and sform place it up to {apart:.3g} mm apart; the {used} was used "
            f"(qform_code {q_code}, sform_code {s_code})",
        )
    _check_sizes(chosen, pixdim, shape, path=path)
    return chosen


def _qform(header: Any, path: PathLike) -> np.ndarray | None:
    """The qform's affine; None (and a notice) if its quaternion is none."""
    try:
        return np.asarray(header.get_qform(), np.float64)
    except ERRORS as error:
        if int(header["sform_code"]) not in (SCANNER, ALIGNED):
            raise ValueError(
                f"{path}: its affine cannot be known ({file_checks.one_line(error)}); export the "
                "label map again"
            ) from None
    notices.say(path, "its qform is broken; its sform was used")
    return None


def _distance(a: np.ndarray, b: np.ndarray, shape: tuple[int, ...]) -> float:
    """Largest distance in mm of a voxel under two affines: it is at a corner."""
    corners = np.array([[*corner, 1] for corner in itertools.product(*((0, n - 1) for n in shape))])
    return float(np.linalg.norm(corners @ (a - b)[:3].T, axis=1).max())


def _check_sizes(
    affine: np.ndarray, pixdim: np.ndarray, shape: tuple[int, ...], *, path: PathLike
) -> None:
    """Refuses an affine whose voxels have other sizes than ``pixdim`` says."""
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.abs(sizes - np.abs(pixdim)) * np.array(shape)).max() <= TOLERANCE_MM:
        ours, theirs = (" x ".join(f"{size:.4g}" for size in some) for some in (sizes, pixdim))
        raise ValueError(
            f"{path}: has voxels of {ours} mm by its affine (sform), but of {theirs} mm by pixdim; "
            "write both alike (nibabel: set_zooms beside set_sform)"
        )
