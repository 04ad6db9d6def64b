"""Errors and statistics against closed forms."""

import json

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from e2r.evaluation import metrics
from e2r.types import Pose


def cube(centre):
    mesh = trimesh.creation.box(extents=[20.0, 20.0, 20.0])
    mesh.apply_translation(centre)
    return mesh


def test_errors_of_known_motions():
    model = {"L1": cube([0, 0, 0]), "L2": cube([0, 0, 40])}
    targets = {
        "L1": np.array([[10.0, 0, 0], [0, 0, 0]]),  # on the surface, deep
        "L2": np.array([[0.0, 0, 50], [0, 3, 40]]),
    }
    still = Pose(np.eye(3), np.zeros(3))
    shifted = Pose(np.eye(3), np.array([3.0, 4.0, 0.0]))
    found = metrics.case_errors(
        {"L1": shifted, "L2": still}, {"L1": still, "L2": still}, targets, model=model
    )
    assert found.tre_mm == pytest.approx(2.5)
    assert found.rmse_mm == pytest.approx(np.sqrt(12.5))
    assert found.tre_surface_mm == pytest.approx(2.5)
    assert found.tre_deep_mm == pytest.approx(2.5)
    assert found.by_level["L1"].tre_mm == pytest.approx(5.0)
    assert found.by_level["L2"].tre_mm == 0
    assert found.translation_mm == pytest.approx(2.5)
    assert found.rotation_deg == 0
    turned = Pose(Rotation.from_euler("z", 90, degrees=True).as_matrix(), np.zeros(3))
    found = metrics.case_errors({"L1": turned}, {"L1": still}, {"L1": targets["L1"]}, model=model)
    assert found.rotation_deg == pytest.approx(90)
    assert found.tre_surface_mm == pytest.approx(10 * np.sqrt(2))
    assert found.tre_deep_mm == pytest.approx(0)
    assert found.translation_mm == pytest.approx(0, abs=1e-9)


def test_bootstrap_draws_specimens_instead_of_frames():
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=20), 50)  # all frames of a specimen are alike
    groups = [str(i) for i in np.repeat(np.arange(20), 50)]
    low, high = metrics.bootstrap(values, groups, metrics.STATISTICS["mean"], seed=0)
    assert 0.6 < (high - low) / (2 * 1.96 * values.std() / np.sqrt(20)) < 1.4
    assert low < values.mean() < high


def test_case_errors_survive_json():
    one = metrics.TargetErrors(1.0, None, 2.0, 3.0, 4.0, 5.0)
    errors = metrics.CaseErrors(**one.to_json(), by_level={"L1": one})
    value = json.loads(json.dumps(errors.to_json()))
    assert list(value) == [*one.to_json(), "by_level"]
    assert metrics.CaseErrors.from_json(value) == errors
    assert metrics.TargetErrors.from_json(value) == one


def test_summary_statistics():
    errors = [metrics.TargetErrors(t, t, None, t, 1.0, 2.0) for t in (0.5, 1.0, 1.5, 2.5, 4.0)]
    summary = metrics.summarise(errors, list("aabbc"), seed=0)
    found = metrics.summary_to_json(summary)
    assert found["count"] == 5
    assert found["tre_mm"]["median"] == 1.5
    assert found["tre_mm"]["mean"] == pytest.approx(1.9)
    assert found["success"] == {"2mm": 0.6, "3mm": 0.8, "5mm": 1.0}
    assert found["tre_deep_mm"]["median"] is None
    assert metrics.summary_to_json(metrics.summarise([], [], seed=0)) == {"count": 0}
