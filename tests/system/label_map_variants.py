"""Label maps as programs write them, with the mistakes that people make in them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import hypothesis.strategies as st
import igl
import nibabel as nib
import numpy as np
import SimpleITK
from variants import Draw, Patient, Places, Variant, convert, same, scaling, spoil, write_frame

VOXEL_MM = 1.5
NUMBERS = {
    "VerSe": {"L1": 20, "L2": 21, "L3": 22, "L4": 23, "L5": 24},
    "TotalSegmentator v1": {"L5": 18, "L4": 19, "L3": 20, "L2": 21, "L1": 22},
    "TotalSegmentator v2": {"L5": 27, "L4": 28, "L3": 29, "L2": 30, "L1": 31},
    "TotalSegmentator MR": {"L5": 2, "L4": 3, "L3": 4, "L2": 5, "L1": 6},
    "one to five": {"L1": 1, "L2": 2, "L3": 3, "L4": 4, "L5": 5},
}


@lru_cache(maxsize=8)
def _voxels(patient_id: str, patient: _Hashed) -> tuple[np.ndarray, np.ndarray]:
    """Labels 1 to 5 from head to tail, (X, Y, Z), and the affine: RAS mm of voxel centres."""
    del patient_id
    meshes = list(patient.value.case.model.values())
    bounds = np.array([mesh.bounds for mesh in meshes])
    low, high = bounds[:, 0].min(0) - 6.0, bounds[:, 1].max(0) + 6.0
    shape = np.ceil((high - low) / VOXEL_MM).astype(int) + 1
    labels = np.zeros(shape, np.uint8)
    for number, mesh in enumerate(meshes, 1):
        first = np.floor((mesh.bounds[0] - low) / VOXEL_MM).astype(int)
        last = np.ceil((mesh.bounds[1] - low) / VOXEL_MM).astype(int) + 1
        box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        grid = np.stack(np.mgrid[box], -1).reshape(-1, 3) * VOXEL_MM + low
        inside = igl.fast_winding_number(
            np.asarray(mesh.vertices, float), np.asarray(mesh.faces, np.int64), grid
        )
        part = labels[box]
        part[(np.asarray(inside) > 0.5).reshape(part.shape)] = number
    affine = np.diag([VOXEL_MM] * 3 + [1.0])
    affine[:3, 3] = low
    return labels, affine


class _Hashed:
    """A patient that may be the key of a cache, by its id alone."""

    def __init__(self, value: Patient) -> None:
        self.value = value

    def __hash__(self) -> int:
        return hash(self.value.case.id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and other.value.case.id == self.value.case.id


def renumbered(labels: np.ndarray, numbers: dict[str, int]) -> np.ndarray:
    table = np.zeros(6, np.int16)
    table[1:] = [numbers[f"L{i}"] for i in range(1, 6)]
    return table[labels]


MISTAKES = (
    *("flipped left to right", "flipped head to foot", "flipped front to back", "no codes"),
    *("sform of a template", "voxel size 10 % more", "voxel size 10 % less", "slices doubled"),
    *(
        "voxel size unset",
        "labels exchanged",
        "two levels merged",
        "a level missing",
        "probability",
    ),
    *("axes exchanged", "half a voxel off", "other patient", "numbers upside down", "one label"),
    "a level cut off",
)


def label_map(draw: Draw, folder: Path, patient: Patient, other: Patient) -> Variant:
    """A right frame, with a model made of a label map of any program."""
    write_frame(folder / "frame", patient)
    mistake = draw(st.sampled_from(["", "", "", "", *MISTAKES, *MISTAKES]))
    whose = other if mistake == "other patient" else patient
    labels, affine = _voxels(whose.case.id, _Hashed(whose))
    program = draw(st.sampled_from(sorted(NUMBERS)))
    style = draw(st.sampled_from(["nii.gz", "nii.gz", "nii", "nrrd", "mha", "a file a level"]))
    axes = draw(st.sampled_from(["RAS", "LPS", "LAS", "PIR", "ASL"]))
    array, affine, places, codes = spoilt_volume(
        mistake, renumbered(labels, NUMBERS[program]), affine.copy()
    )
    image = nib.Nifti1Image(array, affine)
    start = nib.orientations.io_orientation(affine)
    image = image.as_reoriented(
        nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(axes))
    )
    path = write_volume(folder, image, style, codes=codes, numbers=NUMBERS[program])
    file = sorted(path.iterdir())[0] if path.is_dir() else path
    spoilt = spoil(draw, file, chance=0.12)
    harmless = ("", "a level missing", "half a voxel off")
    # Without codes, the file says nothing of its axes: their order in it is then right to left.
    certain = mistake != "no codes"
    read = ("convert", "ct", str(path), str(folder / "model"))
    return Variant(
        "label maps",
        f"{program}, {style}, {axes}, {mistake or 'as it is'}{spoilt}",
        (read, convert(folder / "frame", folder / "model")),
        right=mistake in harmless and (program == "VerSe" or style == "a file a level"),
        model_places=places if certain and mistake != "other patient" else None,
    )


def spoilt_volume(
    mistake: str, array: np.ndarray, affine: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Places, tuple[int, int]]:
    """Labels, affine, what it makes of the true places, and the NIfTI codes of qform and sform."""
    places, codes = same, (1, 1)
    flips = {"flipped left to right": 0, "flipped front to back": 1, "flipped head to foot": 2}
    if mistake in flips:
        axis = flips[mistake]
        array = np.flip(array, axis)
        middle = affine[axis, 3] + VOXEL_MM * (array.shape[axis] - 1) / 2
        sign, shift = np.ones(3), np.zeros(3)
        sign[axis], shift[axis] = -1.0, 2 * middle
        places = lambda p: p * sign + shift  # noqa: E731
    elif mistake == "no codes":
        codes = (0, 0)
    elif mistake == "sform of a template":
        codes = (1, 4)
    elif mistake in ("voxel size 10 % more", "voxel size 10 % less", "voxel size unset"):
        factor = {"more": 1.1, "less": 0.9}.get(mistake.rsplit(maxsplit=1)[-1], 1 / VOXEL_MM)
        affine = np.diag([factor, factor, factor, 1.0]) @ affine
        places = scaling(factor)
    elif mistake == "slices doubled":
        affine = np.diag([1.0, 1.0, 2.0, 1.0]) @ affine
        places = scaling(1.0, 1.0, 2.0)
    elif mistake == "axes exchanged":
        array = np.ascontiguousarray(array.transpose(1, 0, 2))
        affine[[0, 1], 3] = affine[[1, 0], 3]
        places = lambda p: p[:, [1, 0, 2]]  # noqa: E731
    elif mistake == "half a voxel off":
        affine[:3, 3] += VOXEL_MM / 2
        places = lambda p: p + VOXEL_MM / 2  # noqa: E731
    else:
        array = spoilt_labels(mistake, array)
    return array, affine, places, codes


def spoilt_labels(mistake: str, array: np.ndarray) -> np.ndarray:
    """The labels with some exchanged, merged or gone."""
    first, second, *_, last = (n for n in np.unique(array) if n)
    array = array.copy()
    one, two = array == first, array == second
    if mistake == "labels exchanged":
        array[one], array[two] = second, first
    elif mistake == "two levels merged":
        array[one] = second
    elif mistake == "a level missing":
        array[one] = 0
    elif mistake == "a level cut off":
        array[..., int(np.argwhere(one | (array == last))[:, 2].mean()) :][
            one[..., int(np.argwhere(one | (array == last))[:, 2].mean()) :]
        ] = 0
    elif mistake == "numbers upside down":
        array = np.where(array > 0, first + last - array, 0).astype(np.int16)
    elif mistake == "one label":
        array = (array > 0).astype(np.int16)
    elif mistake == "probability":
        return array / np.float32(array.max())
    return array


def write_volume(
    folder: Path,
    image: nib.Nifti1Image,
    style: str,
    *,
    codes: tuple[int, int],
    numbers: dict[str, int],
) -> Path:
    """Writes the map, or one map of 0 and 1 for each level."""
    array, affine = np.asarray(image.dataobj), image.affine
    if style == "a file a level":
        place = folder / "segmentations"
        place.mkdir()
        for level, number in numbers.items():
            part = nib.Nifti1Image((array == number).astype(np.uint8), affine)
            part.header.set_xyzt_units("mm")
            nib.save(part, place / f"vertebrae_{level}.nii.gz")
        return place
    path = folder / f"spine_seg.{style}"
    if style.startswith("nii"):
        image.header.set_xyzt_units("mm")
        image.set_qform(affine, codes[0])
        moved = affine.copy()
        if codes[1] == 4:
            moved[:3, 3] += [0.0, 28.0, 0.0]
        image.set_sform(moved, codes[1])
        nib.save(image, path)
        return path
    volume = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.T))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    volume.SetSpacing(spacing.tolist())
    volume.SetOrigin(lps[:3, 3].tolist())
    volume.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    SimpleITK.WriteImage(volume, str(path))
    return path
