"""Bias and noise of mask estimators, against enumeration and closed forms."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from conftest import numeric_gradient

from e2r.analysis import estimator_bias
from e2r.geometry import poses, procrustes
from e2r.networks import mask_estimators
from e2r.types import Pose


@pytest.fixture
def fit(rng):
    """The error of a weighted Procrustes fit of seven points, two of them wrong; and logits."""
    source = rng.normal(size=(7, 3)) * 20.0
    truth = Pose(np.asarray(poses.exp_rotation(np.array([0.1, -0.2, 0.3]))), np.ones(3))
    target = np.asarray(poses.apply(truth, source)) + rng.normal(size=(7, 3))
    target[:2] += 6.0

    def loss(weights):
        pose = procrustes.procrustes(source, target, weights + 0.01).pose
        return jnp.mean(jnp.linalg.norm(poses.apply(pose, source) - target, axis=1)[2:])

    return loss, np.linspace(-2.0, 2.0, 7)


def test_enumeration_is_exact(fit):
    """Against sums over masks in plain Python, and finite differences of them."""
    loss, logits = fit
    rows = jnp.arange(7)
    with jax.enable_x64(True):
        found = jax.jit(partial(estimator_bias.enumerate_masks, loss, chunk=32))(
            jnp.asarray(logits)
        )
        one = jax.jit(loss)
        values = {mask: float(one(jnp.array(mask))) for mask in product((0.0, 1.0), repeat=7)}

        def expected(x):
            keep = 1.0 / (1.0 + np.exp(-x))
            return sum(
                value * np.prod(np.where(np.array(mask) > 0, keep, 1.0 - keep))
                for mask, value in values.items()
            )

        np.testing.assert_allclose(found.loss, expected(logits), rtol=1e-9)
        slope = numeric_gradient(expected, logits)
        assert np.abs(slope).max() > 1e-2
        np.testing.assert_allclose(found.gradient, slope, atol=1e-5 * np.abs(slope).max())
        # And from many masks, within their own standard error.
        many = jax.jit(partial(estimator_bias.sample_masks, loss=loss, draws=400))(
            jax.random.key(0), logits=jnp.asarray(logits), rows=rows
        )
        assert (np.abs(many.gradient - found.gradient) < 4.0 * many.standard_error + 1e-9).all()
        assert 0 < float(many.standard_error.max()) < 0.2 * float(jnp.linalg.norm(found.gradient))

        # Each estimator has a bias; only those that draw have noise.
        @jax.jit
        def judged(index):
            key, estimator = jax.random.key(1), estimator_bias.estimator_by_index(index)
            drawn = estimator_bias.draw_gradients(
                key, loss, jnp.asarray(logits), rows=rows, estimator=estimator, draws=400
            )
            return estimator_bias.estimator_quality(drawn, found)

        for index, name in enumerate(mask_estimators.ESTIMATORS):
            quality = judged(jnp.int32(index))
            assert all(np.isfinite(figure) for figure in quality)
            assert (float(quality.deviation) > 1e-6) == mask_estimators.has_temperature(
                mask_estimators.ESTIMATORS[name]
            )
    with pytest.raises(ValueError, match="use 1 to 14 points"):
        estimator_bias.all_masks(15)


def test_bias_and_noise_of_known_estimators():
    """The soft mask has no bias where the loss is linear in each weight. ReinMax has none where the
    loss is linear in all weights together."""
    logits, rows = jnp.array([-1.0, 0.3, 1.2]), jnp.arange(3)

    def bilinear(w):
        return 3.0 * w[0] * w[1] - 2.0 * w[1] * w[2] + w[2]

    def linear(w):
        return jnp.dot(w, jnp.array([1.0, -2.0, 0.5]))

    def quality(loss, name, draws):
        exact = estimator_bias.enumerate_masks(loss, logits)
        drawn = estimator_bias.draw_gradients(
            jax.random.key(3),
            loss,
            logits,
            rows=rows,
            estimator=mask_estimators.by_name(name),
            draws=draws,
        )
        return estimator_bias.estimator_quality(drawn, exact), exact

    soft, exact = quality(bilinear, "soft", 2)
    p = np.asarray(jax.nn.sigmoid(logits))
    slope = p * (1 - p) * np.array([3 * p[1], 3 * p[0] - 2 * p[2], 1 - 2 * p[1]])
    np.testing.assert_allclose(exact.gradient, slope, atol=1e-6)
    np.testing.assert_allclose([soft.bias, soft.deviation, soft.loss_bias], 0.0, atol=1e-5)
    np.testing.assert_allclose([soft.cosine, soft.draw_cosine, soft.scale], 1.0, atol=1e-5)
    reinmax, exact = quality(linear, "reinmax", 4000)
    assert float(reinmax.bias) < 0.05 and abs(float(reinmax.scale) - 1.0) < 0.05
    # Of a sampled relaxation the mean slope is known: E[s (1 - s)] over logistic noise.
    gumbel, exact = quality(linear, "gumbel_straight_through", 4000)
    noise = scipy.stats.logistic.ppf((np.arange(20000) + 0.5) / 20000)
    s = scipy.stats.logistic.cdf(np.asarray(logits)[:, None] + noise)
    mean = (s * (1 - s)).mean(1) * np.array([1.0, -2.0, 0.5])
    bias = np.linalg.norm(mean - exact.gradient) / np.linalg.norm(exact.gradient)
    np.testing.assert_allclose(gumbel.bias, bias, atol=0.03)
