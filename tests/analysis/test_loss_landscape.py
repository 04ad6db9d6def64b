"""A landscape of a known loss."""

import jax.numpy as jnp
import numpy as np

from e2r.analysis import loss_landscape
from e2r.geometry import poses
from e2r.types import Pose


def test_a_landscape_of_a_known_loss():
    origin = {"x": jnp.array([1.0, 2.0]), "y": jnp.array(3.0)}
    first = {"x": jnp.array([1.0, 0.0]), "y": jnp.array(0.0)}
    second = {"x": jnp.array([0.0, 0.0]), "y": jnp.array(-1.0)}
    found = loss_landscape.plane(
        lambda p: p["x"][0] ** 2 + p["x"][1] + 10.0 * p["y"],
        origin,
        directions=(first, second),
        offsets=(np.array([-1.0, 0.0, 2.0]), np.array([0.0, 1.0])),
        chunk=4,
    )
    np.testing.assert_allclose(found, [[32, 22], [33, 23], [41, 31]])
    pose = Pose(poses.exp_rotation(jnp.array([0.2, -0.1, 0.4])), jnp.array([5.0, 6.0, 7.0]))
    loss = loss_landscape.loss_of_twist(lambda p: jnp.sum(p.translation), pose, jnp.zeros(3))
    np.testing.assert_allclose(loss(jnp.zeros(6)), 18.0, rtol=1e-6)
    moved = loss(jnp.array([0.0, 0, 0, 1.0, 0, 0]))
    np.testing.assert_allclose(moved, 18.0 + jnp.sum(pose.rotation[:, 0]), rtol=1e-6)
