"""The size of a frame over that of its model, from the points of a registration."""

import numpy as np
import pytest
import trimesh

from e2r.evaluation.frame_scale import fit_frame_scale
from e2r.geometry import poses, surfaces
from e2r.types import Pose

POSE = Pose(
    np.array(poses.exp_rotation(np.array([0.3, -0.2, 0.5], np.float32))),
    np.array([5.0, -8.0, 420.0], np.float32),
)


@pytest.fixture(scope="module")
def surface():
    """Two crossing ellipsoids: no symmetry hides a scale."""
    ball = trimesh.creation.icosphere(5, 1.0)
    body, process = ball.copy(), ball.copy()
    body.apply_scale([24.0, 17.0, 13.0])
    process.apply_scale([9.0, 30.0, 8.0])
    process.apply_translation([6.0, 25.0, -4.0])
    return surfaces.build_surface(
        {"L1": body, "L2": process},
        seed=0,
        nodes=surfaces.PROJECTION_NODES,
        samples=4096,
        exact=False,
    )


def seen(surface, stretch, rng, noise=0.3):
    """Points that a camera sees of the posed model, in a frame of a wrong size."""
    points = poses.apply_host(POSE, np.asarray(surface.points, np.float64))
    normals = np.asarray(surface.normals) @ POSE.rotation.T
    facing = (normals * points).sum(1) < 0
    return points[facing] * stretch + noise * rng.normal(size=(facing.sum(), 3))


@pytest.mark.parametrize(
    "stretch", [(1, 1, 1), (1.1, 1.1, 1.1), (0.9, 0.9, 0.9), (1.08, 1.08, 1), (1, 1, 0.85)]
)
def test_lateral_and_depth_scales_are_found(surface, rng, stretch):
    """Noise makes the depth's scale too large, by 6 % at 0.3 mm: the relief is a tenth as deep."""
    centre = POSE.translation * stretch - POSE.translation
    shifted = POSE._replace(translation=POSE.translation + centre.astype(np.float32))
    found = fit_frame_scale(seen(surface, np.array(stretch, float), rng), surface, shifted)
    assert found.lateral == pytest.approx(stretch[0], abs=0.02)
    assert found.depth == pytest.approx(stretch[2], abs=0.09)
    assert 0 < found.lateral_sd < 0.02 and 0 < found.depth_sd < 0.03


def test_without_noise_both_scales_are_exact(surface, rng):
    stretch = np.array([1.08, 1.08, 0.95])
    shifted = POSE._replace(translation=POSE.translation * stretch.astype(np.float32))
    found = fit_frame_scale(seen(surface, stretch, rng, noise=0.0), surface, shifted)
    assert found.lateral == pytest.approx(1.08, abs=2e-3)
    assert found.depth == pytest.approx(0.95, abs=5e-3)


def test_points_that_are_not_of_the_model_change_little(surface, rng):
    points = seen(surface, np.full(3, 1.1), rng)
    points[::5] += rng.normal(size=(len(points[::5]), 3)) * 40.0
    shifted = POSE._replace(translation=1.1 * POSE.translation)
    found = fit_frame_scale(points, surface, shifted)
    assert found.lateral == pytest.approx(1.1, abs=0.03)
    assert 0.7 < found.share < 0.9  # one point in five lies off the model


def test_points_of_no_model_leave_most_off_it(surface, rng):
    points = POSE.translation + rng.normal(size=(400, 3)) * 30.0
    assert fit_frame_scale(points, surface, POSE).share < 0.5


def test_too_few_points_tell_no_size(surface):
    found = fit_frame_scale(np.zeros((5, 3)), surface, POSE)
    assert np.isnan(found).all()
