"""NRRD, MetaImage and 3D Slicer's segmentations; SimpleITK and pynrrd are the reference."""

import made_up_spines
import nrrd
import numpy as np
import pytest
import SimpleITK
from made_up_spines import affine_of, centre_of, lps

from e2r.formats import label_volumes

LABELS = np.zeros((12, 14, 16), np.uint8)
LABELS[2:5, 3:9, 4:12] = 22
LABELS[7:9, 3:9, 4:12] = 23
TURN = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
AFFINES = {
    "straight": affine_of(np.diag([2.0, 1.5, 3.0])),
    "oblique": affine_of(TURN * [2.0, 1.5, 3.0]),
    "mirrored": affine_of(np.diag([-1.0, 1.0, 3.0])),
    "axes swapped": affine_of(np.array([[0.0, 0.0, 2.0], [1.5, 0.0, 0.0], [0.0, 3.0, 0.0]])),
}
SPACES = {"RAS": [1, 1, 1], "LPS": [-1, -1, 1], "LAS": [-1, 1, 1]}
LONG = {
    "RAS": "right-anterior-superior",
    "LPS": "left-posterior-superior",
    "LAS": "left-anterior-superior",
}


def write_nrrd(path, data, affine, space="LPS", **entries):
    """A file in one of the patient's axes; a first axis of layers if the data have four axes."""
    to_space = np.diag([*SPACES[space], 1.0]) @ affine
    directions = to_space[:3, :3].T
    header = {
        "space": LONG[space],
        "space origin": to_space[:3, 3],
        "kinds": ["domain"] * 3,
        "space directions": directions,
        **entries,
    }
    if data.ndim == 4:
        header["kinds"] = ["list", *header["kinds"]]
        header["space directions"] = np.vstack([[np.nan] * 3, directions])
    nrrd.write(str(path), data, header)
    return path


def physical_centre(path, label):
    """Of a label by SimpleITK, in RAS mm."""
    image = SimpleITK.ReadImage(str(path))
    indices = np.argwhere(SimpleITK.GetArrayFromImage(image) == label)[:, ::-1]
    places = [image.TransformIndexToPhysicalPoint([int(i) for i in index]) for index in indices]
    return np.mean(places, axis=0) * [-1, -1, 1]


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", AFFINES)
def test_a_nrrd_label_map_lies_where_simpleitk_puts_it(tmp_path, kind, space):
    path = write_nrrd(tmp_path / "a.nrrd", LABELS, AFFINES[kind], space)
    (volume,) = label_volumes.read(path)
    np.testing.assert_array_equal(volume.labels, LABELS)
    np.testing.assert_allclose(volume.affine, AFFINES[kind], atol=1e-6)
    ours = centre_of(volume.labels, 22, volume.affine)
    np.testing.assert_allclose(ours, physical_centre(path, 22), atol=1e-5)


@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
@pytest.mark.parametrize("kind", AFFINES)
def test_a_metaimage_lies_where_simpleitk_puts_it(tmp_path, kind, suffix):
    """VTK transposes its direction matrix; the oblique one shows that."""
    to_lps = lps(AFFINES[kind])
    spacing = np.linalg.norm(to_lps[:3, :3], axis=0)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(LABELS.T))
    image.SetSpacing(spacing)
    image.SetOrigin(to_lps[:3, 3])
    image.SetDirection((to_lps[:3, :3] / spacing).ravel())
    path = tmp_path / f"a{suffix}"
    SimpleITK.WriteImage(image, str(path))
    (volume,) = label_volumes.read(path)
    np.testing.assert_array_equal(volume.labels, LABELS)
    np.testing.assert_allclose(volume.affine, AFFINES[kind], atol=1e-6)
    ours = centre_of(volume.labels, 23, volume.affine)
    np.testing.assert_allclose(ours, physical_centre(path, 23), atol=1e-5)


def test_a_sheared_nrrd_keeps_its_shear(tmp_path):
    affine = affine_of(np.array([[2.0, 0.5, 0.0], [0.0, 2.0, 0.7], [0.0, 0.0, 3.0]]))
    path = write_nrrd(tmp_path / "a.nrrd", LABELS, affine)
    (volume,) = label_volumes.read(path)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-6)


