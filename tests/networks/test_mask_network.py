"""The mask network: padding and shifts."""

from collections import namedtuple
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY, padded_cloud

from e2r.geometry import point_clouds
from e2r.networks import build
from e2r.networks.build import build_mask_network, mask_logits


def test_padded_equals_unpadded_gradients_included(rng):
    """64 points with and without 192 rows of rubbish behind them, and with other rubbish."""
    module = build_mask_network(TINY.network)
    large = padded_cloud(rng, 64, 256)
    pyramid = point_clouds.build_pyramid(large, levels=2, neighbours=4)
    assert all((index < 64).all() for index in jax.tree.leaves(pyramid))
    params = module.init(jax.random.key(0), large, pyramid)
    other = large._replace(
        points=np.where(large.valid[:, None], large.points, -77.0).astype(np.float32),
        colors=np.where(large.valid[:, None], large.colors, 0.9).astype(np.float32),
    )
    bare = jax.tree.map(lambda leaf: leaf[:64], large)
    cut = pyramid._replace(
        within=(pyramid.within[0][:64], pyramid.within[1]), up=(pyramid.up[0][:64],)
    )

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def total(params, cloud, pyramid):
        logits = mask_logits(module, params, cloud, pyramid)
        return jnp.sum(jnp.where(cloud.valid, jnp.sin(logits), 0.0)), logits

    (_, expected), gradient = total(params, bare, cut)
    for cloud in (large, other):
        (_, logits), found = total(params, cloud, pyramid)
        np.testing.assert_allclose(logits[:64], expected, atol=1e-5)
        for x, y in zip(jax.tree.leaves(gradient), jax.tree.leaves(found), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-4 * max(1.0, float(np.abs(x).max())))


def test_logits_do_not_change_with_a_sideways_shift(rng):
    module = build_mask_network(TINY.network)
    cloud = padded_cloud(rng, 256, 256)
    pyramid = point_clouds.build_pyramid(cloud, levels=2, neighbours=4)
    params = module.init(jax.random.key(0), cloud, pyramid)
    moved = cloud._replace(points=cloud.points + np.array([30.0, -20.0, 0.0], np.float32))
    a, b = (mask_logits(module, params, c, pyramid) for c in (cloud, moved))
    np.testing.assert_allclose(a, b, atol=1e-3)


def test_an_output_of_other_axes_is_refused():
    kind = namedtuple("kind", "logits interest features")  # one without the tests' own type checks
    right = kind(np.zeros(5), np.zeros(5), np.zeros((5, 8)))
    build._check("mine", "mask_network", right, kind, count=5)
    for part, wrong, words in (
        ("logits", np.zeros((5, 1)), r"returns logits of shape \(5, 1\); make it \(n,\)"),
        ("features", np.zeros(5), r"returns features of shape \(5,\); make it \(n, c\)"),
    ):
        with pytest.raises(ValueError, match=rf"network.mask_network mine {words}"):
            build._check("mine", "mask_network", right._replace(**{part: wrong}), kind, count=5)
