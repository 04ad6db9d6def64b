"""Pictures show what they are given: closed forms, layers, colours, and files that open."""

import re

import numpy as np
import pytest
import trimesh
from PIL import Image
from scipy.spatial.transform import Rotation

from e2r.datasets.case import Case, RgbdImage, case_from_image
from e2r.types import Pose
from e2r.visualisation import animation, figures

TURN = Pose(Rotation.from_euler("z", 90, degrees=True).as_matrix(), np.array([10.0, 0, 200]))


@pytest.fixture
def ball():
    return trimesh.creation.icosphere(subdivisions=3, radius=10.0)


def case_of(depth, color=(100, 100, 100), **fields):
    picture = RgbdImage(np.full((*depth.shape, 3), color, np.uint8), depth, 50, 50, 5, 5)
    return case_from_image(picture, id="one", model={}, **fields)


def test_a_scene_has_its_layers(rng, ball):
    points = rng.normal(size=(50, 3)) + np.array([0, 0, 200])
    points[0] = np.nan
    weights = np.linspace(0, 1, 50)
    figure = figures.scene_figure(
        points,
        rng.uniform(size=(50, 3)),
        weights,
        {"L1": ball, "L2": ball},
        {"L1": TURN},
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
    assert eye.z < 0 and up.y < 0  # as the surgeon sees it: from the camera, y down
    assert figure.layout.scene.aspectmode == "data"
    assert [t.name for t in figures.scene_figure(points).data] == ["scene"]


def test_colours_are_those_of_the_points():
    figure = figures.scene_figure(np.eye(3), np.array([[1, 0, 0], [0, 1.0, 0], [0.5, 0.5, 2.0]]))
    assert list(figure.data[0].marker.color) == ["#ff0000", "#00ff00", "#8080ff"]


def test_a_thinned_surface_is_the_same_shape(ball):
    few = figures.thinned(ball, 300)
    assert 100 < len(few.faces) <= 300
    assert few.area == pytest.approx(ball.area, rel=0.1)
    assert figures.thinned(ball, len(ball.faces)).faces.shape == ball.faces.shape


def test_the_overlay_tints_what_the_mask_keeps():
    depth = np.full((12, 16), 100.0)
    depth[:, 0] = 0.0  # unseen: no point, never tinted
    case = case_of(depth)
    columns = np.tile(np.arange(16), (12, 1))[depth > 0]
    image = figures.overlay(case, columns >= 8, np.arange(len(case.points)))
    assert image.shape == (12, 16, 3) and image.dtype == np.uint8
    assert (image[:, :8] == 100).all()
    np.testing.assert_array_equal(image[5, 12], np.round(0.35 * 100 + 0.65 * figures.RED))
    # One pixel in nine is sampled, in any order, and padded: the picture hardly changes.
    rows = np.flatnonzero((columns % 3 == 1) & (np.repeat(np.arange(12), 15) % 3 == 1))[::-1]
    sparse = figures.overlay(
        case, np.append(columns[rows] >= 8, [1.0, 1.0]), np.append(rows, [-1, -1])
    )
    assert (sparse != image).any(axis=2).mean() < 0.1
    np.testing.assert_array_equal(figures.overlay(case, np.ones(2), np.full(2, -1)), 100)
    with pytest.raises(ValueError, match="one: is a cloud"):
        figures.overlay(Case("one", {}, case.points, case.colors), columns, rows)


def test_curves_and_maps_show_their_numbers():
    (line,) = figures.success_curves({"learnt": [3.0, 1.0, np.nan, 2.0]}).data
    np.testing.assert_allclose(line.x, [1, 2, 3])
    np.testing.assert_allclose(line.y, [1 / 3, 2 / 3, 1])
    bars = figures.residual_curves({"before": [0.0, 1, 2, np.inf], "after": np.zeros(7)}).data
    assert [bar.name for bar in bars] == ["before", "after"]
    for bar in bars:
        assert sum(bar.y) == pytest.approx(1.0)
    assert bars[1].y[0] == 1.0
    maps = {"a": [[1, 2, 3], [4, 5, 6]], "b": np.zeros((2, 3)), "c": np.ones((2, 3))}
    sheet = figures.heat_maps(maps, (0, 4, 8.5), (0, 4), x_title="mm", y_title="°", columns=2)
    np.testing.assert_array_equal(sheet.data[0].z, maps["a"])
    assert sheet.data[0].x == ("0", "4", "8.5")
    assert [note.text for note in sheet.layout.annotations] == ["a", "b", "c"]
    curve = {"coverage": [0.5, 1.0], "wrong": [0.0, 0.5], "expected_tre_mm": [1, 9]}
    assert list(figures.risk_coverage(curve).data[0].y) == [0.0, 0.5]


def test_training_curves_are_medians_of_what_is_there():
    lines = [{"step": i + 1, "loss": float(i % 2), "keep": 0.5} for i in range(300)]
    lines[7]["loss"] = 1e9
    curves = {trace.name: trace for trace in figures.training_curves(lines).data}
    assert len(curves["loss"].x) == 100 and curves["loss"].x[-1] == 300
    assert max(curves["loss"].y) <= 1.0
    assert set(curves["share kept"].y) == {0.5}
    assert len(curves["coarse stage"].x) == 0
    assert all(len(trace.x) == 0 for trace in figures.training_curves([]).data)


def test_a_page_fetches_nothing_and_holds_plotly_once(rng):
    views = [
        figures.html_fragment(figures.scene_figure(rng.normal(size=(9, 3))), f"v{i}")
        for i in (0, 1)
    ]
    page = figures.html_page("<script>alert(1)</script>", "".join(views))
    assert page.count("* plotly.js v") == 1
    assert "<title>&lt;script&gt;" in page
    assert page.count('id="v0"') == page.count('id="v1"') == 1
    body = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#)""", body)


def test_a_registration_moves_into_the_cloud(ball, tmp_path):
    """The model is drawn where it is: 16 px to the left first, then in the middle; red on top."""
    still = np.eye(3)
    trajectory = Pose(np.stack([still] * 3), np.array([[-2.0, 0, 300], [-1, 0, 300], [0, 0, 300]]))
    front = np.array([[0.0, 0, 280], [0, 0, 320]])  # before and behind the ball
    images = animation.frames(
        front,
        np.array([[0, 1.0, 0], [0, 0, 1.0]]),
        {"L1": ball},
        trajectory,
        weights=np.array([1.0, 0.0]),
        size=200,
    )
    assert images.shape == (3, 200, 400, 3) and images.dtype == np.uint8
    left = images[:, 20:, :200].astype(int)
    bone = left[..., 0] + left[..., 1] > 200
    assert bone[0].sum() > 15000
    middles = [np.argwhere(b)[:, 1].mean() for b in bone]
    np.testing.assert_allclose(middles, np.array([84, 92, 100]), atol=1)
    np.testing.assert_allclose(
        left[2, 80, 100], 0.3 * np.array([0, 255, 0]) + 0.7 * figures.RED, atol=1
    )
    assert not (left[2, ..., 2] > left[2, ..., 0] + 50).any()  # what is behind stays hidden
    for name in ("a.gif", "b.webp"):
        animation.write(tmp_path / name, images)
        with Image.open(tmp_path / name) as file:
            assert file.n_frames == 3 and file.size == (400, 200)
    for bad in ("a.png", "a"):
        with pytest.raises(ValueError, match="ends in"):
            animation.write(tmp_path / bad, images)
