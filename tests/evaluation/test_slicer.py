"""Other programs read the exported files: SimpleITK the transforms, trimesh the surfaces."""

import json

import numpy as np
import pytest
import SimpleITK
import trimesh

from e2r.evaluation import slicer
from e2r.geometry import poses

LPS = np.array([-1.0, -1.0, 1.0])


@pytest.fixture
def written(simulated_cases, tmp_path):
    case = simulated_cases[0]
    slicer.export_prediction(
        tmp_path, case.model, case.truth, targets=case.targets, surfaces=("ply", "stl", "glb")
    )
    return case, tmp_path


def test_itk_maps_landmarks_to_the_camera_frame(written):
    case, folder = written
    for name, mesh in case.model.items():
        read = SimpleITK.ReadTransform(str(folder / f"{name}.tfm"))
        back = SimpleITK.ReadTransform(str(folder / f"{name}_slicer.tfm"))
        for landmark in mesh.vertices[:: len(mesh.vertices) // 7]:
            goal = case.truth[name].rotation @ landmark + case.truth[name].translation
            found = LPS * read.TransformPoint((LPS * landmark).tolist())  # RAS in, RAS out
            np.testing.assert_allclose(found, goal, atol=1e-3)
            np.testing.assert_allclose(
                LPS * back.TransformPoint((LPS * goal).tolist()), landmark, atol=1e-3
            )


def test_matrix_surfaces_and_markups_agree(written):
    case, folder = written
    name = next(iter(case.targets))
    matrix = np.loadtxt(folder / f"{name}.txt")
    np.testing.assert_allclose(matrix, poses.to_matrix(case.truth[name]), atol=1e-5)
    moved = trimesh.transform_points(case.model[name].vertices, matrix)
    for kind in ("ply", "stl"):
        mesh = trimesh.load(folder / f"{name}.{kind}")
        np.testing.assert_allclose(mesh.bounds, [moved.min(0), moved.max(0)], atol=1e-3)
    assert set(trimesh.load(folder / "levels.glb").geometry) == set(case.model)
    (markup,) = json.loads((folder / "targets.mrk.json").read_text())["markups"]
    assert markup["coordinateSystem"] == "LPS"
    points = {p["label"]: LPS * p["position"] for p in markup["controlPoints"]}
    goal = trimesh.transform_points(case.targets[name], matrix)
    np.testing.assert_allclose(points[f"{name}-1"], goal[0], atol=1e-3)
    assert len(points) == sum(map(len, case.targets.values()))


def test_an_unknown_surface_format_is_refused(simulated_cases, tmp_path):
    case = simulated_cases[0]
    with pytest.raises(ValueError, match="--surfaces obj: use some of ply, stl, glb"):
        slicer.export_prediction(tmp_path, case.model, case.truth, surfaces=("obj",))
