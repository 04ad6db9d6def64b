"""The simulated camera: its ranges, and its rays."""

import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry import poses
from e2r.simulation import camera


def test_the_camera_stays_within_its_ranges():
    key = jax.random.key(0)
    look_at = jnp.array([5.0, 40.0, -20.0])
    fractions, tilts, distances = [], [], []
    for k in jax.random.split(key, 60):
        view = camera.sample_camera(
            k, look_at, jnp.float32(6000.0), width=96, height=72, wound_fraction=(0.05, 0.8)
        )
        distances.append(float(poses.apply(view.pose, look_at)[2]))
        tilts.append(np.rad2deg(np.arccos(-float(view.pose.rotation[2, 1]))))
        fractions.append(6000.0 * float(view.focal) ** 2 / distances[-1] ** 2 / (96 * 72))
        np.testing.assert_allclose(np.linalg.det(view.pose.rotation), 1.0, atol=1e-4)
    assert 340 < min(distances) < max(distances) < 710
    assert max(tilts) <= 30.1
    assert 0.045 < min(fractions) < 0.15
    assert 0.4 < max(fractions) < 0.85


def test_rays_go_through_pixel_centres():
    view = camera.Camera(jnp.float32(100.0), poses.identity())
    origin, directions = camera.rays(view, 8, 4)
    np.testing.assert_allclose(origin, 0)
    np.testing.assert_allclose(directions[0], [-0.035, -0.015, 1.0], atol=1e-6)
