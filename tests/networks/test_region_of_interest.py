"""The region of interest: its centre and its crop."""

import jax.numpy as jnp
import numpy as np

from e2r.networks.region_of_interest import ROI_RADIUS_MM, crop, locate, points_within
from e2r.types import Cloud


def test_the_centre_is_the_mode_of_interest_not_the_mean(rng):
    wound = rng.normal(size=(300, 3)) * 15 + [40.0, 10.0, 500.0]
    elsewhere = rng.normal(size=(60, 3)) * 10 + [-250.0, 0.0, 500.0]
    rest = rng.uniform([-300, -300, 220], [300, 300, 820], (664, 3))
    points = np.concatenate([wound, elsewhere, rest]).astype(np.float32)
    interest = np.where(np.arange(1024) < 360, 3.0, -4.0)
    cloud = Cloud(points, points, points, np.ones(1024, bool))
    centre = locate(cloud, jnp.asarray(interest))
    assert np.linalg.norm(np.asarray(centre) - [40.0, 10.0, 500.0]) < 12.0
    assert np.isfinite(locate(cloud, jnp.full(1024, -1e4))).all()


def test_crop_keeps_near_interesting_points():
    points = np.random.default_rng(0).normal(size=(5000, 3)) * 100
    plain = np.zeros((600, 3), np.float32)
    first = Cloud(points[:600].astype(np.float32), plain, plain, np.arange(600) < 500)
    interest = np.where(points[:600, 0] > 0, 3.0, -9.0)
    rows = crop(points, first, interest, centre=np.zeros(3), min_points=200)
    assert (np.linalg.norm(points[rows], axis=1) < ROI_RADIUS_MM).all()
    assert (points[rows, 0] > 0).mean() > 0.8
    every = crop(points, first, np.full(600, -9.0), centre=np.zeros(3), min_points=200)
    assert np.array_equal(every, points_within(points, np.zeros(3), ROI_RADIUS_MM))
    assert crop(points, first, interest, centre=np.full(3, 1e4), min_points=200) is None
