"""A scene of 3D Slicer, by its own rules and VTK's readers: all exported files coincide in it."""

import json

import numpy as np
import pytest
import SimpleITK
import trimesh
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from e2r.datasets import case_folder
from e2r.datasets.case import make_case
from e2r.evaluation import slicer
from e2r.formats import mesh_space, meshes
from e2r.formats.scenes import ScenePoints
from e2r.geometry import poses
from e2r.types import Pose

LPS = np.array([-1.0, -1.0, 1.0])
POSE = Pose(
    np.asarray(poses.exp_rotation(np.array([0.4, -1.1, 0.7], np.float32))),
    np.array([12.0, -30.0, 510.0], np.float32),
)


def load_into_slicer(path):
    """RAS vertices as 3D Slicer shows them: files are LPS unless their header says SPACE=RAS."""
    reader = {".stl": vtk.vtkSTLReader, ".ply": vtk.vtkPLYReader}[path.suffix]()
    reader.SetFileName(str(path))
    reader.Update()
    if path.suffix == ".stl":
        said = reader.GetHeader() or ""
    else:
        comments = reader.GetComments()
        said = " ".join(comments.GetValue(i) for i in range(comments.GetNumberOfValues()))
    points = vtk_to_numpy(reader.GetOutput().GetPoints().GetData()).astype(float)
    return points if "SPACE=RAS" in said else points * LPS


def moved_in_slicer(points, transform_file):
    """RAS points under a transform node: the file maps from the parent, in LPS."""
    to_parent = SimpleITK.ReadTransform(str(transform_file)).GetInverse()
    return np.array([LPS * to_parent.TransformPoint((LPS * p).tolist()) for p in points])


def same_places(a, b, atol=0.01):
    """Whether two sets of vertices lie in the same places, in any order."""
    nearest = [np.linalg.norm(b - row, axis=1).min() for row in a]
    return max(nearest) < atol and abs(np.ptp(a, 0) - np.ptp(b, 0)).max() < atol


def spine():
    """One level, away from the origin and without symmetry."""
    body = trimesh.creation.box([40.0, 32.0, 26.0])
    process = trimesh.creation.box([8.0, 50.0, 12.0]).apply_translation([3.0, -30.0, -6.0])
    whole = trimesh.util.concatenate([body, process]).apply_translation([-110.0, 85.0, -640.0])
    return {"L3": whole}


def make(model):
    targets = {name: np.asarray(mesh.vertices)[:4] for name, mesh in model.items()}
    rng = np.random.default_rng(0)
    cloud = ScenePoints(rng.uniform(400, 500, (40, 3)), np.full((40, 3), 0.5))
    truth = dict.fromkeys(model, POSE)
    return make_case(cloud, id="a", model=model, truth=truth, targets=targets)


@pytest.mark.parametrize("kind", ["ply", "stl"])
@pytest.mark.parametrize("space", ["RAS", "LPS", None])
def test_model_transform_surface_and_targets_coincide(tmp_path, kind, space, caplog):
    """Of a user's model that declares RAS, LPS or nothing."""
    (tmp_path / "given").mkdir()
    mesh = spine()["L3"]
    content = mesh_space.encode(mesh, f".{kind}", "test")
    if space == "LPS":
        mesh.apply_transform(mesh_space.LPS_TO_RAS)
        content = mesh_space.encode(mesh, f".{kind}", "test").replace(b"SPACE=RAS", b"SPACE=LPS")
    elif space is None:
        content = content.replace(b"SPACE=RAS", b"         ")
    given = tmp_path / "given" / f"L3.{kind}"
    given.write_bytes(content)
    case = make(meshes.read_meshes(tmp_path / "given"))
    assert any("LPS" in record.getMessage() for record in caplog.records) == (space == "LPS")
    case_folder.write_case(case, tmp_path / "case")
    out = tmp_path / "out"
    out.mkdir()
    read = case_folder.read_case(tmp_path / "case")
    slicer.export_prediction(out, read.model, read.truth, targets=read.targets, surfaces=(kind,))

    model = load_into_slicer(tmp_path / "case" / "model" / "L3.stl")
    assert same_places(model, spine()["L3"].vertices)
    registered = load_into_slicer(out / f"L3.{kind}")
    assert same_places(moved_in_slicer(model, out / "L3_slicer.tfm"), registered)
    (markup,) = json.loads((out / "targets.mrk.json").read_text())["markups"]
    targets = np.array([LPS * point["position"] for point in markup["controlPoints"]])
    assert all(np.linalg.norm(registered - row, axis=1).min() < 0.01 for row in targets)
    if space is not None:  # the user's own file is at the same place, too
        assert same_places(load_into_slicer(given), model)