def slicer(number, name, *, label=None, layer=None, tags=""):
    """The entries of one segment."""
    entries = {f"Segment{number}_ID": f"Segment_{number}", f"Segment{number}_Name": name}
    if label is not None:
        entries[f"Segment{number}_LabelValue"] = str(label)
        entries[f"Segment{number}_Layer"] = str(layer)
    if tags:
        entries[f"Segment{number}_Tags"] = tags
    return entries


CODED = (
    "Segmentation.Status:inprogress|TerminologyEntry:Segmentation category and type - 3D Slicer "
    "General Anatomy list~SCT^123037004^Anatomical Structure~SCT^{}~^^~Anatomic codes - DICOM "
    "master list~^^~^^|"
)


@pytest.mark.parametrize("offset", ["0 0 0", "17 20 8"])
def test_layers_that_share_labels_are_read_once_and_not_moved(tmp_path, offset):
    """The origin is that of the stored, cropped voxels: the offset is not added."""
    layers = np.stack([(LABELS == 22) * 1 + (LABELS == 23) * 2, (LABELS == 23) * 1]).astype("u1")
    entries = {
        **slicer(0, "vertebrae_L3", label=1, layer=0),
        **slicer(1, "disc", label=2, layer=0),
        **slicer(2, "L4 vertebra", label=1, layer=1),
        "Segmentation_ReferenceImageExtentOffset": offset,
        "Segmentation_MasterRepresentation": "Binary labelmap",
    }
    path = write_nrrd(tmp_path / "a.seg.nrrd", layers, AFFINES["oblique"], **entries)
    stored, header = nrrd.read(str(path))
    assert stored.shape == layers.shape and header["kinds"][0] == "list"
    first, second = label_volumes.read(path)
    np.testing.assert_array_equal(first.labels, layers[0])
    np.testing.assert_array_equal(second.labels, layers[1])
    assert first.names == {1: "vertebrae_L3", 2: "disc"} and second.names == {1: "L4 vertebra"}
    for volume in (first, second):
        np.testing.assert_allclose(volume.affine, AFFINES["oblique"], atol=1e-6)


def test_one_layer_is_read(tmp_path):
    entries = {**slicer(0, "L3", label=22, layer=0), **slicer(1, "L4", label=23, layer=0)}
    path = write_nrrd(tmp_path / "a.seg.nrrd", LABELS, AFFINES["straight"], **entries)
    (volume,) = label_volumes.read(path)
    assert volume.names == {22: "L3", 23: "L4"}
    path = write_nrrd(tmp_path / "b.seg.nrrd", LABELS[None], AFFINES["straight"], **entries)
    np.testing.assert_array_equal(label_volumes.read(path)[0].labels, LABELS)


def test_a_segmentation_of_an_old_slicer_has_one_layer_a_segment(tmp_path):
    layers = np.stack([LABELS == 22, LABELS == 23]).astype("u1")
    entries = {**slicer(0, "L3"), **slicer(1, "L4")}
    path = write_nrrd(tmp_path / "a.seg.nrrd", layers, AFFINES["straight"], **entries)
    volumes = label_volumes.read(path)
    assert [volume.names for volume in volumes] == [{1: "L3"}, {1: "L4"}]
    np.testing.assert_array_equal(volumes[1].labels, layers[1])


def test_a_coded_concept_gives_the_level(tmp_path):
    entries = {
        **slicer(0, "Segment_1", label=22, layer=0, tags=CODED.format("36470004^L3 vertebra")),
        **slicer(1, "Segment_2", label=23, layer=0, tags=CODED.format("10200004^Liver")),
    }
    path = write_nrrd(tmp_path / "a.seg.nrrd", LABELS, AFFINES["straight"], **entries)
    assert label_volumes.read(path)[0].codes == {22: "L3"}


