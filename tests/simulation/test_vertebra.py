"""One vertebra: every named part is bone, the canal is open, distances are safe to walk."""

import jax
import jax.numpy as jnp
import numpy as np

from e2r.simulation import vertebra
from e2r.simulation.vertebra_distance import signed_distance


def sample(seed, position):
    return vertebra.sample_vertebra(jax.random.key(seed), jnp.float32(position), jnp.float32(1))


def test_every_part_is_bone_and_the_canal_is_open():
    for seed in range(3):
        shape = sample(seed, seed / 2)

        def distance(points, shape=shape):
            return np.asarray(signed_distance(shape, points))

        assert distance(np.zeros((1, 3), np.float32)) < -8  # the body
        # Both sides' pedicles, laminae, articular and transverse processes, then the spinous one.
        assert shape.centre.shape == (2 * len(vertebra.PARTS) + 1, 3)
        assert (distance(shape.centre) < -1.0).all()
        left, right = shape.centre[:5, 0], shape.centre[5:10, 0]
        assert (left > 0).all()
        assert (right < 0).all()
        canal = np.array([[0, shape.canal[2], z] for z in (-20, 0, 20)], np.float32)
        assert (distance(canal) > 4).all()
        far = np.array([[200.0, 0, 0], [0, -150, 0], [0, 0, 300]], np.float32)
        assert (distance(far) > 30).all()


def test_distances_change_no_faster_than_points_move():
    """Hence sphere tracing does not step through bone."""
    rng = np.random.default_rng(0)
    shape = sample(1, 0.5)
    points = rng.uniform([-45, -20, -40], [45, 65, 32], (4000, 3)).astype(np.float32)
    gradient = jax.vmap(jax.grad(lambda p: signed_distance(shape, p)))(points)
    slope = np.linalg.norm(gradient, axis=1)
    assert np.quantile(slope, 0.99) < 1.25
