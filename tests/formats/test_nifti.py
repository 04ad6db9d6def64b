"""Where a NIfTI label map lies: SimpleITK and nibabel are the reference, or both are wrong."""

import nibabel
import numpy as np
import pytest
import SimpleITK
from made_up_spines import affine_of, lps

from e2r.formats import label_volumes, nifti

LABELS = np.zeros((12, 14, 16), np.uint8)
LABELS[3:6, 4:9, 5:12] = 22


def turned(degrees: float, voxel=(2.0, 2.0, 2.0), axis: int = 2) -> np.ndarray:
    a = np.radians(degrees)
    i, j = [k for k in range(3) if k != axis]
    turn = np.eye(3)
    turn[i, i] = turn[j, j] = np.cos(a)
    turn[i, j], turn[j, i] = -np.sin(a), np.sin(a)
    return turn * voxel


def write(path, *, sform=None, qform=None, codes=(0, 0), pixdim=None, unit="mm"):
    """A label map with these forms, of codes (qform, sform)."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(LABELS.shape)
    header.set_xyzt_units(unit)
    if qform is not None:
        header.set_qform(qform)
    if sform is not None:
        header.set_sform(sform)
        if qform is None:
            header.set_zooms(np.linalg.norm(sform[:3, :3], axis=0))
    if pixdim is not None:
        header["pixdim"][1:4] = pixdim
    header["qform_code"], header["sform_code"] = codes
    header["vox_offset"] = 352
    with open(path, "wb") as file:
        header.write_to(file)
        file.write(LABELS.tobytes(order="F"))
    return path


def itk_affine(path):
    """SimpleITK's, in RAS mm."""
    image = SimpleITK.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return lps(affine)


def read(path, caplog):
    caplog.clear()
    (volume,) = label_volumes.read(path)
    np.testing.assert_array_equal(volume.labels, LABELS)
    return volume.affine, " ".join(record.getMessage() for record in caplog.records)


NEAR, FAR = affine_of(), affine_of(origin=np.array([-32.0, -40.0, 300.0]))
OBLIQUE = affine_of(turned(20.0, (1.0, 1.5, 2.0)) @ np.eye(3))
MIRRORED = affine_of(np.diag([-2.0, 2.0, 2.0]))


@pytest.mark.parametrize(
    ("codes", "sform", "qform"),
    [
        ((1, 1), NEAR, NEAR),
        ((0, 1), OBLIQUE, None),
        ((0, 2), MIRRORED, None),
        ((1, 0), None, OBLIQUE),
        ((2, 0), None, MIRRORED),
        ((1, 1), MIRRORED, MIRRORED),
        ((2, 1), OBLIQUE, OBLIQUE),
    ],
)
def test_forms_that_agree_are_read_as_both_libraries_do(tmp_path, caplog, codes, sform, qform):
    path = write(tmp_path / "a.nii", sform=sform, qform=qform, codes=codes)
    affine, said = read(path, caplog)
    np.testing.assert_allclose(affine, itk_affine(path), atol=1e-3)
    np.testing.assert_allclose(affine, nibabel.load(path).affine, atol=1e-3)
    assert said == ""


@pytest.mark.parametrize("voxel", [(2.0, 2.0, 2.0), (1.0, 1.2, 1.5), (0.7, 0.7, 3.0)])
def test_without_codes_nothing_is_mirrored(tmp_path, caplog, voxel):
    """Method 1 of nifti1.h: voxel sizes alone. nibabel mirrors here, SimpleITK does not."""
    path = write(tmp_path / "a.nii", codes=(0, 0), pixdim=voxel)
    affine, said = read(path, caplog)
    np.testing.assert_allclose(affine, np.diag([*voxel, 1.0]), atol=1e-6)
    np.testing.assert_allclose(np.abs(affine), np.abs(itk_affine(path)), atol=1e-6)
    assert np.linalg.det(affine[:3, :3]) > 0 and np.linalg.det(itk_affine(path)[:3, :3]) > 0
    assert np.linalg.det(nibabel.load(path).affine[:3, :3]) < 0
    assert "qform_code and sform_code are 0" in said


@pytest.mark.parametrize("code", [3, 4, 5])
@pytest.mark.parametrize("scanner", [1, 2])
def test_the_form_of_an_atlas_is_not_used(tmp_path, caplog, code, scanner):
    atlas = affine_of(1.2 * np.diag([2.0, 2.0, 2.0]))
    path = write(tmp_path / "a.nii", sform=atlas, qform=OBLIQUE, codes=(scanner, code))
    affine, said = read(path, caplog)
    np.testing.assert_allclose(affine, OBLIQUE, atol=1e-4)
    assert np.abs(nibabel.load(path).affine - OBLIQUE).max() > 0.2  # nibabel takes the atlas's
    assert f"(code {code}) is an atlas's space" in said
    path = write(tmp_path / "b.nii", sform=NEAR, qform=FAR, codes=(code, scanner))
    affine, said = read(path, caplog)
    np.testing.assert_allclose(affine, NEAR, atol=1e-4)
    assert "its sform was used" in said
    for codes in ((0, code), (code, 0), (code, code)):
        path = write(tmp_path / "c.nii", sform=NEAR, qform=NEAR, codes=codes)
        with pytest.raises(ValueError, match="lies in an atlas's space"):
            label_volumes.read(path)


