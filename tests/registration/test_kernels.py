"""Robust kernels: published weights, trimming, and outliers."""

from functools import partial

import jax.numpy as jnp
import numpy as np
from conftest import farthest, scene_on

from e2r.registration import iterate, kernels, steps
from e2r.registration.kernels import KERNELS


def test_kernels_are_one_at_zero_and_fall():
    square, weights = jnp.array([0.0, 1.0, 4.0, 100.0]), jnp.ones(4)
    for name, kernel in KERNELS.items():
        weight = np.asarray(kernel(square, weights, 2.0))
        assert weight[0] == 1
        assert (np.diff(weight) <= 0).all()
        assert weight[-1] < 0.3 or name == "constant"
    # The published weight functions, at d = 1, s = 2.
    np.testing.assert_allclose(kernels.welsch(square, weights, 2.0)[1], np.exp(-1 / 8))
    np.testing.assert_allclose(kernels.geman_mcclure(square, weights, 2.0)[1], 1.25**-2)
    np.testing.assert_allclose(kernels.tukey(square, weights, 2.0)[1], (1 - 1 / 36) ** 2)
    np.testing.assert_allclose(kernels.huber(square, weights, 2.0)[3], 0.2)


def test_trimming_keeps_a_share_of_the_weight_not_of_the_points():
    square = jnp.array([5.0, 1.0, 3.0, 2.0, 0.0])
    weights = jnp.array([1.0, 1.0, 1.0, 1.0, 0.0])
    kept = kernels.trimmed(square, weights, 1.0, share=0.5)
    np.testing.assert_array_equal(kept[:4], [0, 1, 0, 1])
    heavy = kernels.trimmed(square, weights.at[1].set(9.0), 1.0, share=0.5)
    np.testing.assert_array_equal(heavy[:4], [0, 1, 0, 0])


def test_outliers_move_robust_kernels_less(fine_surface, truth, rng):
    scene = scene_on(fine_surface, truth, rng, 200)
    points = scene.points.copy()
    points[:40] += [12.0, 0.0, 0.0]
    wrong = scene._replace(points=points)
    off = {}
    for name, kernel in KERNELS.items():
        step = partial(steps.point_to_plane, kernel=kernel)
        result = iterate.run_unrolled(wrong, fine_surface, truth, np.full(25, 1.5), step=step)
        off[name] = farthest(fine_surface, result.pose, truth)
    assert all(off[name] < 0.5 * off["constant"] for name in KERNELS if name != "constant"), off
