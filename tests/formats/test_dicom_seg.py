"""DICOM segmentations: every kind, oblique ones too; places follow from the slices' positions."""

import made_up_dicom
import numpy as np
import pytest
import SimpleITK
from made_up_spines import centre_of
from pydicom.sr.codedict import codes

from e2r.formats import dicom_seg, label_volumes

VOXELS = np.zeros((16, 14, 12), np.uint8)  # slices, rows, columns
VOXELS[3:6, 3:9, 2:10] = 1
VOXELS[9:13, 4:9, 3:8] = 2
VOXELS[13:15, 2:4, 3:8] = 3
NAMES = ("L3 vertebra", "vertebrae_L4", "liver")
S = np.sqrt(0.5)
PLANES = {
    "axial": {},
    "coronal": {"row": (1, 0, 0), "column": (0, 0, -1)},
    "oblique": {"row": (S, S, 0), "column": (-S, S, 0)},
    "tilted": {"row": (1, 0, 0), "column": (0, 0.8, 0.6)},
}


def expected(images, number):
    """Mean of a segment's pixel centres, RAS mm, by the standard's formula (C.7.6.2.1.1)."""
    places = []
    for k, row, column in np.argwhere(number == VOXELS):
        item = images[k]
        along_row = np.array(item.ImageOrientationPatient[:3], float)
        along_column = np.array(item.ImageOrientationPatient[3:], float)
        down, right = map(float, item.PixelSpacing)
        place = np.array(item.ImagePositionPatient, float)
        places.append(place + column * right * along_row + row * down * along_column)
    return np.mean(places, axis=0) * [-1, -1, 1]


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("plane", PLANES)
def test_segments_lie_where_the_slices_lie(tmp_path, kind, plane):
    images = made_up_dicom.slices(VOXELS.shape, **PLANES[plane])
    path = made_up_dicom.write_seg(tmp_path / "a.dcm", images, VOXELS, names=NAMES, kind=kind)
    (volume,) = label_volumes.read(path)
    assert set(np.unique(volume.labels)) == {0, 1, 2}  # the liver is left out
    assert volume.names[1] == "L3 vertebra"
    for number in (1, 2):
        ours = centre_of(volume.labels, number, volume.affine)
        np.testing.assert_allclose(ours, expected(images, number), atol=1e-4)
        assert (volume.labels == number).sum() == (number == VOXELS).sum()


def test_the_image_reader_would_have_lost_the_place(tmp_path):
    """Why SimpleITK is not used: it stacks the segments with spacing 1."""
    images = made_up_dicom.slices(VOXELS.shape)
    path = made_up_dicom.write_seg(tmp_path / "a.dcm", images, VOXELS, names=NAMES)
    image = SimpleITK.ReadImage(str(path))
    assert image.GetSize()[2] != VOXELS.shape[0] and image.GetSpacing()[2] == 1.0


@pytest.mark.parametrize("count", [2, 3])
def test_a_label_map_leaves_out_what_was_not_named(tmp_path, count):
    """highdicom 0.28 keeps a segment when the list leaves out exactly one."""
    images = made_up_dicom.slices(VOXELS.shape)
    names = ("L3", "liver", "L5")[:count]
    voxels = np.where(count >= VOXELS, VOXELS, 0)
    path = made_up_dicom.write_seg(tmp_path / "a.dcm", images, voxels, names=names, kind="LABELMAP")
    (volume,) = dicom_seg.read(path)
    assert set(np.unique(volume.labels)) == ({0, 1} if count == 2 else {0, 1, 3})


def test_a_fractional_segment_counts_above_one_half(tmp_path):
    images = made_up_dicom.slices(VOXELS.shape)
    share = np.where(VOXELS == 1, 0.8, np.where(VOXELS == 2, 0.3, 0.0))
    path = made_up_dicom.write_seg(
        tmp_path / "a.dcm", images, share, names=["L3"], kind="FRACTIONAL"
    )
    (volume,) = dicom_seg.read(path)
    assert (volume.labels == 1).sum() == (VOXELS == 1).sum()
    ours = centre_of(volume.labels, 1, volume.affine)
    np.testing.assert_allclose(ours, expected(images, 1), atol=1e-4)