@pytest.mark.parametrize(
    ("codes", "used"), [((1, 1), "sform"), ((2, 1), "sform"), ((1, 2), "qform"), ((2, 2), "qform")]
)
def test_forms_that_differ_are_settled_as_itk_does_and_it_is_said(tmp_path, caplog, codes, used):
    path = write(tmp_path / "a.nii", sform=FAR, qform=NEAR, codes=codes)
    affine, said = read(path, caplog)
    np.testing.assert_allclose(affine, FAR if used == "sform" else NEAR, atol=1e-4)
    np.testing.assert_allclose(affine, itk_affine(path), atol=1e-4)
    assert f"up to 28 mm apart; the {used} was used" in said


def test_only_a_difference_above_half_a_millimetre_is_said(tmp_path, caplog):
    for angle, loud in ((0.2, False), (3.0, True)):  # 0.1 and 2 mm at the far corner
        sform = affine_of(turned(angle))
        path = write(tmp_path / "a.nii", sform=sform, qform=NEAR, codes=(1, 1))
        assert ("apart" in read(path, caplog)[1]) is loud


@pytest.mark.parametrize("codes", [(0, 1), (0, 2), (1, 1)])
@pytest.mark.parametrize("scale", [0.5, 1.1, 10.0])
def test_voxel_sizes_that_contradict_each_other_are_refused(tmp_path, codes, scale):
    qform = NEAR if codes[0] else None
    path = write(
        tmp_path / "a.nii",
        sform=affine_of(2.0 * scale * np.eye(3)),
        qform=qform,
        codes=codes,
        pixdim=(2.0, 2.0, 2.0),
    )
    with pytest.raises(ValueError, match="but of 2 x 2 x 2 mm by pixdim"):
        label_volumes.read(path)


def test_what_nibabels_set_sform_leaves_behind_is_refused(tmp_path):
    image = nibabel.Nifti1Image(LABELS, np.eye(4))
    image.set_sform(affine_of(), 1)
    image.to_filename(tmp_path / "a.nii.gz")
    sizes = np.linalg.norm(nibabel.load(tmp_path / "a.nii.gz").affine[:3, :3], axis=0)
    assert sizes.tolist() == [2, 2, 2]
    assert SimpleITK.ReadImage(str(tmp_path / "a.nii.gz")).GetSpacing() == (1, 1, 1)
    with pytest.raises(ValueError, match="2 x 2 x 2 mm by its affine"):
        label_volumes.read(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("unit", ["meter", "micron", "unknown", "mm"])
def test_units_are_honoured(tmp_path, unit):
    path = write(tmp_path / "a.nii", sform=NEAR, codes=(0, 1), unit=unit)
    if unit in ("meter", "micron"):
        with pytest.raises(ValueError, match=f"in {unit}s"):
            nifti.read(path)
    else:
        np.testing.assert_allclose(nifti.read(path).affine, NEAR)


def test_a_broken_qform_beside_a_sform_is_said(tmp_path, caplog):
    path = write(tmp_path / "a.nii", sform=NEAR, qform=NEAR, codes=(1, 1))
    data = bytearray(path.read_bytes())
    data[256:268] = np.array([2.0, 2.0, 2.0], "<f4").tobytes()  # no unit quaternion
    path.write_bytes(data)
    affine, said = read(path, caplog)
    np.testing.assert_allclose(affine, NEAR)
    assert "its qform is broken" in said
    data[254:256] = np.array([0], "<i2").tobytes()  # sform_code
    path.write_bytes(data)
    with pytest.raises(ValueError, match="cannot be read as NIfTI"):
        nifti.read(path)
    data[254:256] = np.array([4], "<i2").tobytes()  # of an atlas, which is not used
    path.write_bytes(data)
    with pytest.raises(ValueError, match="its affine cannot be known"):
        nifti.read(path)


@pytest.mark.parametrize("pixdim", [(0.0, 2.0, 2.0), (-2.0, 2.0, 2.0), (np.nan, 2.0, 2.0)])
def test_impossible_voxel_sizes_are_refused(tmp_path, pixdim):
    path = write(tmp_path / "a.nii", codes=(0, 0), pixdim=pixdim)
    with pytest.raises(ValueError, match="its affine cannot be known"):
        nifti.read(path)


def test_an_analyze_file_is_refused(tmp_path):
    nibabel.AnalyzeImage(LABELS, np.eye(4)).to_filename(tmp_path / "a.img")
    for name in ("a.img", "a.hdr"):
        with pytest.raises(ValueError, match="cannot be read as NIfTI"):
            label_volumes.read(tmp_path / name)
    nibabel.Nifti1Pair(LABELS, NEAR).to_filename(tmp_path / "b.img")
    np.testing.assert_allclose(label_volumes.read(tmp_path / "b.hdr")[0].affine, NEAR)
