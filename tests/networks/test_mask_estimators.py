"""Mask estimators: values, derivatives, and diagnostics."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from e2r import pipeline
from e2r.networks import mask_estimators
from e2r.pipeline import ProgramConfig
from e2r.runtime import registry
from e2r.runtime.registry import plugin
from e2r.types import Cloud

WITH_TEMPERATURE = [
    name
    for name, estimator in mask_estimators.ESTIMATORS.items()
    if mask_estimators.has_temperature(estimator)
]


def test_straight_through_samples_zeros_and_ones_with_the_soft_gradient():
    logits = jnp.linspace(-4.0, 4.0, 4000)
    key = jax.random.key(0)
    mask = mask_estimators.gumbel_straight_through(key, logits)
    assert set(np.unique(np.round(mask, 6))) == {0.0, 1.0}
    # Kept as often as the probability says.
    often = jnp.mean(
        jax.vmap(lambda k: mask_estimators.gumbel_straight_through(k, logits[::500]))(
            jax.random.split(key, 4000)
        ),
        axis=0,
    )
    np.testing.assert_allclose(often, jax.nn.sigmoid(logits[::500]), atol=0.03)
    gradient = jax.grad(lambda x: jnp.sum(mask_estimators.gumbel_straight_through(key, x)))(logits)
    noise = jax.random.logistic(key, logits.shape)
    relaxed = jax.nn.sigmoid(logits + noise)
    np.testing.assert_allclose(gradient, relaxed * (1 - relaxed), atol=1e-6)
    hot = mask_estimators.gumbel_straight_through(key, logits, temperature=5.0)
    np.testing.assert_array_equal(np.round(hot, 5), np.round(mask, 5))  # one sample, any heat


@pytest.mark.parametrize("name", mask_estimators.ESTIMATORS)
def test_estimators_share_one_interface(name):
    logits = jnp.linspace(-2.0, 2.0, 61)  # where gates are not yet at their ends
    estimator = mask_estimators.by_name(name)
    value = np.asarray(jax.jit(estimator)(jax.random.key(0), logits))
    assert ((value >= 0) & (value <= 1)).all()
    if name not in ("soft", "gates"):
        assert set(np.unique(value)) == {0.0, 1.0}
    gradient = np.asarray(jax.grad(lambda x: estimator(jax.random.key(0), x).sum())(logits))
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient) > 0).all()
    wild = jax.grad(lambda x: estimator(jax.random.key(0), x).sum())(jnp.array([-1e4, 1e4]))
    assert np.isfinite(wild).all()


@pytest.mark.parametrize("name", WITH_TEMPERATURE)
def test_sampled_masks_keep_points_with_the_stated_probability(name):
    logits = jnp.array([-2.0, -0.5, 0.0, 1.0, 3.0])
    keys = jax.random.split(jax.random.key(1), 6000)
    often = jnp.mean(jax.vmap(lambda k: mask_estimators.by_name(name)(k, logits))(keys), axis=0)
    np.testing.assert_allclose(often, jax.nn.sigmoid(logits), atol=0.025)


def test_reinmax_is_unbiased_and_rao_has_less_variance():
    """Of a single mask any function is linear, whose true gradient is that of the probability."""
    logits = jnp.array([-2.0, -0.5, 0.0, 1.0, 3.0])
    keys = jax.random.split(jax.random.key(2), 20000)

    def gradients(name):
        one = jax.grad(lambda x, k: mask_estimators.by_name(name)(k, x).sum())
        return np.asarray(jax.vmap(lambda k: one(logits, k))(keys))

    p = np.asarray(jax.nn.sigmoid(logits))
    np.testing.assert_allclose(gradients("reinmax").mean(0), p * (1 - p), atol=0.01)
    plain, rao = gradients("gumbel_straight_through"), gradients("gumbel_rao")
    np.testing.assert_allclose(rao.mean(0), plain.mean(0), atol=0.005)
    assert (rao.var(0) < 0.8 * plain.var(0)).all()


def test_diagnostics_of_known_masks():
    points = jnp.array([[0.0, 0, 0], [6.0, 0, 0], [0, 1e3, 0], [0, 0, 1e6]])
    valid = jnp.array([True, True, True, False])
    cloud = Cloud(points, points, points, valid)
    found = mask_estimators.diagnose(jnp.array([1.0, 1.0, 0.0, 1.0]), jnp.zeros(4), cloud)
    np.testing.assert_allclose(
        [found.keep, found.effective, found.spread_mm, found.entropy],
        [2 / 3, 2.0, 3.0, 1.0],
        rtol=1e-5,
    )
    sure = mask_estimators.diagnose(jnp.zeros(4), jnp.array([-40.0, 40.0, 40.0, 0.0]), cloud)
    assert all(np.isfinite(figure) for figure in sure)
    assert float(sure.entropy) < 1e-6


def test_the_evaluation_mask_ignores_the_key():
    logits = jnp.array([-1.0, 0.5, 3.0])
    a = mask_estimators.deterministic(jax.random.key(0), logits)
    np.testing.assert_array_equal(a, mask_estimators.deterministic(jax.random.key(1), logits))
    np.testing.assert_array_equal(a, [0, 1, 1])
    np.testing.assert_allclose(
        mask_estimators.soft(jax.random.key(0), logits), jax.nn.sigmoid(logits)
    )


def test_a_starved_mask_keeps_its_best_points():
    logits = jnp.array([-3.0, -1.0, 2.0, -2.0, 9.0, 9.0])
    valid = jnp.array([True, True, True, True, False, False])

    def kept(ratio):
        raised = jax.jit(mask_estimators.ensure_keep_ratio)(logits, valid, ratio)
        assert (jnp.argsort(raised) == jnp.argsort(logits)).all()
        return np.asarray((raised > 0) & valid)

    np.testing.assert_array_equal(kept(0.0), [0, 0, 1, 0, 0, 0])  # the mask's own
    np.testing.assert_array_equal(kept(0.25), [0, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(kept(0.5), [0, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(kept(0.99), [0, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(
        mask_estimators.ensure_keep_ratio(logits, jnp.zeros(6, bool), 0.5), logits
    )
    with pytest.raises(ValueError, match="--min-keep-ratio is 1"):
        ProgramConfig(min_keep_ratio=1.0)


def bits(key, logits):
    """An estimator that shows what its key draws."""
    return jax.random.uniform(key, logits.shape)


def test_an_estimator_and_the_search_draw_other_numbers():
    """The search splits the case's key; an estimator may split its own."""
    key, count = jax.random.key(3), 50
    points = jnp.ones((1, count, 3))
    cloud = Cloud(points, points, points, jnp.ones((1, count), bool))
    prepared = SimpleNamespace(cloud=cloud, oracle_weights=jnp.zeros((1, count)))
    output = SimpleNamespace(logits=jnp.zeros(count))
    plugin("estimator", name="bits_for_a_test")(bits)
    program = ProgramConfig(estimator="bits_for_a_test")
    registry._registered["estimator"].pop("bits_for_a_test")  # other tests go through all
    stacked = getattr(pipeline._stacked_masks, "__wrapped__", pipeline._stacked_masks)
    drawn = stacked(key, prepared, output, program=program)[0][0]
    others = [key, *jax.random.split(key)]
    others += [child for one in others for child in jax.random.split(one)]
    assert not any(np.allclose(drawn, bits(one, drawn)) for one in others)
