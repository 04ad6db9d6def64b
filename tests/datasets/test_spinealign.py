"""SpineAlign: a small copy of the layout, files written by hand, broken ones."""

import pickle

import layouts
import numpy as np
import pytest
import trimesh
from conftest import refused

from e2r.cli import main
from e2r.datasets import case_folder, spinealign
from e2r.datasets.case import true_pose
from e2r.geometry import poses


@pytest.fixture(scope="module")
def given(simulated_cases):
    a, b, c = simulated_cases[:3]
    return {("seq01", 3): a, ("seq01", 7): b, ("seq02", 0): c}


@pytest.fixture
def root(given, tmp_path):
    layouts.write_spinealign(tmp_path / "SpineAlign", given)
    return tmp_path / "SpineAlign"


def test_a_written_data_set_is_read_back(root, given, tmp_path, capsys):
    assert main(["convert", "spinealign", str(root), str(tmp_path / "cases")]) == 0
    out = capsys.readouterr().out
    assert "3 cases" in out and "labels themselves: 0.00 mm" in out
    for (sequence, frame), case in given.items():
        found = case_folder.read_case(tmp_path / "cases" / f"{sequence}_frame{frame:05d}")
        assert found.source == sequence
        assert list(found.model) == [spinealign.LEVEL]
        np.testing.assert_allclose(found.points, case.points, atol=1e-3)
        np.testing.assert_allclose(found.colors, case.colors, atol=1e-6)
        pose, goal = found.truth[spinealign.LEVEL], true_pose(case)
        np.testing.assert_allclose(pose.rotation, goal.rotation, atol=1e-5)
        np.testing.assert_allclose(pose.translation, goal.translation, atol=5e-3)
        anchors = np.asarray(poses.apply(pose, found.targets[spinealign.LEVEL].astype(np.float32)))
        apart = np.linalg.norm(anchors[:, None] - case.points[case.bone], axis=2).min(1)
        assert 20 < len(anchors) <= 60 and apart.max() < 2.01
    some = [case.id for case, _ in spinealign.convert(root, sequences=["seq01"], every=2)]
    assert some == ["seq01_frame00003"]


CENTRE = np.array([5.0, -3.0, 420.0])


def by_hand(root, protocol=4, shift=(0.0, 0.0, 0.0), name="closest_points_p1.pkl"):
    """One frame of a ball; the index was made on a machine with other folders."""
    (root / "CT_DATA" / "deep").mkdir(parents=True)
    mesh = trimesh.creation.icosphere(2, 20.0)
    mesh.export(root / "CT_DATA" / "mesh_transformed_p1.ply")
    mesh.export(root / "CT_DATA" / "mesh_transformed_undeformed_p1.ply")
    rows = np.flatnonzero(mesh.vertices[:, 2] < -10.0)
    scene = np.array(mesh.vertices)[rows] + CENTRE
    grid = np.zeros((2, len(rows), 3))
    grid[0] = scene
    layouts.write_pcd(root / "CT_DATA" / "deep" / "0001.pcd", grid, np.full(grid.shape, 0.2))
    index = {0: ("C:\\x\\SAMPLED_RESULTS\\" + name, "a1", "/mnt/k/deep/0001.pcd", 0, rows.tolist())}
    table = {"a1": (scene + shift, {"rest": np.float32(2.0), "mask": np.ones(3, bool)})}
    for path, value in (("index_data_map_x.pkl", index), (name, table)):
        with (root / "CT_DATA" / path).open("wb") as file:
            pickle.dump(value, file, protocol=protocol)
    return index, table


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_files_written_by_hand(tmp_path, protocol):
    """Pickles of every protocol; z == 0 is left out; paths of another machine are found."""
    index, table = by_hand(tmp_path, protocol)
    ((case, label),) = spinealign.convert(tmp_path)
    assert (case.id, case.source) == ("p1_framea1", "p1")
    np.testing.assert_allclose(label.pose[:3, 3], CENTRE, atol=1e-6)
    np.testing.assert_allclose(label.pose[:3, :3], np.eye(3), atol=1e-6)
    assert label.rmse_mm < 1e-4
    np.testing.assert_allclose(case.points, table["a1"][0], atol=1e-3)
    assert len(case.points) == len(index[0][4])
    np.testing.assert_allclose(case.colors, 0.2, atol=1e-6)


def index(change):
    """Changes the one row of the index."""

    def spoil(folder):
        path = folder / "index_data_map_x.pkl"
        table = pickle.loads(path.read_bytes())
        path.write_bytes(pickle.dumps(change(list(table[0]))))

    return spoil


def row(place, value):
    def change(old):
        old[place] = value(old[place]) if callable(value) else value
        return {0: old}

    return index(change)


def closest(change):
    def spoil(folder):
        path = folder / "closest_points_p1.pkl"
        table = pickle.loads(path.read_bytes())
        path.write_bytes(pickle.dumps(change(table["a1"][0])))

    return spoil


def file(name, data=None):
    return lambda f: (f / name).unlink() if data is None else (f / name).write_bytes(data)


