"""Lens models against OpenCV, against librealsense's formulas worked out by hand, and inverses."""

import numpy as np
import pytest

from e2r.geometry import lens_distortion

cv2 = pytest.importorskip("cv2")

SIZE = (128, 96)
MATRIX = np.array([[100.0, 0, 63.5], [0, 101.0, 47.5], [0, 0, 1]])
OPENCV = {
    "four": (-0.25, 0.05, 2e-3, -1e-3),
    "five": (-0.2, 0.05, 1e-3, -5e-4, 0.02),
    "eight": (0.45, -2.3, 4e-4, -1e-4, 1.4, 0.33, -2.1, 1.3),
    "thin prism": (-0.2, 0.05, 1e-3, 2e-3, 0.01, 0.02, 0.01, 0.001, 0.01, -0.02, 0.015, 0.005),
    "tilted": (-0.2, 0.05, 1e-3, 2e-3, 0.01, 0.0, 0.0, 0.0, 0.01, -0.02, 0.015, 0.005, 0.06, -0.04),
}


def rays():
    v, u = np.mgrid[: SIZE[1], : SIZE[0]].astype(float)
    return (u - MATRIX[0, 2]) / MATRIX[0, 0], (v - MATRIX[1, 2]) / MATRIX[1, 1]


def pixels(distortion, model):
    x, y = lens_distortion.distort(*rays(), distortion, model=model)
    return x * MATRIX[0, 0] + MATRIX[0, 2], y * MATRIX[1, 1] + MATRIX[1, 2]


@pytest.mark.parametrize("name", OPENCV)
def test_every_number_of_opencv_coefficients_is_as_opencv_has_it(name):
    values = OPENCV[name]
    goal = cv2.initUndistortRectifyMap(
        MATRIX, np.array(values), np.eye(3), MATRIX, SIZE, cv2.CV_32FC1
    )
    found = pixels(values, "brown_conrady")
    np.testing.assert_allclose(found, goal, atol=1e-3)
    assert np.abs(goal[0] - np.arange(SIZE[0])).max() > 1.0


@pytest.mark.parametrize(
    "values", [(0.02, -0.01, 0.004, -0.001), (0.0,) * 4, (-0.1, 0.05, 0.0, 0.0)]
)
def test_equidistant_is_opencvs_fisheye(values):
    goal = cv2.fisheye.initUndistortRectifyMap(
        MATRIX, np.array(values), np.eye(3), MATRIX, SIZE, cv2.CV_32FC1
    )
    np.testing.assert_allclose(pixels(values, "equidistant"), goal, atol=1e-3)
    assert np.abs(goal[0] - np.arange(SIZE[0])).max() > 1.0
    assert lens_distortion.Lens(1.0, 1.0, 0.0, 0.0, values, model="equidistant").bends


def test_modified_brown_conrady_is_librealsenses():
    """At (0.3, -0.2), 2.59 projects to the first pair; to the second by plain Brown-Conrady."""
    values = (-0.15, 0.05, 0.01, -0.02, 0.03)
    point = np.array(0.3), np.array(-0.2)
    found = lens_distortion.distort(*point, values, model="modified_brown_conrady")
    np.testing.assert_allclose(found, (0.28720007, -0.19190005), atol=1e-7)
    plain = lens_distortion.distort(*point, values)
    np.testing.assert_allclose(plain, (0.28702327, -0.19178218), atol=1e-7)
    # By hand: r2 = 0.13, f = 0.98141091, X = 0.29442327, Y = -0.19628218.
    x, y = 0.3 * 0.98141091, -0.2 * 0.98141091
    by_hand = (
        x + 2 * 0.01 * x * y - 0.02 * (0.13 + 2 * x * x),
        y - 2 * 0.02 * x * y + 0.01 * (0.13 + 2 * y * y),
    )
    np.testing.assert_allclose(found, by_hand, atol=1e-7)


def test_the_field_of_view_model_has_its_closed_form():
    """An angle of pi / 2 has tan(w / 2) = 1: r = 0.5 arrives at atan(1) / (pi / 2) = 0.5."""
    point = np.array([0.5, 0.3, 0.0]), np.array([0.0, 0.4, 0.0])
    found = lens_distortion.distort(*point, (np.pi / 2,), model="fov")
    np.testing.assert_allclose(found, ([0.5, 0.3, 0.0], [0.0, 0.4, 0.0]), atol=1e-12)
    x, _ = lens_distortion.distort(np.array(2.0), np.array(0.0), (np.pi / 2,), model="fov")
    np.testing.assert_allclose(x, np.arctan(4.0) / (np.pi / 2))
    straight = lens_distortion.distort(*point, (0.0,), model="fov")
    np.testing.assert_allclose(straight, point)


@pytest.mark.parametrize(
    ("values", "model"),
    [
        (OPENCV["eight"], "brown_conrady"),
        (OPENCV["tilted"], "brown_conrady"),
        ((-0.15, 0.05, 0.01, -0.02, 0.03), "modified_brown_conrady"),
        ((0.02, -0.01, 0.004, -0.001), "equidistant"),
        ((0.9,), "fov"),
    ],
)
def test_undistort_is_the_inverse_of_every_model(values, model):
    x, y = rays()
    bent = lens_distortion.distort(x, y, values, model=model)
    back = lens_distortion.undistort(*bent, values, model=model)
    np.testing.assert_allclose(back, (x, y), atol=1e-6)


def test_what_lies_beyond_a_fold_is_lost():
    """With k1 = -0.3, the image radius r - 0.3 r^3 turns back at r = 1 / sqrt(0.9)."""
    fold = 1.0 / np.sqrt(0.9)
    r = np.array([fold - 1e-3, fold + 1e-3])
    found, _ = lens_distortion.distort(r, np.zeros(2), (-0.3, 0.0, 0.0, 0.0))
    np.testing.assert_allclose(found[0], r[0] - 0.3 * r[0] ** 3)
    assert np.isnan(found[1])
    top = fold - 0.3 * fold**3
    back, _ = lens_distortion.undistort(np.array([top - 1e-3, top + 1e-2]), np.zeros(2), (-0.3,))
    assert back[0] < fold and np.isnan(back[1])
    # The angle a - 0.3 a^3 of a fish-eye lens turns back at the same angle.
    beyond = np.tan([fold - 1e-3, fold + 1e-3])
    found, _ = lens_distortion.distort(beyond, np.zeros(2), (-0.3,), model="equidistant")
    assert np.isfinite(found[0]) and np.isnan(found[1])
