"""Sums and maxima over neighbours, against their usual form: values and derivatives."""

import jax
import jax.numpy as jnp
import numpy as np

from e2r.networks.mask_network import max_over_neighbours, weighted_sum


def _random(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)


def _agree(ours, usual, primals, tangents):
    """Values, forward derivatives and reverse derivatives are the same."""
    for found, wanted in zip(
        jax.jvp(ours, primals, tangents), jax.jvp(usual, primals, tangents), strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    value, pull = jax.vjp(ours, *primals)
    _, usual_pull = jax.vjp(usual, *primals)
    for found, wanted in zip(pull(value), usual_pull(value), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_maximum_over_neighbours_is_that_of_all_pairs():
    h = _random(6, 4)
    index = jnp.asarray(np.random.default_rng(0).integers(0, 6, (5, 3)), jnp.int32)
    _agree(
        lambda x: max_over_neighbours(x, index), lambda x: jnp.max(x[index], axis=1), (h,), (h * h,)
    )


def test_a_neighbour_that_is_no_number_is_the_maximum():
    h = _random(6, 4).at[3, 1].set(jnp.nan)
    index = jnp.asarray([[3, 0, 1], [0, 3, 1], [0, 1, 3], [0, 1, 2]], jnp.int32)
    found = np.isnan(max_over_neighbours(h, index))
    assert found[:3, 1].all() and found.sum() == 3


def test_the_weighted_sum_is_that_of_all_pairs():
    h, weights = _random(6, 4), _random(5, 3)
    index = jnp.asarray(np.random.default_rng(0).integers(0, 6, (5, 3)), jnp.int32)
    _agree(
        lambda x, w: weighted_sum(x, index, w),
        lambda x, w: jnp.sum(w[..., None] * x[index], axis=1),
        (h, weights),
        (h * h, weights + 1.0),
    )
