"""A numbering tells no mask's level, and S1 in a file's name may be a subject."""

import made_up_spines
import numpy as np
import pytest

from e2r.datasets import ct


def test_a_numbering_does_not_name_a_mask_nor_overrule_names(tmp_path):
    mask = (made_up_spines.stack({"L3": 1}) > 0).astype(np.uint8)
    lone = made_up_spines.write_nifti(tmp_path / "vertebrae_L3.nii.gz", mask)
    assert list(ct.read_labels(lone)) == ["L3"]
    with pytest.raises(ValueError, match="label 1 alone, as any mask has"):
        ct.read_labels(lone, numbering="totalsegmentator-mr")
    folder = tmp_path / "parts"
    folder.mkdir()
    for level, label in (("L2", 3), ("L3", 4)):
        part = (made_up_spines.stack({"L2": 3, "L3": 4}) == label).astype(np.uint8) * label
        made_up_spines.write_nifti(folder / f"vertebrae_{level}.nii.gz", part)
    assert list(ct.read_labels(folder)) == ["L2", "L3"]
    with pytest.raises(ValueError, match="calls label 3 L2, but by totalsegmentator-mr it is L4"):
        ct.read_labels(folder, numbering="totalsegmentator-mr")


def test_the_first_subject_is_no_sacrum(tmp_path):
    mask = (made_up_spines.stack({"L2": 1, "L3": 2}) > 0).astype(np.uint8)
    for name in ("S1_vertebrae.nii.gz", "S1_spine.nii.gz"):
        path = made_up_spines.write_nifti(tmp_path / name, mask)
        with pytest.raises(ValueError, match="fit no known numbering"):
            ct.read_labels(path)
    folder = tmp_path / "folder"
    folder.mkdir()
    made_up_spines.write_nifti(folder / "S1_vertebrae.nii.gz", mask)
    with pytest.raises(ValueError, match="may be S1 or the first subject"):
        ct.read_labels(folder)
