"""The scene figure has the given layers, colours and places; a simplified mesh keeps its shape."""

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from e2r.types import Pose
from e2r.visualisation import figures

QUARTER_TURN = Pose(
    Rotation.from_euler("z", 90, degrees=True).as_matrix(), np.array([10.0, 0, 200])
)


@pytest.fixture
def ball():
    return trimesh.creation.icosphere(subdivisions=3, radius=10.0)


def test_a_scene_has_its_layers(rng, ball):
    points = rng.normal(size=(50, 3)) + np.array([0, 0, 200])
    points[0] = np.nan
    weights = np.linspace(0, 1, 50)
    figure = figures.scene_figure(
        points,
        rng.uniform(size=(50, 3)),
        weights,
        surfaces={"L1": ball, "L2": ball},
        poses={"L1": QUARTER_TURN},
        error=weights,
        targets=points[1:4],
    )
    layers = {trace.name: trace for trace in figure.data}
    assert list(layers) == ["scene", "mask", "error", "L1", "L2", "true targets"]
    assert len(layers["scene"].x) == 49
    assert len(layers["mask"].x) == (weights[1:] > 0.05).sum()
    assert layers["mask"].visible == "legendonly" and layers["error"].visible is True
    np.testing.assert_allclose(layers["L1"].x, 10 - ball.vertices[:, 1], atol=1e-4)  # x' = -y
    np.testing.assert_allclose(layers["L1"].z, 200 + ball.vertices[:, 2], atol=1e-4)
    np.testing.assert_allclose(layers["L2"].x, ball.vertices[:, 0], atol=1e-4)
    eye, up = figure.layout.scene.camera.eye, figure.layout.scene.camera.up
    assert eye.z < 0 and up.y < 0  # seen from the depth camera, whose y axis points down
    assert figure.layout.scene.aspectmode == "data"
    assert [t.name for t in figures.scene_figure(points).data] == ["scene"]


def test_the_colors_are_those_of_the_points():
    figure = figures.scene_figure(np.eye(3), np.array([[1, 0, 0], [0, 1.0, 0], [0.5, 0.5, 2.0]]))
    assert list(figure.data[0].marker.color) == ["#ff0000", "#00ff00", "#8080ff"]


def test_a_simplified_mesh_keeps_its_shape(ball):
    coarse = figures.simplify_mesh(ball, 300)
    assert 100 < len(coarse.faces) <= 300
    assert coarse.area == pytest.approx(ball.area, rel=0.1)
    assert figures.simplify_mesh(ball, len(ball.faces)).faces.shape == ball.faces.shape
