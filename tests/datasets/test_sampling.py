"""Samples of a case's scene points."""

from dataclasses import replace

import numpy as np

from e2r.datasets.sampling import sample_scene_points
from e2r.networks.build import NetworkConfig


def test_samples_are_disjoint_and_near_the_trained_density(simulated_cases):
    case, settings = simulated_cases[0], NetworkConfig(points=2048)
    for count in (len(case.points), 3300, 2500, 900):
        few = replace(case, points=case.points[:count], colors=case.colors[:count], bone=None)
        seen = sample_scene_points(few, settings, seed=0, num_samples=3)
        sizes = (seen.rows >= 0).sum(1)
        assert (sizes > 0).sum() == {3300: 2, 2500: 1, 900: 1}.get(count, 3)
        rows = seen.rows[seen.rows >= 0]
        assert len(set(rows)) == len(rows)
        np.testing.assert_array_equal(seen.cloud.valid, seen.rows >= 0)
        assert np.isfinite(seen.cloud.normals).all()