def broken(folder):
    """name -> (file, what the sentence says)."""
    good = write_nrrd(folder / "good.nrrd", LABELS, AFFINES["straight"])
    nrrd.write(str(folder / "nospace.nrrd"), LABELS, {"spacings": [2.0, 2.0, 2.0]})
    turned = {"space directions": np.eye(3) * 2, "space origin": [0, 0, 0], "kinds": ["domain"] * 3}
    nrrd.write(str(folder / "scanner.nrrd"), LABELS, {"space": "scanner-xyz", **turned})
    metres = {"space units": ["m", "m", "m"]}
    write_nrrd(folder / "metres.nrrd", LABELS, AFFINES["straight"], **metres)
    write_nrrd(folder / "layers.nrrd", np.stack([LABELS] * 2), AFFINES["straight"])
    twice = {**slicer(0, "L3", label=22, layer=0), **slicer(1, "L4", label=22, layer=0)}
    write_nrrd(folder / "twice.seg.nrrd", LABELS, AFFINES["straight"], **twice)
    wrong = slicer(0, "L3", label="one", layer=0)
    write_nrrd(folder / "wrong.seg.nrrd", LABELS, AFFINES["straight"], **wrong)
    write_nrrd(folder / "ct.nrrd", LABELS * 1.5 - 1000, AFFINES["straight"])
    (folder / "short.nrrd").write_bytes(good.read_bytes()[:-40])
    (folder / "text.mha").write_text("labels")
    (folder / "alone.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\n"
        "ElementDataFile = nothing.raw\n"
    )
    SimpleITK.WriteImage(SimpleITK.Image(4, 4, SimpleITK.sitkUInt8), str(folder / "flat.mha"))
    return {
        "no space": (folder / "nospace.nrrd", "field `space` is missing"),
        "another space": (folder / "scanner.nrrd", "field `space` is 'scanner-xyz'"),
        "metres": (folder / "metres.nrrd", "is in m"),
        "layers": (folder / "layers.nrrd", "has 2 values a voxel"),
        "twice": (folder / "twice.seg.nrrd", "two segments have one label"),
        "no number": (folder / "wrong.seg.nrrd", "no whole number"),
        "a CT": (folder / "ct.nrrd", "the label map, not the CT"),
        "truncated": (folder / "short.nrrd", "cannot be read"),
        "text": (folder / "text.mha", "cannot be read"),
        "no voxels": (folder / "alone.mhd", "cannot be read"),
        "two axes": (folder / "flat.mha", "has 2 axes"),
    }


def test_broken_files_are_refused_in_one_sentence(tmp_path):
    for name, (path, message) in broken(tmp_path).items():
        with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
            label_volumes.read(path)
        assert message in str(caught.value) and str(path) in str(caught.value), name


def test_a_spine_of_slicer_lies_where_it_was_made(tmp_path):
    """Cropped to the segments: the spine's own place, once."""
    labels = made_up_spines.stack({"L3": 1, "L4": 2})
    affine = affine_of()
    corner = np.argwhere(labels).min(0)
    low, high = corner, np.argwhere(labels).max(0) + 1
    cropped = labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ corner + affine[:3, 3]
    entries = {
        **slicer(0, "L3", label=1, layer=0),
        **slicer(1, "L4", label=2, layer=0),
        "Segmentation_ReferenceImageExtentOffset": " ".join(map(str, corner)),
    }
    path = write_nrrd(tmp_path / "a.seg.nrrd", cropped, moved, **entries)
    (volume,) = label_volumes.read(path)
    for label in (1, 2):
        ours = centre_of(volume.labels, label, volume.affine)
        np.testing.assert_allclose(ours, centre_of(labels, label, affine), atol=1e-5)


@pytest.mark.parametrize(
    ("field", "words"),
    [("TransformMatrix", "left and right are unknown"), ("ElementSpacing", "size is unknown")],
)
def test_a_metaimage_without_axes_or_spacing_is_refused(tmp_path, field, words):
    path = tmp_path / "a.mhd"
    image = SimpleITK.GetImageFromArray(LABELS.transpose(2, 1, 0))
    SimpleITK.WriteImage(image, str(path))
    assert label_volumes.read(path)
    lines = [line for line in path.read_text().splitlines() if not line.startswith(field)]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=rf"a\.mhd: has no {field}, so .*{words}"):
        label_volumes.read(path)


def test_a_nrrd_without_directions_is_refused(tmp_path):
    path = write_nrrd(tmp_path / "a.nrrd", LABELS, AFFINES["straight"])
    head, body = path.read_bytes().split(b"\n\n", 1)
    lines = [line for line in head.split(b"\n") if not line.startswith(b"space directions")]
    path.write_bytes(b"\n".join(lines) + b"\n\n" + body)
    with pytest.raises(ValueError, match="has no field `space directions`"):
        label_volumes.read(path)
