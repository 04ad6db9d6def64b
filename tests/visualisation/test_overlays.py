"""The mask overlay tints the pixels that the mask keeps, and no others."""

import numpy as np
import pytest

from e2r.datasets.case import make_case
from e2r.formats.scenes import RgbdImage, ScenePoints
from e2r.visualisation.colors import MASK_RGB
from e2r.visualisation.overlays import mask_overlay


def gray_case(depth):
    image = RgbdImage(np.full((*depth.shape, 3), 100, np.uint8), depth, 50.0, 50.0, 5.0, 5.0)
    return make_case(image, id="one", model={})


def test_the_overlay_tints_the_kept_points():
    depth = np.full((12, 16), 100.0)
    depth[:, 0] = 0.0  # pixels without depth are never tinted
    case = gray_case(depth)
    columns = np.tile(np.arange(16), (12, 1))[depth > 0]
    weights = (columns >= 8).astype(np.float32)
    image = mask_overlay(case, weights, np.arange(len(case.points)))
    assert image.shape == (12, 16, 3) and image.dtype == np.uint8
    assert (image[:, :8] == 100).all()
    np.testing.assert_array_equal(image[5, 12], np.round(35 + 0.65 * np.array(MASK_RGB)))
    # A sample of one pixel in nine, in another order and padded, hardly changes the image.
    rows = np.flatnonzero((columns % 3 == 1) & (np.repeat(np.arange(12), 15) % 3 == 1))[::-1]
    sparse = mask_overlay(case, np.append(weights[rows], [1.0, 1.0]), np.append(rows, [-1, -1]))
    assert (sparse != image).any(axis=2).mean() < 0.1
    np.testing.assert_array_equal(mask_overlay(case, np.ones(2), np.full(2, -1)), 100)
    cloud = make_case(ScenePoints(case.points, case.colors), id="one", model={})
    with pytest.raises(ValueError, match="one: is a cloud"):
        mask_overlay(cloud, weights[rows], rows)
