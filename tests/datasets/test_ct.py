"""CT label maps: real ones, made ones under every kind of affine, broken ones."""

import gzip
import json
from itertools import pairwise
from pathlib import Path

import igl
import made_up_spines
import nibabel
import nrrd
import numpy as np
import pytest
import trimesh
from scipy import ndimage
from skimage.measure import marching_cubes

from e2r.cli import main
from e2r.datasets import case_folder, ct
from e2r.formats.meshes import read_meshes

AFFINES = {
    "ras": np.diag([1.0, 1.0, 1.0]),
    "lps": np.diag([-1.0, -1.0, 1.0]),
    "mirrored": np.diag([-1.0, 1.0, 1.0]),
    "thick slices": np.diag([0.7, 0.7, 2.0]),
    "axes swapped": np.array([[0, 0, 1.2], [0.8, 0, 0], [0, -0.8, 0]]),
}
MIDDLE = np.array([12.0, -30.0, 250.0])


def save(path, labels, linear=None, dtype=np.uint8, middle=MIDDLE):
    """A label map whose middle voxel lies at ``middle``."""
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3) if linear is None else linear
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(labels.shape[:3]) - 1) / 2)
    nibabel.Nifti1Image(labels.astype(dtype), affine).to_filename(path)
    return path


def ellipsoid(linear, radii=(18.0, 12.0, 10.0), shape=(80, 80, 80), number=20):
    """Labels of an ellipsoid whose half axes in mm lie along the world's axes."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    world = (index - (np.array(shape) - 1) / 2) @ np.asarray(linear).T
    return number * (np.sum((world / radii) ** 2, -1) < 1)


def apart(a, b):
    points = np.ascontiguousarray(a.vertices, np.float64)
    faces = np.ascontiguousarray(b.faces, np.int64)
    square = igl.point_mesh_squared_distance(points, np.ascontiguousarray(b.vertices), faces)[0]
    return float(np.sqrt(square).mean())


def test_a_real_label_map_gives_the_published_surfaces(anatomy):
    folder = anatomy / "verse004"
    (path,) = folder.glob("*.nii.gz")
    meshes = ct.read_labels(path)
    given = read_meshes(folder)
    assert list(given)[1:] == ["L1", "L2", "L3", "L4", "L5"] or set(given) <= set(meshes)
    for name, mesh in given.items():
        assert meshes[name].is_watertight
        assert meshes[name].volume > 0
        assert max(apart(meshes[name], mesh), apart(mesh, meshes[name])) < 0.6


@pytest.mark.parametrize("kind", AFFINES)
def test_the_affine_is_honoured(tmp_path, kind):
    """One ellipsoid in the world under any voxel axes; its normals point outwards."""
    linear = AFFINES[kind]
    path = save(tmp_path / "a.nii.gz", ellipsoid(linear), linear)
    (mesh,) = ct.read_labels(path, numbering="verse").values()
    assert mesh.is_watertight
    np.testing.assert_allclose(mesh.bounds.mean(0), MIDDLE, atol=0.3)
    np.testing.assert_allclose(np.ptp(mesh.bounds, axis=0), [36, 24, 20], atol=1.5)
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 18 * 12 * 10, rel=0.05)


def test_labels_are_named_and_small_pieces_dropped(tmp_path):
    labels = np.zeros((60, 60, 60))
    labels[5:25, 5:25, 5:25] = 3
    labels[30:50, 30:50, 30:50] = 7
    labels[55:57, 55:57, 55:57] = 7  # a small piece of the second label
    labels[1:3, 50:53, 1:3] = 9  # a small label
    path = save(tmp_path / "a.nii.gz", labels)
    meshes = ct.read_labels(path, {7: "L1", 3: "L2", 9: "L3", 11: "L4"})
    assert list(meshes) == ["L1", "L2"]
    assert np.ptp(meshes["L1"].bounds, axis=0).max() < 22.0
    assert ct.VERSE[19] == "T12" and ct.VERSE[20] == "L1" and ct.VERSE[24] == "L5"


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["e2r", "convert", "ct", *map(str, arguments)])
    return main()


def test_a_converted_model_is_read_in_a_case(tmp_path, simulated_cases, monkeypatch, capsys):
    labels = np.zeros((60, 60, 60))
    labels[5:25, 5:25, 5:25] = 3
    labels[30:50, 30:50, 30:50] = 7
    path = save(tmp_path / "a.nii.gz", labels)
    case = tmp_path / "case"
    case_folder.write_case(simulated_cases[0], case)
    for old in (case / "model").iterdir():
        old.unlink()
    (case / "truth.json").unlink()
    about = json.loads((case / "case.json").read_text())
    (case / "case.json").write_text(json.dumps({**about, "levels": ["L3", "L4"]}))
    arguments = (path, case / "model", "--levels", "L3", "L4", "--labels", "7", "3")
    assert run(monkeypatch, *arguments) == 0
    assert "L3.stl" in capsys.readouterr().out
    model = case_folder.read_case(case).model
    assert list(model) == ["L3", "L4"]
    assert model["L3"].volume == pytest.approx(20**3, rel=0.1)
    for more, message in (
        (("--levels", "L3"), "has no L3 (but C3, C7)"),
        (("--levels", "L3", "--labels", "7", "3"), "one number for each"),
        (("--levels", "L3", "L5", "--labels", "7", "5"), "has no L5 (but L3)"),
    ):
        assert run(monkeypatch, path, tmp_path / "x", *more) == 2
        assert message in capsys.readouterr().err


def broken(folder):
    """name -> (file, what the sentence says)."""
    good = np.zeros((20, 20, 20))
    good[5:15, 5:15, 5:15] = 20
    path = save(folder / "good.nii.gz", good)
    whole = path.read_bytes()
    plain = gzip.decompress(whole)
    nan = good.copy()
    nan[0, 0, 0] = np.nan

    def raw(name, data):
        (folder / name).write_bytes(data)
        return folder / name

    metres = nibabel.Nifti1Image(good.astype(np.uint8), np.eye(4))
    metres.header.set_xyzt_units("meter")
    metres.to_filename(folder / "metres.nii.gz")
    return {
        "missing": (folder / "nothing.nii.gz", "no such file"),
        "a folder": (folder, "no such file"),
        "empty": (raw("empty.nii.gz", b""), "cannot be read"),
        "text": (raw("text.nii.gz", b"labels"), "cannot be read"),
        "truncated": (raw("short.nii.gz", whole[: len(whole) // 2]), "cannot be read"),
        "truncated, plain": (raw("short.nii", plain[: len(plain) // 2]), "cannot be read"),
        "header alone": (raw("head.nii", plain[:352]), "cannot be read"),
        "damaged": (raw("bad.nii.gz", whole[:60] + b"xxxxxxxx" + whole[68:]), "cannot be read"),
        "wrong suffix": (raw("good.png", whole), "cannot be read"),
        "a CT": (save(folder / "ct.nii.gz", good * 33.3 - 1000, dtype=np.float32), "not the CT"),
        "negative": (save(folder / "neg.nii.gz", good - 1, dtype=np.int16), "not the CT"),
        "fractions": (save(folder / "half.nii.gz", good / 3, dtype=np.float32), "not the CT"),
        "not a number": (save(folder / "nan.nii.gz", nan, dtype=np.float32), "no numbers"),
        "four axes": (save(folder / "four.nii.gz", np.stack([good] * 2, -1)), "has 4 axes"),
        "other labels": (save(folder / "other.nii.gz", good * 2), "has none of the labels"),
        "nothing": (save(folder / "none.nii.gz", good * 0), "is empty, it labels no voxel"),
        "metres": (folder / "metres.nii.gz", "in meters"),
        "tiny voxels": (save(folder / "tiny.nii.gz", good, np.eye(3) * 1e-3), "its affine"),
    }


def test_broken_label_maps_are_refused_in_one_sentence(tmp_path, monkeypatch, capsys):
    for name, (path, message) in broken(tmp_path).items():
        with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
            ct.read_labels(path)
        assert message in str(caught.value), name
        assert str(path) in str(caught.value), name
        assert run(monkeypatch, path, tmp_path / "out") == 2, name
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "Traceback" not in err, name
    assert not (tmp_path / "out").exists()


def spine(folder, name="spine.nii.gz", levels=("L1", "L2", "L3"), **more):
    of = {level: number for number, level in ct.VERSE.items()}
    labels = made_up_spines.stack({level: of[level] for level in levels}, **more)
    return made_up_spines.write_nifti(folder / name, labels)


def test_a_level_of_an_impossible_size_is_refused(tmp_path):
    """A vertebra has about 10 to 120 cm^3; an organ, a fragment, two vertebrae in one have not."""
    for name, extra, message in (
        ("large", (21, (2, 2, 20), (58, 40, 40)), "L2 has "),
        ("high", (21, (28, 30, 2), (32, 32, 73)), "L2 is 1.. mm high"),
        ("small", (24, (28, 25, 3), (32, 29, 6)), "L5 has "),
    ):
        path = spine(tmp_path, f"{name}.nii.gz", extra=[extra])
        with pytest.raises(ValueError, match=message):
            ct.read_labels(path, numbering="verse")
    path = spine(tmp_path, "small.nii.gz", extra=[(24, (28, 25, 3), (32, 29, 6))])
    assert list(ct.read_labels(path, levels=["L1", "L2"])) == ["L1", "L2"]
    with pytest.raises(ValueError, match="leave the level out with --levels"):
        ct.read_labels(path)


@pytest.mark.parametrize("volume", [1.0, 300.0])
def test_one_level_alone_is_held_against_a_vertebras_size(tmp_path, volume):
    side = round((volume * 1000 / 8) ** (1 / 3))
    labels = np.zeros((60, 60, 60), np.uint8)
    labels[10 : 10 + side, 10 : 10 + side, 10 : 10 + side] = 22
    path = made_up_spines.write_nifti(tmp_path / "a.nii.gz", labels)
    for more in ({}, {"names": {22: "L3"}}, {"numbering": "verse"}):
        with pytest.raises(ValueError, match=r"L[13] has"):
            ct.read_labels(path, **more)


def test_levels_out_of_order_are_refused(tmp_path):
    labels = made_up_spines.stack({"L1": 5, "L2": 6, "L3": 7})
    path = made_up_spines.write_nifti(tmp_path / "a.nii.gz", labels)
    assert list(ct.read_labels(path, {5: "L1", 6: "L2", 7: "L3"})) == ["L1", "L2", "L3"]
    for names in (
        {5: "L3", 6: "L2", 7: "L1"},
        {5: "L1", 6: "L3", 7: "L2"},
        {5: "L2", 6: "L1", 7: "L3"},
        {5: "L4", 7: "T12"},
    ):
        with pytest.raises(ValueError, match="out of order"):
            ct.read_labels(path, names)
    upside_down = made_up_spines.write_nifti(
        tmp_path / "b.nii.gz", labels, affine=made_up_spines.affine_of(np.diag([2.0, 2.0, -2.0]))
    )
    with pytest.raises(ValueError, match="out of order"):
        ct.read_labels(upside_down, {5: "L1", 6: "L2", 7: "L3"})


def test_two_vertebrae_in_one_label_are_said(tmp_path, caplog):
    labels = made_up_spines.stack({"L1": 20, "L2": 21, "L3": 22, "L4": 22, "L5": 24})
    for low, high in pairwise(np.flatnonzero((labels == 22).any((0, 1)))):
        labels[28:32, 30:34, low:high] = 22  # a bridge
    path = made_up_spines.write_nifti(tmp_path / "a.nii.gz", labels)
    assert list(ct.read_labels(path)) == ["L1", "L2", "L3", "L5"]
    assert "L3 has 2" in caplog.text and "times the volume of L2" in caplog.text


def test_islands_are_left_out_and_it_is_said(tmp_path, caplog):
    plain = ct.read_labels(spine(tmp_path))
    for name, corner in (("near", (8, 28, 38)), ("far", (2, 2, 2))):
        extra = (21, corner, tuple(c + 4 for c in corner))  # 512 mm^3
        caplog.clear()
        meshes = ct.read_labels(spine(tmp_path, f"{name}.nii.gz", extra=[extra]))
        assert "L2 has islands: 1 of 512 mm3" in caplog.text
        assert meshes["L2"].volume == pytest.approx(plain["L2"].volume, rel=1e-6)
        np.testing.assert_allclose(meshes["L2"].bounds, plain["L2"].bounds, atol=1e-6)
    second = (21, (2, 2, 4), (22, 18, 14))  # 26 cm^3
    with pytest.raises(ValueError, match=r"L2 \(label 21\) is two bodies"):
        ct.read_labels(spine(tmp_path, "two.nii.gz", extra=[second]))


def test_flat_caps_at_the_edge_are_said(tmp_path, caplog):
    labels = made_up_spines.stack({"L1": 20, "L2": 21, "L3": 22})
    found = np.argwhere(labels == 20)[:, 2]
    cut = labels[:, :, : int(found.mean())]
    meshes = ct.read_labels(made_up_spines.write_nifti(tmp_path / "a.nii.gz", cut))
    assert list(meshes) == ["L1", "L2", "L3"] and meshes["L1"].is_watertight
    assert "L1 reaches the edge" in caplog.text and "flat cap" in caplog.text
    assert "L2 reaches" not in caplog.text
    caplog.clear()
    sliver = labels[:, :, : int(found.min()) + 1]
    meshes = ct.read_labels(made_up_spines.write_nifti(tmp_path / "b.nii.gz", sliver))
    assert list(meshes) == ["L2", "L3"] or "L1 has" in caplog.text


def test_voxels_exactly_at_the_level_keep_the_surface_closed(tmp_path, monkeypatch):
    """Marching cubes puts several vertices onto such a voxel, and merged ones make no surface."""
    rng = np.random.default_rng(0)
    labels = np.zeros((40, 40, 30), np.uint8)
    labels[5:35, 8:32, 6:24] = 22

    def halves(inside, _):
        shell = (inside > 0) & ~ndimage.binary_erosion(inside > 0)
        rough = shell & (rng.random(inside.shape) < 0.5)
        return np.where(rough, np.float32(0.5), inside)

    vertices, faces, _, _ = marching_cubes(halves((labels > 0).astype(np.float32), None), 0.5)
    assert not trimesh.Trimesh(vertices, faces, process=True).is_watertight
    monkeypatch.setattr(ndimage, "gaussian_filter", halves)
    path = made_up_spines.write_nifti(tmp_path / "a.nii.gz", labels, affine=np.eye(4))
    (mesh,) = ct.read_labels(path, {22: "L3"}).values()
    merged = trimesh.Trimesh(mesh.vertices, mesh.faces, process=True)
    assert merged.is_watertight and merged.volume == pytest.approx(mesh.volume)


def test_a_folder_of_one_file_a_structure_is_read(tmp_path, caplog):
    """As TotalSegmentator writes it: all structures, empty ones as well."""
    labels = made_up_spines.stack({"L1": 1, "L2": 2, "L3": 3})
    folder = tmp_path / "segmentations"
    folder.mkdir()
    for number, level in ((1, "L1"), (2, "L2"), (3, "L3"), (9, "T12")):
        mask = (labels == number).astype(np.uint8)
        made_up_spines.write_nifti(folder / f"vertebrae_{level}.nii.gz", mask)
    made_up_spines.write_nifti(folder / "liver.nii.gz", labels * 0 + 1)
    (folder / "statistics.json").write_text("{}")
    meshes = ct.read_labels(folder)
    assert list(meshes) == ["L1", "L2", "L3"]
    whole = ct.read_labels(spine(tmp_path))
    for level, mesh in meshes.items():
        np.testing.assert_allclose(mesh.bounds, whole[level].bounds, atol=1e-6)
    with pytest.raises(ValueError, match="leave --labels out"):
        ct.read_labels(folder, {1: "L1"})
    made_up_spines.write_nifti(folder / "L3.nii", labels)
    with pytest.raises(ValueError, match=r"L3.nii and vertebrae_L3.nii.gz are both L3"):
        ct.read_labels(folder)
    (folder / "vertebrae_L3.nii.gz").unlink()
    with pytest.raises(ValueError, match="holds 3 labels, although its name says one"):
        ct.read_labels(folder)


def test_layers_of_a_segmentation_become_levels(tmp_path):
    layers = [made_up_spines.stack({"L1": 1, "L2": 0}), made_up_spines.stack({"L1": 0, "L2": 1})]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ made_up_spines.affine_of()
    header = {
        "space": "left-posterior-superior",
        "space origin": affine[:3, 3],
        "space directions": np.vstack([[np.nan] * 3, affine[:3, :3].T]),
        "kinds": ["list", "domain", "domain", "domain"],
    }
    for i, name in enumerate(("vertebrae_L1", "L2 vertebra")):
        header |= {f"Segment{i}_ID": f"s{i}", f"Segment{i}_Name": name}
        header |= {f"Segment{i}_LabelValue": "1", f"Segment{i}_Layer": str(i)}
    path = tmp_path / "a.seg.nrrd"
    nrrd.write(str(path), np.stack(layers), header)
    meshes = ct.read_labels(path)
    whole = ct.read_labels(spine(tmp_path, levels=("L1", "L2")))
    assert list(meshes) == ["L1", "L2"]
    for level, mesh in meshes.items():
        np.testing.assert_allclose(mesh.bounds, whole[level].bounds, atol=1e-4)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--levels", "L1", "L1"), "names a level twice"),
        (("--levels", "L1", "l1"), "names a level twice"),
        (("--levels", "L1", "L2", "--labels", "5", "5"), "each number once"),
        (("--levels", "L1", "--labels", "0"), "each number once"),
        (("--levels", "../L1"), "is no level name"),
        (("--levels", "L1", "--labels", "20", "--numbering", "verse"), "give one of them"),
        (("--table", "nothing.txt"), "is no table of label names"),
    ],
)
def test_arguments_that_contradict_themselves_are_refused(
    tmp_path, monkeypatch, capsys, more, message
):
    assert run(monkeypatch, spine(tmp_path), tmp_path / "x", *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_the_command_line_takes_a_numbering_and_a_table(tmp_path, monkeypatch, capsys):
    path = spine(tmp_path)
    arguments = (path, tmp_path / "x", "--numbering", "verse", "--levels", "l2")
    assert run(monkeypatch, *arguments) == 0
    assert [file.name for file in (tmp_path / "x").iterdir()] == ["L2.stl"]
    table = tmp_path / "names.txt"
    table.write_text('20 1 2 3 1 1 1 "L3"\n21 1 2 3 1 1 1 "L4"\n')
    assert run(monkeypatch, path, tmp_path / "y", "--table", table) == 0
    assert sorted(file.name for file in (tmp_path / "y").iterdir()) == ["L3.stl", "L4.stl"]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("numbering", "message"),
    [
        ("verse", "has label 29, but verse has none above 28"),
        ("totalsegmentator-mr", "has label 27, but totalsegmentator-mr has none above 25"),
    ],
)
def test_a_numbering_that_has_not_all_labels_is_refused(tmp_path, numbering, message):
    """Four of five levels were left out without a word, and L4 was called T13."""
    labels = made_up_spines.stack({"L1": 31, "L2": 30, "L3": 29, "L4": 28, "L5": 27})
    path = made_up_spines.write_nifti(tmp_path / "v2.nii.gz", labels)
    with pytest.raises(ValueError, match=message):
        ct.read_labels(path, numbering=numbering)
    assert [*ct.read_labels(path, numbering="totalsegmentator-v2")][:2] == ["L1", "L2"]


INPUTS = Path(__file__).resolve().parents[2].parent / "shared" / "inputs" / "label_maps"


@pytest.mark.skipif(not INPUTS.is_dir(), reason="the sample inputs are not here")
@pytest.mark.parametrize(
    ("name", "numbering", "levels", "said"),
    [
        ("total_v2_vertebrae_only", None, ["L1", "L2", "L3", "L4", "L5"], ""),
        ("vertebrae_L3", None, ["L3"], "named L3 after the file"),
        ("no_codes", "verse", ["L3"], "qform_code and sform_code are 0"),
        ("sform_shifted", "verse", ["L3"], "the qform was used"),
        ("island", "verse", ["L3"], "1 of 343 mm3"),
    ],
)
def test_the_sample_label_maps_are_read(caplog, name, numbering, levels, said):
    path = INPUTS / f"{name}.nii.gz"
    meshes = ct.read_labels(path, numbering=numbering)
    if numbering:  # of one label alone, several numberings are possible
        with pytest.raises(ValueError, match=r"fit several numberings.*--numbering"):
            ct.read_labels(path)
    assert list(meshes) == levels
    assert said in caplog.text
    assert all(mesh.is_watertight and mesh.volume > 0 for mesh in meshes.values())