def test_segments_that_overlap_become_volumes_of_their_own(tmp_path):
    images = made_up_dicom.slices(VOXELS.shape)
    voxels = np.stack([VOXELS == 1, VOXELS > 0], -1).astype(np.uint8)
    path = made_up_dicom.write_seg(tmp_path / "a.dcm", images, voxels, names=["L3", "L4"])
    first, second = dicom_seg.read(path)
    assert (first.labels == 1).sum() == (VOXELS == 1).sum()
    assert (second.labels == 2).sum() == (VOXELS > 0).sum()
    np.testing.assert_allclose(
        centre_of(first.labels, 1, first.affine), expected(images, 1), atol=1e-4
    )


def test_coded_concepts_give_the_level(tmp_path):
    images = made_up_dicom.slices(VOXELS.shape)
    path = made_up_dicom.write_seg(
        tmp_path / "a.dcm",
        images,
        VOXELS,
        names=["a", "b", "c"],
        concepts={"a": codes.SCT.L3Vertebra, "c": codes.SCT.Liver},
        regions={"b": codes.SCT.L4Vertebra},
    )
    (volume,) = dicom_seg.read(path)
    assert volume.codes == {1: "L3", 2: "L4"}
    assert set(np.unique(volume.labels)) == {0, 1, 2}
    (volume,) = dicom_seg.read(path, [3])  # the user names its number
    assert set(np.unique(volume.labels)) == {0, 3}


def test_a_folder_with_slices_and_a_segmentation_is_read(tmp_path):
    images = made_up_dicom.slices(VOXELS.shape)
    for k, item in enumerate(images):
        item.save_as(tmp_path / f"IM{k:03}", enforce_file_format=True)
    with pytest.raises(ValueError, match="DICOM pictures but no segmentation"):
        label_volumes.read(tmp_path)
    with pytest.raises(ValueError, match="is no segmentation"):
        label_volumes.read(tmp_path / "IM000")
    made_up_dicom.write_seg(tmp_path / "SEG001", images, VOXELS, names=NAMES)
    (volume,) = label_volumes.read(tmp_path)
    ours = centre_of(volume.labels, 1, volume.affine)
    np.testing.assert_allclose(ours, expected(images, 1), atol=1e-4)


def test_a_broken_segmentation_is_refused_in_one_sentence(tmp_path):
    images = made_up_dicom.slices(VOXELS.shape)
    path = made_up_dicom.write_seg(tmp_path / "a.dcm", images, VOXELS, names=NAMES)
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], whole[:-60], whole[:200]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
            label_volumes.read(path)
        assert str(path) in str(caught.value)


def test_missing_slices_of_the_source_are_refused(tmp_path):
    """Slices at uneven distances form no volume."""
    images = made_up_dicom.slices(VOXELS.shape)
    for k, item in enumerate(images):
        item.ImagePositionPatient[2] = 30.0 + 3.0 * k + 0.6 * (k % 3)
    path = made_up_dicom.write_seg(tmp_path / "a.dcm", images, VOXELS, names=NAMES)
    with pytest.raises(ValueError, match="cannot be read as DICOM SEG"):
        label_volumes.read(path)


def test_a_slice_missing_inside_a_segment_is_refused(tmp_path):
    images = made_up_dicom.slices(VOXELS.shape)
    kept = [k for k in range(16) if k != 10]
    some, voxels = [images[k] for k in kept], VOXELS[kept]
    path = made_up_dicom.write_seg(tmp_path / "a.dcm", some, voxels, names=NAMES)
    with pytest.raises(ValueError, match="a slice is missing inside a segment"):
        label_volumes.read(path)
    kept = [k for k in range(16) if k != 7]  # between two segments
    some, voxels = [images[k] for k in kept], VOXELS[kept]
    path = made_up_dicom.write_seg(tmp_path / "b.dcm", some, voxels, names=NAMES)
    (volume,) = label_volumes.read(path)
    ours = centre_of(volume.labels, 2, volume.affine)
    np.testing.assert_allclose(ours, expected(images, 2), atol=1e-4)
