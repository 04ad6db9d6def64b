"""CT label maps: real ones, made ones under every kind of affine, broken ones."""

import gzip
import json

import igl
import nibabel
import numpy as np
import pytest

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
    (mesh,) = ct.read_labels(path).values()
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
        "nothing": (save(folder / "none.nii.gz", good * 0), "(but none)"),
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