def test_surfaces_without_the_comment_would_lie_elsewhere(tmp_path):
    """What exports of before did in 3D Slicer."""
    (tmp_path / "old.stl").write_bytes(spine()["L3"].export(file_type="stl"))
    meshes.write_meshes(spine(), tmp_path / "model")
    old = load_into_slicer(tmp_path / "old.stl")
    new = load_into_slicer(tmp_path / "model" / "L3.stl")
    assert np.linalg.norm(old.mean(0) - new.mean(0)) > 200.0


@pytest.mark.parametrize(
    ("suffix", "head", "space"),
    [
        (".stl", b"3D Slicer output. SPACE=LPS".ljust(80, b"\0"), "LPS"),
        (".stl", b"solid vtk SPACE=RAS\n facet", "RAS"),
        (".stl", b"solid a\nfacet normal 0 0 1\n SPACE=LPS", None),
        (".ply", b"ply\nformat ascii 1.0\ncomment SPACE=LPS\nend_header\n", "LPS"),
        (".ply", b"ply\nformat ascii 1.0\nend_header\nSPACE=LPS", None),
        (".obj", b"# 3D Slicer output. SPACE=LPS\n# more\nv 0 0 0\n", "LPS"),
        (".obj", b"v 0 0 0\n# SPACE=LPS\n", None),
        (".stl", b"made elsewhere".ljust(80, b" "), None),
    ],
)
def test_only_the_header_declares_axes(suffix, head, space):
    assert mesh_space.declared_space(head, suffix) == space


def gltf_in_vtk(path):
    """Name -> vertices of a GLB file in the file's own unit, by VTK's reader."""
    reader = vtk.vtkGLTFReader()
    reader.SetFileName(str(path))
    reader.Update()
    found, blocks = [], reader.GetOutput().NewIterator()
    while not blocks.IsDoneWithTraversal():
        found.append(vtk_to_numpy(blocks.GetCurrentDataObject().GetPoints().GetData()))
        blocks.GoToNextItem()
    return np.concatenate(found)


@pytest.mark.parametrize("count", [1, 3])
def test_glb_is_in_metres_and_is_read_back_in_mm(tmp_path, count):
    model = {
        f"L{i}": spine()["L3"].copy().apply_translation([0.0, 0.0, 40.0 * i]) for i in range(count)
    }
    slicer.export_prediction(tmp_path, model, dict.fromkeys(model, POSE), surfaces=("glb",))
    moved = [poses.apply_host(POSE, np.asarray(mesh.vertices)) for mesh in model.values()]
    assert same_places(1000.0 * gltf_in_vtk(tmp_path / "levels.glb"), np.concatenate(moved))
    back = meshes.read_meshes(tmp_path / "levels.glb")
    assert sorted(back) == sorted(model)
    for goal, name in zip(moved, model, strict=True):
        assert same_places(np.asarray(back[name].vertices), goal)


def test_a_folder_of_glb_files_is_a_model(tmp_path):
    (tmp_path / "L3.glb").write_bytes(
        trimesh.Scene([spine()["L3"].copy().apply_scale(1e-3)]).export(file_type="glb")
    )
    assert same_places(meshes.read_meshes(tmp_path)["L3"].vertices, spine()["L3"].vertices)


def test_every_exported_file_says_its_frame(tmp_path):
    """In words, in the file itself."""
    model, kinds = spine(), ("ply", "stl", "glb")
    targets = {name: np.asarray(mesh.vertices)[:4] for name, mesh in model.items()}
    poses_of = dict.fromkeys(model, POSE)
    files = slicer.export_prediction(tmp_path, model, poses_of, targets=targets, surfaces=kinds)
    assert len(files) == 7
    for path in files:
        said = path.read_bytes()[:3000]
        assert b"camera" in said, path
        assert b"mm" in said or b'"unit": "m"' in said or b'"unit":"m"' in said, path
    np.testing.assert_allclose(np.loadtxt(tmp_path / "L3.txt"), poses.to_matrix(POSE), rtol=1e-6)
