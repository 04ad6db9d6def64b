"""Loss terms in closed form."""

import jax
import jax.numpy as jnp
import numpy as np

from e2r.geometry import poses
from e2r.training import losses
from e2r.types import Pose, Targets


def test_target_error_is_the_mean_distance_and_smooth_at_zero():
    points = np.array([[0, 0, 0], [10, 0, 0], [0, 0, 0]], np.float32)
    targets = Targets(
        points, points + np.array([3.0, 4.0, 0.0], np.float32), np.array([True, True, False])
    )
    still = poses.identity()
    np.testing.assert_allclose(losses.mean_target_error(still, targets), 5.0)
    there = Pose(still.rotation, jnp.array([3.0, 4.0, 0.0]))
    assert float(losses.mean_target_error(there, targets)) == 0.0
    gradient = jax.grad(lambda t: losses.mean_target_error(Pose(still.rotation, t), targets))(
        there.translation
    )
    assert np.isfinite(gradient).all()


def test_the_keep_hinge_is_zero_above_its_least_ratio():
    valid = jnp.array([True] * 8 + [False] * 2)
    healthy = jnp.full(10, 0.0)
    assert float(losses.keep_hinge(healthy, valid, least=0.1)) == 0
    empty = jnp.full(10, -8.0)
    value, gradient = jax.value_and_grad(lambda x: losses.keep_hinge(x, valid, least=0.1))(empty)
    assert 0.9 < float(value) <= 1.0
    assert (np.asarray(gradient[:8]) < 0).all()
    assert (np.asarray(gradient[8:]) == 0).all()
