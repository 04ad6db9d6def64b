"""Initial poses: shifts along the spine, and distinct poses."""

import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry import poses
from e2r.registration import starts


def test_shifts_move_poses_along_the_spine(surface, truth):
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), truth)
    found = starts.shift_along_spine(several, surface, (0.0, 30.0, -12.0))
    assert found.rotation.shape == (6, 3, 3)
    for i, shift in enumerate([0.0, 30.0, -12.0] * 2):
        pose = jax.tree.map(lambda leaf, i=i: leaf[i], found)
        back = poses.compose(poses.inverse(truth), pose)
        np.testing.assert_allclose(back.rotation, np.eye(3), atol=1e-5)
        upright = poses.rotate(surface.canonical_from_model, back.translation)
        np.testing.assert_allclose(upright, [0.0, 0.0, shift], atol=1e-3)


def test_distinct_poses_are_the_best_ones_that_differ(surface, truth):
    probes = jnp.asarray(surface.points[::100])
    near = truth._replace(translation=truth.translation + np.float32(0.5))
    far = truth._replace(translation=truth.translation + np.float32(40.0))
    several = jax.tree.map(lambda *leaves: jnp.stack(leaves), near, far, truth)
    found = starts.select_distinct(
        several, jnp.array([5.0, 1.0, 4.0]), probes, count=2, min_distance_mm=5.0
    )
    np.testing.assert_allclose(found.translation, [near.translation, far.translation], atol=1e-4)
    all_ = starts.select_distinct(
        several, jnp.array([5.0, 1.0, 4.0]), probes, count=3, min_distance_mm=5.0
    )
    np.testing.assert_allclose(all_.translation[2], truth.translation, atol=1e-4)
