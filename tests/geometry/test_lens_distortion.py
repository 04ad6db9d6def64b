"""Lens distortion against closed forms."""

import numpy as np

from e2r.geometry import lens_distortion


def test_each_distortion_term_has_its_closed_form():
    """One term at a time, by OpenCV's formulas; NaN where the model folds the image over."""
    x, y, r = 0.3, -0.2, 0.13
    for name, goal in {
        "k1": (x * (1 + 0.1 * r), y * (1 + 0.1 * r)),
        "k3": (x * (1 + 0.1 * r**3), y * (1 + 0.1 * r**3)),
        "k4": (x / (1 + 0.1 * r), y / (1 + 0.1 * r)),
        "p1": (x + 0.1 * 2 * x * y, y + 0.1 * (r + 2 * y * y)),
        "p2": (x + 0.1 * (r + 2 * x * x), y + 0.1 * 2 * x * y),
    }.items():
        given = tuple(0.1 if name == each else 0.0 for each in lens_distortion.COEFFICIENTS)
        np.testing.assert_allclose(lens_distortion.distort(np.array(x), np.array(y), given), goal)
    inside_out = lens_distortion.distort(np.array(2.0), np.array(0.0), (-1.0, *[0.0] * 7))
    assert np.isnan(inside_out).all()