INDEX, POINTS = "index_data_map_x.pkl", "closest_points_p1.pkl"
BROKEN = {
    "no index": (file(INDEX), "holds 0 files index_data_map*.pkl"),
    "two indices": (file("index_data_map_y.pkl", b""), "holds 2 files index_data_map*.pkl"),
    "empty index": (file(INDEX, b""), "x.pkl: is no whole pickle"),
    "text": (file(INDEX, b"frames"), f"{INDEX}: is no"),
    "a list": (index(lambda r: [r]), f"{INDEX}: must hold a dict"),
    "short row": (index(lambda r: {0: r[:4]}), f"{INDEX}: frame 0 must be a list of five"),
    "no path": (row(0, 3), "holds '3' for a path"),
    "path outside": (row(2, "../../0001.pcd"), "may lead outside the folder"),
    "no such cloud": (row(2, "/k/0002.pcd"), "holds no 0002.pcd, which"),
    "two vertices": (row(4, [1, 2]), "must name three vertices or more"),
    "vertices of fractions": (row(4, [1.5, 2.5, 3.5]), "must name three vertices or more"),
    "unknown vertex": (row(4, lambda v: [*v[:-1], 9999]), "names vertex 9999"),
    "fewer vertices": (row(4, lambda v: v[:-1]), "they must be pairs"),
    "other vertices": (row(4, lambda v: [0] * len(v)), "on one line"),
    "no such frame": (row(1, "zz"), f"{POINTS}: has no frame 'zz'"),
    "a frame with a slash": (row(1, "../x"), "is no name for a case"),
    "no points": (file(POINTS), f"holds no {POINTS}"),
    "torn points": (lambda f: file(POINTS, (f / POINTS).read_bytes()[:200])(f), f"{POINTS}: is no"),
    "two columns": (closest(lambda p: {"a1": [p[:, :2]]}), "must begin with points x y z"),
    "points of text": (closest(lambda p: {"a1": ["abc"]}), "must begin with points x y z"),
    "NaN": (closest(lambda p: {"a1": [p * np.nan]}), "points that are not finite"),
    "metres": (closest(lambda p: {"a1": [p * 1e-3]}), "mm apart; they must be pairs, in mm"),
    "no surface": (file("mesh_transformed_p1.ply"), "holds 0 files mesh_transformed_p1.ply"),
    "torn surface": (file("mesh_transformed_p1.ply", b"ply\n"), "mesh_transformed_p1.ply"),
    "torn cloud": (file("deep/0001.pcd", b"VERSION .7\n"), "0001.pcd: has no PCD header"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_in_one_sentence(name, tmp_path, capsys):
    spoil, words = BROKEN[name]
    by_hand(tmp_path / "in")
    spoil(tmp_path / "in" / "CT_DATA")
    refused(capsys, words, "convert", "spinealign", tmp_path / "in", tmp_path / "out")
    assert not list(tmp_path.glob("out/*"))


def test_links_out_of_the_folder_and_doubles_are_refused(tmp_path, capsys):
    by_hand(tmp_path / "in")
    path = tmp_path / "in" / "CT_DATA" / "deep" / "0001.pcd"
    arguments = ("convert", "spinealign", tmp_path / "in", tmp_path / "out")
    path.rename(tmp_path / "0001.pcd")
    path.symlink_to(tmp_path / "0001.pcd")
    refused(capsys, "is a link that leads outside", *arguments)
    path.unlink()
    for folder in ("a", "b"):
        (path.parent / folder).mkdir()
        (path.parent / folder / "0001.pcd").write_bytes(b"")
    refused(capsys, "leave one there", *arguments)


def test_wrong_options_are_refused(tmp_path, capsys):
    by_hand(tmp_path / "in")
    arguments = ("convert", "spinealign", tmp_path / "in", tmp_path / "out")
    refused(capsys, "has no sequence zz", *arguments, "--sequences", "zz")
    refused(capsys, "--every is 0", *arguments, "--every", "0")
    refused(capsys, "no such folder", *arguments[:2], tmp_path / "nowhere", tmp_path / "out")


def test_a_label_is_the_best_rigid_motion_of_its_pairs(rng):
    """Noise stays as the label's error; a mirrored set of pairs gives no mirrored pose."""
    model = rng.normal(size=(200, 3)) * [30, 20, 10]
    turn = trimesh.transformations.rotation_matrix(0.7, [1, 2, 3])[:3, :3]
    scene = model @ turn.T + [1, 2, 400] + 0.5 * rng.normal(size=(200, 3))
    label = spinealign.fit_pairs(model, scene, "here")
    np.testing.assert_allclose(label.pose[:3, :3], turn, atol=0.02)
    assert label.rmse_mm == pytest.approx(0.5 * np.sqrt(3), rel=0.1)
    mirrored = spinealign.fit_pairs(0.3 * model, 0.3 * model * [1, 1, -1], "here")
    assert np.linalg.det(mirrored.pose[:3, :3]) == pytest.approx(1.0)
    assert mirrored.rmse_mm > 1.0
