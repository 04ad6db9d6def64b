"""SpineDepth in pairs: a small copy of the layout, files written by hand, broken ones."""

import layouts
import numpy as np
import pytest
import trimesh
from conftest import refused

from e2r.cli import main
from e2r.datasets import case_folder, spinedepth_pairs
from e2r.datasets.spinedepth_pairs import CAMERA_DISTANCE_MM, PairId
from e2r.geometry import poses
from e2r.geometry.closest_points import distance_to_mesh


@pytest.fixture(scope="module")
def given(simulated_cases):
    """Two cameras of one level, and one level of another specimen, each well visible."""
    found = {}
    for source, case in zip(
        [("spec1", 0), ("spec1", 1), ("spec2", 0)], simulated_cases, strict=False
    ):
        level = "L3" if source[0] == "spec1" else next(iter(case.targets))
        found[PairId(source[0], level, source[1])] = case
    return found


@pytest.fixture
def root(given, tmp_path):
    layouts.write_pairs(tmp_path / "pairs", given)
    return tmp_path / "pairs"


def test_a_written_data_set_is_read_back(root, given, tmp_path, capsys):
    """Each cloud lies on its surface as in the plain case, before a camera that faces it."""
    assert main(["convert", "pairs", str(root), str(tmp_path / "cases")]) == 0
    assert "3 cases" in capsys.readouterr().out
    for pair, case in given.items():
        found, plain = (
            case_folder.read_case(tmp_path / "cases" / pair.case_id),
            layouts.one_level(case, pair.level),
        )
        assert found.source == pair.specimen
        assert list(found.model) == [pair.level]
        model = [
            np.asarray(poses.apply_inverse(c.truth[pair.level], c.points.astype(np.float32)))
            for c in (found, plain)
        ]
        np.testing.assert_allclose(*model, atol=2e-3)
        np.testing.assert_allclose(found.colors, plain.colors, atol=1e-6)
        np.testing.assert_allclose(found.points.mean(0), [0, 0, CAMERA_DISTANCE_MM], atol=1e-2)
        mesh = found.model[pair.level]
        distance, _ = distance_to_mesh(model[0], mesh.vertices, mesh.faces)
        assert distance.max() < layouts.LEVEL_DISTANCE_MM + 0.01
    assert [c.id for c in spinedepth_pairs.convert(root, specimens=["spec2"])] == [
        list(given)[2].case_id
    ]
    assert [c.id for c in spinedepth_pairs.convert(root, cameras=[1])] == [list(given)[1].case_id]


def ball(root, name="A_L2"):
    """A hand-written pair: the cap of a ball that faces +x, seen by camera 0."""
    for folder in ("preoperative", "intraoperative"):
        (root / folder).mkdir(parents=True)
    mesh = trimesh.creation.icosphere(3, 20.0)
    mesh.apply_translation([100.0, -50.0, 30.0])
    mesh.export(root / "preoperative" / f"{name}.stl")
    cap = mesh.vertices[mesh.vertices[:, 0] > 110.0]
    text = "\n".join(f"{x:.3f},{y:.3f},{z:.3f}" for x, y, z in cap)
    (root / "intraoperative" / f"{name}_camera0.xyz").write_text(text + "\n")
    return cap


def test_files_written_by_hand(tmp_path):
    cap = ball(tmp_path, "A_b_l2")
    (case,) = spinedepth_pairs.convert(tmp_path)
    assert (case.id, case.source, list(case.model)) == ("A_b_L2_camera0", "A_b", ["L2"])
    matrix = poses.to_matrix(case.truth["L2"])
    np.testing.assert_allclose(matrix[2, :3], [-1.0, 0.0, 0.0], atol=0.02)  # it looks along -x
    assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1.0)
    np.testing.assert_allclose(
        case.points, cap @ matrix[:3, :3].T + matrix[:3, 3], rtol=1e-5, atol=2e-3
    )
    assert (case.points[:, 2] < CAMERA_DISTANCE_MM + 10.0).all()
    np.testing.assert_array_equal(case.colors, 0.5)


def change(name, text):
    def spoil(root):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        if text is None:
            path.unlink()
        else:
            old = path.read_text() if path.exists() and path.suffix == ".xyz" else ""
            path.write_text(text(old) if callable(text) else text)

    return spoil


def rows(function):
    """Changes the numbers of the cloud."""

    def text(old):
        table = function(np.loadtxt(old.splitlines(), delimiter=","))
        return "\n".join(" ".join(map(str, row)) for row in table)

    return change(CLOUD, text)


CLOUD, SURFACE = "intraoperative/A_L2_camera0.xyz", "preoperative/A_L2.stl"
BROKEN = {
    "empty": (change(CLOUD, ""), "holds 0 points"),
    "only a comment": (change(CLOUD, "# x y z\n"), "holds 0 points"),
    "text": (change(CLOUD, "x y z\n"), "is no table of numbers"),
    "truncated": (change(CLOUD, lambda t: t[:-8]), "is no table of numbers"),
    "binary": (lambda r: (r / CLOUD).write_bytes(b"\xff\xfe\x00"), "is no table of numbers"),
    "four columns": (rows(lambda a: np.pad(a, ((0, 0), (0, 1)))), "has rows of 4 values"),
    "few": (rows(lambda a: a[:20]), "holds 20 points"),
    "NaN": (rows(lambda a: np.where(a == a[3, 1], np.nan, a)), "not finite"),
    "metres": (rows(lambda a: a * 1e-3), "in metres"),
    "colours": (rows(lambda a: np.hstack([a, 0 * a + 300])), "not colours from 0 to 255"),
    "camera frame": (
        rows(lambda a: np.add(a, [0, 0, 500])),
        "bring both into one coordinate system",
    ),
    "no cloud": (change(CLOUD, None), "holds no .xyz cloud"),
    "no camera": (change("intraoperative/A_L2.xyz", "1 2 3"), "A_L2.xyz: is not named"),
    "missing level": (change(SURFACE, None), "A_L2.stl: no such file, but there is A_L2_camera0"),
    "torn surface": (change(SURFACE, "solid x"), "A_L2.stl"),
    "no folder": (lambda r: (r / "preoperative").rename(r / "before"), "preoperative: no such"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_in_one_sentence(name, tmp_path, capsys):
    spoil, words = BROKEN[name]
    ball(tmp_path / "in")
    spoil(tmp_path / "in")
    refused(capsys, words, "convert", "pairs", tmp_path / "in", tmp_path / "out")
    assert not list(tmp_path.glob("out/*"))


def test_unknown_specimens_and_cameras_are_refused(tmp_path, capsys):
    ball(tmp_path / "in")
    for words, *more in (
        ("has no specimen B", "--specimens", "B"),
        ("use 0, 1 or both", "--cameras", "2"),
    ):
        refused(capsys, words, "convert", "pairs", tmp_path / "in", tmp_path / "out", *more)


def test_the_writer_needs_the_truth_of_the_level(simulated_cases, tmp_path):
    case = simulated_cases[0]
    with pytest.raises(ValueError, match="no truth of T9"):
        layouts.write_pairs(tmp_path, {PairId("a", "T9", 0): case})
