from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY

from e2r.config import EvaluationConfig
from e2r.datasets.sampling import sample_scene_points
from e2r.geometry import point_clouds, poses
from e2r.networks import mask_estimators
from e2r.networks.build import NetworkConfig, build_mask_network, mask_logits
from e2r.training import losses
from e2r.types import Cloud, Pose, Targets


def make_cloud(rng, valid, count):
    points = np.zeros((count, 3), np.float32)
    points[:valid] = rng.normal(size=(valid, 3)) * 40 + [0, 0, 500]
    other = np.zeros((count, 3), np.float32)
    other[:valid] = rng.uniform(size=(valid, 3))
    points[valid:], other[valid:] = 1e3, 0.7  # rubbish in the padding
    return Cloud(points, other, other, np.arange(count) < valid)


def test_padded_equals_unpadded_gradients_included(rng):
    """64 points with and without 192 rows of rubbish behind them, and with other rubbish."""
    module = build_mask_network(TINY.network)
    large = make_cloud(rng, 64, 256)
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


def test_views_are_disjoint_and_near_the_trained_density(simulated_cases):
    case, settings = simulated_cases[0], NetworkConfig(points=2048)
    for count in (len(case.points), 3300, 2500, 900):
        few = replace(case, points=case.points[:count], colors=case.colors[:count], bone=None)
        seen = sample_scene_points(few, settings, seed=0, num_samples=3)
        sizes = (seen.rows >= 0).sum(1)
        assert (sizes > 0).sum() == {3300: 2, 2500: 1, 900: 1}.get(count, 3)
        rows = seen.rows[seen.rows >= 0]
        assert len(set(rows)) == len(rows)
        np.testing.assert_array_equal(seen.cloud.valid, seen.rows >= 0)
        assert np.isfinite(seen.cloud.normals).all()


def test_logits_ignore_where_the_camera_stands_sideways(rng):
    module = build_mask_network(TINY.network)
    cloud = make_cloud(rng, 256, 256)
    pyramid = point_clouds.build_pyramid(cloud, levels=2, neighbours=4)
    params = module.init(jax.random.key(0), cloud, pyramid)
    moved = cloud._replace(points=cloud.points + np.array([30.0, -20.0, 0.0], np.float32))
    a, b = (mask_logits(module, params, c, pyramid) for c in (cloud, moved))
    np.testing.assert_allclose(a, b, atol=1e-3)


def test_the_pyramid_holds_the_nearest_points(rng):
    cloud = make_cloud(rng, 256, 256)
    pyramid = point_clouds.build_pyramid(cloud, levels=2, neighbours=4)
    apart = np.linalg.norm(cloud.points[:, None] - cloud.points[None], axis=-1)
    np.testing.assert_array_equal(pyramid.within[0][:, 0], np.arange(256))
    found = np.take_along_axis(apart, np.asarray(pyramid.within[0]), 1)
    np.testing.assert_allclose(found, np.sort(apart, 1)[:, :4], atol=1e-3)
    coarse = np.take_along_axis(apart, np.asarray(pyramid.up[0]), 1)
    np.testing.assert_allclose(coarse, np.sort(apart[:, :64], 1)[:, :3], atol=1e-3)


def test_clouds_see_what_the_camera_saw():
    depth = np.zeros((4, 6))
    depth[1, 2], depth[3, 5] = 400.0, 500.0
    points, pixels = point_clouds.back_project(depth, 100.0, 200.0, 2.5, 1.5)
    np.testing.assert_array_equal(pixels, [1 * 6 + 2, 3 * 6 + 5])
    np.testing.assert_allclose(points[0], [(2 - 2.5) / 100 * 400, (1 - 1.5) / 200 * 400, 400])


def test_normals_of_a_plane_face_the_camera(rng):
    xy = rng.uniform(-50, 50, (400, 2))
    points = np.column_stack([xy, 500 + 0.3 * xy[:, 0]])
    normals = point_clouds.estimate_normals(points, points[:50])
    expected = np.array([0.3, 0.0, -1.0]) / np.hypot(1.0, 0.3)
    np.testing.assert_allclose(normals, np.tile(expected, (50, 1)), atol=1e-6)


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


@pytest.mark.parametrize("name", mask_estimators.WITH_TEMPERATURE)
def test_sampled_masks_keep_as_often_as_they_say(name):
    logits = jnp.array([-2.0, -0.5, 0.0, 1.0, 3.0])
    keys = jax.random.split(jax.random.key(1), 6000)
    often = jnp.mean(jax.vmap(lambda k: mask_estimators.by_name(name)(k, logits))(keys), axis=0)
    np.testing.assert_allclose(often, jax.nn.sigmoid(logits), atol=0.025)


def test_reinmax_is_right_on_average_and_rao_varies_less():
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
    found = mask_estimators.diagnose(jnp.array([1.0, 1.0, 0.0, 1.0]), jnp.zeros(4), points, valid)
    np.testing.assert_allclose(
        [found.keep, found.effective, found.spread_mm, found.entropy],
        [2 / 3, 2.0, 3.0, 1.0],
        rtol=1e-5,
    )
    sure = mask_estimators.diagnose(
        jnp.zeros(4), jnp.array([-40.0, 40.0, 40.0, 0.0]), points, valid
    )
    assert all(np.isfinite(figure) for figure in sure)
    assert float(sure.entropy) < 1e-6


def test_evaluation_masks_need_no_chance():
    logits = jnp.array([-1.0, 0.5, 3.0])
    a = mask_estimators.deterministic(jax.random.key(0), logits)
    np.testing.assert_array_equal(a, mask_estimators.deterministic(jax.random.key(1), logits))
    np.testing.assert_array_equal(a, [0, 1, 1])
    np.testing.assert_allclose(
        mask_estimators.soft(jax.random.key(0), logits), jax.nn.sigmoid(logits)
    )


def test_a_starved_mask_keeps_its_best_points():
    logits = jnp.array([-3.0, -1.0, 2.0, -2.0, 9.0, 9.0])
    valid = jnp.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0])

    def kept(share):
        fed = jax.jit(mask_estimators.ensure_keep_ratio)(logits, valid, share)
        assert (jnp.argsort(fed) == jnp.argsort(logits)).all()
        return np.asarray((fed > 0) * valid)

    np.testing.assert_array_equal(kept(0.0), [0, 0, 1, 0, 0, 0])  # the mask's own
    np.testing.assert_array_equal(kept(0.25), [0, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(kept(0.5), [0, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(kept(0.99), [0, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(
        mask_estimators.ensure_keep_ratio(logits, jnp.zeros(6), 0.5), logits
    )
    with pytest.raises(ValueError, match="--min-keep-ratio is 1"):
        EvaluationConfig(min_keep_ratio=1.0)


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


def test_the_keep_hinge_only_bites_below_its_floor():
    valid = jnp.array([True] * 8 + [False] * 2)
    healthy = jnp.full(10, 0.0)
    assert float(losses.keep_hinge(healthy, valid, least=0.1)) == 0
    empty = jnp.full(10, -8.0)
    value, gradient = jax.value_and_grad(lambda x: losses.keep_hinge(x, valid, least=0.1))(empty)
    assert 0.9 < float(value) <= 1.0
    assert (np.asarray(gradient[:8]) < 0).all()
    assert (np.asarray(gradient[8:]) == 0).all()
