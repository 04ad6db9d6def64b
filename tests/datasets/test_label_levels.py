"""Which label is which level: numberings told apart by what the labels look like, or refused."""

import gzip

import made_up_spines
import nibabel
import numpy as np
import pytest
from made_up_spines import LUMBAR, stack, write_nifti

from e2r.datasets import ct
from e2r.formats.label_numberings import NUMBERINGS

THORACIC = tuple(f"T{i}" for i in range(1, 13))
CERVICAL = tuple(f"C{i}" for i in range(1, 8))
ORGANS_V2 = (
    (5, (2, 2, 60), (28, 16, 110)),  # liver
    (20, (32, 2, 60), (58, 16, 110)),  # colon
    (18, (2, 2, 10), (28, 16, 58)),  # small bowel
    (25, (20, 20, 1), (44, 44, 12)),  # sacrum
    (79, (28, 46, 20), (30, 48, 110)),  # spinal cord
)
ORGANS_V1 = (
    (5, (2, 2, 60), (28, 16, 110)),  # liver
    (57, (32, 2, 60), (58, 16, 110)),  # colon
    (92, (20, 20, 1), (44, 44, 12)),  # sacrum
)


def numbers(numbering, levels):
    of = {level: number for number, level in NUMBERINGS[numbering].items()}
    return {level: of[level] for level in levels}


def write(folder, numbering, levels, **more):
    """A label map without any names in it."""
    name = more.pop("name", "seg.nii.gz")
    return write_nifti(folder / name, stack(numbers(numbering, levels), **more))


def heights(meshes):
    return [float(mesh.bounds.mean(0)[2]) for mesh in meshes.values()]


@pytest.mark.parametrize(
    ("numbering", "levels", "more"),
    [
        ("verse", LUMBAR, {}),
        ("verse", ("T11", "T12", "L1", "L2"), {}),
        ("verse", CERVICAL, {}),
        ("totalsegmentator-v1", LUMBAR, {"extra": ORGANS_V1}),
        ("totalsegmentator-v1", LUMBAR, {}),
        ("totalsegmentator-v1", ("L1", "L2", "L3"), {}),
        ("totalsegmentator-v2", LUMBAR, {"extra": ORGANS_V2}),
        ("totalsegmentator-v2", LUMBAR, {}),
        ("totalsegmentator-v2", ("T11", "T12", *LUMBAR), {}),
        ("totalsegmentator-v2", (*CERVICAL, *THORACIC, *LUMBAR), {}),
        ("totalsegmentator-mr", LUMBAR, {}),
        ("totalsegmentator-mr", ("T12", *LUMBAR), {}),
    ],
)
def test_a_spine_of_each_numbering_gets_its_levels(tmp_path, caplog, numbering, levels, more):
    meshes = ct.read_labels(write(tmp_path, numbering, levels, **more))
    assert [name for name in meshes if name != "S1"] == list(levels)
    assert heights(meshes) == sorted(heights(meshes), reverse=True)
    said = " ".join(record.getMessage() for record in caplog.records)
    assert (f"as {numbering} numbers them" in said) is (numbering != "verse")


def test_what_today_goes_wrong_is_gone(tmp_path):
    """A liver was C5, v2's L4 was T13, and v1's L1 was L3."""
    meshes = ct.read_labels(write(tmp_path, "totalsegmentator-v2", LUMBAR, extra=ORGANS_V2))
    assert not {"C5", "T13"} & set(meshes) and "L4" in meshes
    liver = write_nifti(tmp_path / "liver.nii.gz", _liver())
    with pytest.raises(ValueError, match="fit no known numbering"):
        ct.read_labels(liver)
    v1 = ct.read_labels(write(tmp_path, "totalsegmentator-v1", LUMBAR))
    middle = made_up_spines.centre_of(
        stack(numbers("totalsegmentator-v1", LUMBAR)), 22, made_up_spines.affine_of()
    )
    assert v1["L1"].centroid == pytest.approx(middle, abs=1.5)


def _liver():
    labels = stack({"L1": 0})
    labels[5:55, 2:30, 5:30] = 5
    return labels


@pytest.mark.parametrize(
    ("numbering", "levels", "message"),
    [
        ("totalsegmentator-v1", ("T6", "T7", "T8"), "fit several numberings"),  # or small L2 to L4
        ("totalsegmentator-v2", ("L4",), "fit"),
        ("totalsegmentator-v1", ("L5",), "fit"),
        ("totalsegmentator-mr", ("L2",), "fit"),
    ],
)
def test_what_cannot_be_told_apart_is_refused_and_settled_by_an_option(
    tmp_path, numbering, levels, message
):
    path = write(tmp_path, numbering, levels)
    with pytest.raises(ValueError, match=message) as caught:
        ct.read_labels(path)
    for option in ("--numbering", "--labels", "--levels"):
        assert option in str(caught.value)
    assert list(ct.read_labels(path, numbering=numbering)) == list(levels)


def test_the_name_of_the_file_may_decide(tmp_path):
    levels = ("T6", "T7", "T8")
    path = write(tmp_path, "totalsegmentator-v1", levels, name="a_totalsegmentator-v1.nii.gz")
    assert list(ct.read_labels(path)) == list(levels)


