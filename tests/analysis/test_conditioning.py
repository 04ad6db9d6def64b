"""Conditioning of a whole spine, a plane, a line, and nothing."""

import numpy as np
from conftest import scene_on
from noisy_problem import SCHEDULE

from e2r.analysis import conditioning
from e2r.geometry import poses
from e2r.registration.schedule import run_schedule
from e2r.types import MaskedCloud


def test_conditioning_finds_the_directions_that_a_plane_and_a_line_leave_open(surface, truth, rng):
    scene = scene_on(surface, truth, rng, 200)
    whole = conditioning.along_trajectory(scene, surface, truth, schedule=SCHEDULE)
    result = run_schedule(scene, surface, truth, SCHEDULE)
    np.testing.assert_allclose(whole.residual[-1], result.residual, rtol=1e-5)
    np.testing.assert_allclose(whole.effective_dof[-1], result.effective_dof, rtol=1e-5)
    assert (whole.effective_points > 195).all() and (whole.effective_points <= 200.01).all()
    assert (whole.gap > 0.1).all() and (whole.condition < 100).all()
    # Of a single triangle: two shifts and the turn about its normal are open.
    plane = surface.planes[0]
    side = np.cross(plane[3:6], [0.3, 0.5, 0.8])
    side /= np.linalg.norm(side)
    sides = np.stack([side, np.cross(plane[3:6], side)])
    flat = plane[:3] + (plane[6] * rng.uniform(-0.4, 0.4, (50, 2))).astype(np.float32) @ sides
    one = surface._replace(nodes=np.zeros_like(surface.nodes))
    patch = MaskedCloud(
        poses.apply(truth, flat), np.zeros((50, 3), np.float32), np.ones(50, np.float32)
    )
    open_ = conditioning.along_trajectory(patch, one, truth, schedule=SCHEDULE)
    np.testing.assert_allclose(open_.stiffness[0, :3], 0.0, atol=1e-6)
    assert float(open_.condition[0]) > 1e5
    line = patch._replace(
        points=poses.apply(
            truth, plane[:3] + np.linspace(-1, 1, 50)[:, None] * plane[6] * side
        ).astype(np.float32)
    )
    assert float(conditioning.along_trajectory(line, one, truth, schedule=SCHEDULE).gap[0]) < 1e-3
    nothing = patch._replace(weights=np.zeros(50, np.float32))
    found = conditioning.along_trajectory(nothing, one, truth, schedule=SCHEDULE)
    assert all(np.isfinite(leaf).all() for leaf in found)
    assert not np.asarray(found.effective_points).any()
