"""A patient's vertebrae are known again by their sizes, whatever the mesh."""

import json

import numpy as np
import pytest
import trimesh

from e2r.evaluation.patient import PATIENT_FILE, foreign_level, level_sizes, read_patient


def turned(mesh):
    motion = trimesh.transformations.rotation_matrix(1.0, [1.0, 2.0, 3.0], [5.0, 0.0, 0.0])
    return mesh.copy().apply_transform(motion).apply_translation([40.0, -3.0, 900.0])


def test_frame_and_triangles_do_not_matter_but_size_does(simulated_cases):
    model = simulated_cases[0].model
    sizes = level_sizes(model)
    np.testing.assert_allclose(
        list(level_sizes({"L1": model["L1"].subdivide()})["L1"]), sizes["L1"], rtol=1e-9
    )
    assert foreign_level(sizes, {name: turned(mesh) for name, mesh in model.items()}) is None
    rounded = {
        name: trimesh.Trimesh(np.asarray(mesh.vertices).round(), mesh.faces, process=False)
        for name, mesh in model.items()
    }
    assert foreign_level(sizes, rounded) is None  # a coarse file: whole millimetres
    assert foreign_level(sizes, {"L2": model["L2"]}) is None
    larger = {**model, "L3": model["L3"].copy().apply_scale(1.04)}
    assert foreign_level(sizes, larger) == "L3"
    assert foreign_level(sizes, {"L2": model["L4"]}) == "L2"  # under another name
    assert foreign_level(sizes, {"T12": model["L1"]}) == "T12"


def test_a_sphere_has_the_spread_of_its_formula():
    ball = trimesh.creation.icosphere(subdivisions=5, radius=30.0)
    np.testing.assert_allclose(level_sizes({"L1": ball})["L1"], 30.0 / np.sqrt(3.0), rtol=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"sizes": {"L1": [1, 2]}, "settings": {}}',
        '{"sizes": {}, "settings": {}}',
        '{"sizes": {"L1": [1, 2, 3]}, "settings": {}, "believed": "me"}',
    ],
)
def test_a_broken_file_is_refused_and_a_missing_one_is_nobodys(tmp_path, text):
    assert read_patient(tmp_path) is None
    (tmp_path / PATIENT_FILE).write_text(text)
    with pytest.raises(ValueError, match=r"patient\.json: does not say whose model it is"):
        read_patient(tmp_path)
    good = {"sizes": {"L1": [1, 2, 3]}, "settings": {}}
    (tmp_path / PATIENT_FILE).write_text(json.dumps(good))
    assert read_patient(tmp_path)["sizes"] == {"L1": (1.0, 2.0, 3.0)}