@pytest.mark.parametrize(
    ("numbering", "level", "other"),
    [
        ("verse", "L3", "22 is L1"),
        ("totalsegmentator-v1", "L1", "22 is L3"),
        ("totalsegmentator-v1", "L3", "20 is L1"),
        ("totalsegmentator-v1", "T12", "23 is L4"),
    ],
)
def test_a_lone_label_of_two_numberings_is_refused(tmp_path, numbering, level, other):
    """It counted as VerSe's: TotalSegmentator v1's lone L1 became L3."""
    path = write(tmp_path, numbering, (level,))
    with pytest.raises(ValueError, match=f"fit several numberings.*{other}.*--numbering"):
        ct.read_labels(path)
    assert list(ct.read_labels(path, numbering=numbering)) == [level]


def test_a_lone_label_is_verses_if_the_file_says_so(tmp_path):
    path = write(tmp_path, "verse", ("L3",), name="sub-verse004_seg-vert_msk.nii.gz")
    assert list(ct.read_labels(path)) == ["L3"]


@pytest.mark.parametrize("value", [1, 255])
def test_a_mask_of_one_structure_is_refused_unless_its_name_says_the_level(tmp_path, value):
    labels = stack({"L3": value})
    with pytest.raises(ValueError, match=r"--labels"):
        ct.read_labels(write_nifti(tmp_path / "mask.nii.gz", labels))
    for name in ("vertebrae_L3.nii.gz", "L3.nii", "patient7_vertebra_L3_final.nii.gz"):
        assert list(ct.read_labels(write_nifti(tmp_path / name, labels))) == ["L3"]
    for name in ("disc_L3.nii.gz", "T1.nii.gz"):
        with pytest.raises(ValueError, match=r"--labels"):
            ct.read_labels(write_nifti(tmp_path / name, labels))


def test_own_numbers_of_lumbar_levels_are_not_taken_for_higher_ones(tmp_path):
    for start in (1, 3, 8):
        own = {level: start + i for i, level in enumerate(LUMBAR)}
        with pytest.raises(ValueError, match="fit no known numbering"):
            ct.read_labels(write_nifti(tmp_path / "a.nii.gz", stack(own)))
    upwards = {level: 5 - i for i, level in enumerate(LUMBAR)}  # 1 would be the sacrum
    with pytest.raises(ValueError, match="fit no known numbering"):
        ct.read_labels(write_nifti(tmp_path / "a.nii.gz", stack(upwards)))


def test_all_vertebrae_in_one_label_are_refused(tmp_path):
    """``total_mr``: 18 is the sacrum, 19 all vertebrae, 20 the discs."""
    labels = stack(dict.fromkeys(LUMBAR, 19), extra=[(18, (20, 20, 1), (44, 44, 12))])
    with pytest.raises(ValueError, match="fit no known numbering"):
        ct.read_labels(write_nifti(tmp_path / "a.nii.gz", labels))


def test_label_26_of_v2_is_left_out_until_a_numbering_is_named(tmp_path, caplog):
    given = {**numbers("totalsegmentator-v2", LUMBAR), "S1": 26}
    path = write_nifti(tmp_path / "a.nii.gz", stack(given))
    assert list(ct.read_labels(path)) == list(LUMBAR)
    assert "S1 in TotalSegmentator v2 and L6 in v3" in caplog.text
    assert list(ct.read_labels(path, numbering="totalsegmentator-v2"))[-1] == "S1"


def test_without_orientation_only_verses_order_is_accepted(tmp_path):
    """Where the head is unknown, counting upwards proves nothing."""
    for numbering in ("verse", "totalsegmentator-v2"):
        image = nibabel.Nifti1Image(stack(numbers(numbering, LUMBAR)), np.diag([2.0, 2, 2, 1]))
        image.header["qform_code"] = image.header["sform_code"] = 0
        image.to_filename(tmp_path / "a.nii.gz")
        data = bytearray(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
        data[252:256] = bytes(4)  # both codes; nibabel sets them again
        (tmp_path / "a.nii").write_bytes(data)
        if numbering == "verse":
            assert list(ct.read_labels(tmp_path / "a.nii")) == list(LUMBAR)
        else:
            with pytest.raises(ValueError, match="does not say where the head is"):
                ct.read_labels(tmp_path / "a.nii")
        assert list(ct.read_labels(tmp_path / "a.nii", numbering=numbering)) == list(LUMBAR)


def test_names_in_the_file_count_before_numbers(tmp_path):
    given = numbers("verse", LUMBAR)
    names = {number: f"vertebrae_{level}" for level, number in given.items()}
    odd = {number: names[24 - i] for i, number in enumerate(given.values())}
    path = write_nifti(tmp_path / "a.nii.gz", stack(given), names=names)
    assert list(ct.read_labels(path)) == list(LUMBAR)
    path = write_nifti(tmp_path / "b.nii.gz", stack(given), names=odd)
    with pytest.raises(ValueError, match="out of order"):
        ct.read_labels(path)
    table = tmp_path / "names.json"
    table.write_text('{"20": "L1", "21": "L2"}')
    assert list(ct.read_labels(path, table=table)) == ["L1", "L2"]
    path = write_nifti(tmp_path / "c.nii.gz", stack(given), names={20: "liver", 21: "spleen"})
    with pytest.raises(ValueError, match="none of its labels has a level's name"):
        ct.read_labels(path)
    path = write_nifti(tmp_path / "d.nii.gz", stack(given), names={20: "Label 20", 21: "Label 21"})
    assert list(ct.read_labels(path)) == list(LUMBAR)
