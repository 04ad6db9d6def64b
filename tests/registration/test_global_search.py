from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY, farthest, in_x64, scene_on

from e2r.geometry import correspondences, poses
from e2r.networks import coarse_network, region_of_interest
from e2r.networks.build import init_params
from e2r.networks.mask_network import MaskOutput
from e2r.registration import coarse, global_search, levels, starts
from e2r.registration.schedule import Schedule, run_schedule
from e2r.training import examples, losses
from e2r.types import Cloud, Pose, Targets

ALL = np.ones(6, bool)
"""Levels that may lie in the wound."""
SETTINGS = TINY.network


def turned(pose, roll, centre):
    """The same scene after a roll of the camera."""
    spin = Pose(poses.exp_rotation(jnp.array([0.0, 0.0, roll])), jnp.zeros(3))
    return poses.compose(poses.about(spin, centre), pose)


@pytest.fixture(scope="module")
def tokens(surface, truth):
    rng = np.random.default_rng(0)
    pick = rng.choice(len(surface.points), SETTINGS.tokens, replace=False)
    points = np.asarray(poses.apply(truth, surface.points[pick]))
    normals = np.asarray(poses.rotate(truth, surface.normals[pick]))
    features = rng.normal(size=(len(pick), SETTINGS.widths[0])).astype(np.float32)
    return coarse_network.SceneTokens(points, normals, features, np.ones(len(pick), bool)), pick


@pytest.fixture(scope="module")
def params():
    example = examples.shape_example(SETTINGS)
    return init_params(jax.random.key(0), SETTINGS, example.cloud, example.pyramid)


@pytest.mark.parametrize("roll", [0.0, 1.0, 2.5, -2.0])
def test_the_true_roll_turns_the_head_up(surface, truth, tokens, roll):
    pose = turned(truth, roll, tokens[0].points.mean(0))
    frame = coarse.upright_frame(tokens[0], coarse.upright_roll(pose, surface))
    seen = poses.compose(frame, poses.compose(pose, poses.inverse(surface.canonical_from_model)))
    assert abs(float(seen.rotation[0, 2])) < 1e-5  # the head leans to no side
    assert float(seen.rotation[2, 2]) > 0.5
    assert float(seen.rotation[1, 1]) > 0.5  # and the back faces the camera


def test_true_correspondences_give_the_true_pose(surface, truth, tokens):
    given, pick = tokens
    places = poses.apply(surface.canonical_from_model, surface.points[pick])
    sure = np.ones(len(pick), np.float32)
    pose = coarse.solve_pose(given, coarse_network.CoarseCorrespondences(places, sure), surface)
    assert farthest(surface, pose, truth) < 1e-2


def test_a_guess_turns_and_moves_with_the_scene(surface, tokens, params):
    given, _ = tokens
    centre, roll = given.points.mean(0), 0.7
    pose, found = coarse.predict_pose(SETTINGS, params, given, surface, jnp.float32(0.4))
    spin = turned(poses.identity(), roll, centre)
    spin = spin._replace(translation=spin.translation + jnp.array([20.0, -30.0, 40.0]))
    moved = given._replace(
        points=poses.apply(spin, given.points), normals=poses.rotate(spin, given.normals)
    )
    other, again = coarse.predict_pose(SETTINGS, params, moved, surface, jnp.float32(0.4 - roll))
    np.testing.assert_allclose(found.places, again.places, atol=1e-2)
    assert farthest(surface, other, poses.compose(spin, pose)) < 0.05


def test_unused_tokens_say_and_change_nothing(surface, tokens, params):
    given, _ = tokens
    use = np.arange(len(given.use)) < 20
    rubbish = np.where(use[:, None], given.points, 1e4).astype(np.float32)
    a = coarse.predict_pose(SETTINGS, params, given._replace(use=use), surface, jnp.float32(0.0))
    b = coarse.predict_pose(
        SETTINGS, params, given._replace(points=rubbish, use=use), surface, jnp.float32(0.0)
    )
    np.testing.assert_allclose(a[0].translation, b[0].translation, atol=1e-2)
    np.testing.assert_array_equal(a[1].confidence[20:], 0.0)


def test_tokens_are_drawn_from_the_mask_and_differ():
    count = 400
    logits = jnp.where(jnp.arange(count) % 4 == 0, 6.0, -9.0)
    points = jnp.arange(count, dtype=jnp.float32)[:, None] * jnp.ones(3)
    valid = jnp.arange(count) < 300
    found = coarse_network.choose_tokens(
        jax.random.key(0), points, points, points, logits, valid, count=60
    )
    rows = np.asarray(found.points[:, 0]).astype(int)
    assert len(set(rows)) == 60
    assert found.use.all()
    assert (rows < 300).all()
    assert (rows % 4 == 0).mean() > 0.8
    few = coarse_network.choose_tokens(
        jax.random.key(0), points, points, points, logits, jnp.arange(count) < 10, count=60
    )
    assert int(few.use.sum()) == 10


def test_the_middle_of_interest_is_a_mode_not_a_mean(rng):
    wound = rng.normal(size=(300, 3)) * 15 + [40.0, 10.0, 500.0]
    elsewhere = rng.normal(size=(60, 3)) * 10 + [-250.0, 0.0, 500.0]
    rest = rng.uniform([-300, -300, 220], [300, 300, 820], (664, 3))
    points = np.concatenate([wound, elsewhere, rest]).astype(np.float32)
    interest = np.where(np.arange(1024) < 360, 3.0, -4.0)
    cloud = Cloud(points, points, points, np.ones(1024, bool))
    centre = region_of_interest.locate(cloud, jnp.asarray(interest))
    assert np.linalg.norm(np.asarray(centre) - [40.0, 10.0, 500.0]) < 12.0
    assert np.isfinite(region_of_interest.locate(cloud, jnp.full(1024, -1e4))).all()


def test_agreement_is_highest_at_the_truth_and_faces_count(fine_surface, truth, rng):
    scene = scene_on(fine_surface, truth, rng, 300)
    best = float(global_search.inlier_score(scene, fine_surface, truth, ALL, 1.5))
    assert best > 0.9 * 300
    off = truth._replace(translation=truth.translation + np.array([0.0, 4.0, 0.0], np.float32))
    assert float(global_search.inlier_score(scene, fine_surface, off, ALL, 1.5)) < 0.7 * best
    inside_out = scene._replace(normals=-scene.normals)
    assert (
        float(global_search.inlier_score(inside_out, fine_surface, truth, ALL, 1.5)) < 0.05 * best
    )


def test_the_search_finds_a_guess_that_is_a_level_off(
    fine_surface, truth, rng, params, monkeypatch
):
    """One guess of eight is nearly right, but for 36 mm along the spine; the rest are nowhere."""
    scene = scene_on(fine_surface, truth, rng, 256, noise=0.2)
    count = len(scene.weights)
    cloud = Cloud(scene.points, np.zeros((count, 3)), scene.normals, np.ones(count, bool))
    reading = MaskOutput(jnp.zeros(count), jnp.zeros(count), jnp.zeros((count, SETTINGS.widths[0])))
    cranial = poses.rotate(truth, fine_surface.canonical_from_model.rotation[2])
    off = truth._replace(translation=truth.translation - 36.0 * cranial + jnp.array([2.0, -2.0, 1]))
    wrong = [
        Pose(poses.random_rotation(jax.random.key(i)), off.translation + 40.0 * i)
        for i in range(1, 8)
    ]
    guess = jax.tree.map(lambda *leaves: jnp.stack(leaves), off, *wrong)
    monkeypatch.setattr(global_search, "coarse_poses", lambda *_, **__: guess)
    find = jax.jit(global_search.search, static_argnums=(0, 8, 9))
    found = find(
        SETTINGS,
        params,
        jax.random.key(1),
        cloud,
        scene,
        reading,
        fine_surface,
        ALL,
        Schedule(steps=30),
        global_search.SearchConfig(points=128),
    )
    assert farthest(fine_surface, found.registration.pose, truth) < 0.5
    several = found.hypotheses
    assert (np.diff(several.inlier_score) <= 0).all()
    assert float(several.inlier_score[0]) > 0.8 * count
    same = [
        farthest(fine_surface, jax.tree.map(lambda leaf, k=k: leaf[k], several.pose), truth) < 2.0
        for k in range(4)
    ]
    assert same[0] and not (np.asarray(several.distinct) & same)[1:].any()


def test_levels_that_are_not_exposed_do_not_agree(fine_surface, truth, rng):
    """A surgeon's word settles the level: only what is said to lie in the wound counts."""
    scene = scene_on(fine_surface, truth, rng, 400)
    own = np.asarray(
        correspondences.project(fine_surface, poses.apply_inverse(truth, scene.points)).levels
    )
    some = np.array([False, False, True, True, False, False])
    score = float(global_search.inlier_score(scene, fine_surface, truth, some, 1.5))
    assert score == pytest.approx(np.isin(own, [2, 3]).sum(), rel=0.1)


def test_bad_settings_of_the_search_are_refused():
    for bad in ({"rolls": 0}, {"shifts": ()}, {"finalists": 99}, {"scale": 0.0}):
        with pytest.raises(ValueError, match="search:"):
            replace(global_search.SearchConfig(), **bad)


def test_looking_closer_keeps_what_is_near_and_of_interest():
    points = np.random.default_rng(0).normal(size=(5000, 3)) * 100
    plain = np.zeros((600, 3), np.float32)
    first = Cloud(points[:600].astype(np.float32), plain, plain, np.arange(600) < 500)
    interest = np.where(points[:600, 0] > 0, 3.0, -9.0)
    rows = region_of_interest.crop(points, first, interest, np.zeros(3), 200)
    assert (np.linalg.norm(points[rows], axis=1) < region_of_interest.ROI_RADIUS_MM).all()
    assert (points[rows, 0] > 0).mean() > 0.8
    every = region_of_interest.crop(points, first, np.full(600, -9.0), np.zeros(3), 200)
    assert np.array_equal(
        every,
        region_of_interest.points_within(points, np.zeros(3), region_of_interest.ROI_RADIUS_MM),
    )
    assert region_of_interest.crop(points, first, interest, np.full(3, 1e4), 200) is None


def test_the_coarse_losss_gradient_forward_reverse_numeric(surface, truth, tokens, params):
    """With respect to all parameters of the coarse network, along a random direction, in x64."""
    given, _ = tokens
    targets = Targets(surface.points[::500], poses.apply(truth, surface.points[::500]), None)
    targets = targets._replace(valid=np.ones(len(targets.points), bool))
    with jax.enable_x64(True):
        model, read, aims, pose = (in_x64(t) for t in (surface, given, targets, truth))
        goals = poses.apply(model.canonical_from_model, poses.apply_inverse(pose, read.points))

        def loss(coarse_params):
            whole = {"mask": None, "coarse": coarse_params}
            guess, found = coarse.predict_pose(SETTINGS, whole, read, model, jnp.float64(0.3))
            return losses.coarse_loss(
                found.places, found.confidence, goals, guess, aims, error_scale_mm=5.0
            )

        at = in_x64(params["coarse"])
        leaves, tree = jax.tree.flatten(at)
        rng = np.random.default_rng(0)
        way = jax.tree.unflatten(tree, [jnp.asarray(rng.normal(size=x.shape)) for x in leaves])
        _, forward = jax.jit(lambda a, b: jax.jvp(loss, (a,), (b,)))(at, way)
        reverse = jax.jit(jax.grad(loss))(at)
        dot = sum(
            jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (reverse, way)), strict=True)
        )
        np.testing.assert_allclose(forward, dot, rtol=1e-6)
        run, eps = jax.jit(loss), 1e-6
        ahead, behind = (
            run(jax.tree.map(lambda a, b, s=s: a + s * eps * b, at, way)) for s in (1, -1)
        )
        np.testing.assert_allclose(forward, (ahead - behind) / (2 * eps), rtol=1e-4)


def test_distinct_poses_are_the_best_and_differ(surface, truth):
    corners = jnp.asarray(surface.points[::100])
    near = truth._replace(translation=truth.translation + np.float32(0.5))
    far = truth._replace(translation=truth.translation + np.float32(40.0))
    several = jax.tree.map(lambda *leaves: jnp.stack(leaves), near, far, truth)
    found = starts.select_distinct(several, jnp.array([5.0, 1.0, 4.0]), corners, count=2, apart=5.0)
    np.testing.assert_allclose(found.translation, [near.translation, far.translation], atol=1e-4)
    all_ = starts.select_distinct(several, jnp.array([5.0, 1.0, 4.0]), corners, count=3, apart=5.0)
    np.testing.assert_allclose(all_.translation[2], truth.translation, atol=1e-4)


def test_every_level_is_among_the_models_samples(surface):
    for count in (256, 300, 2500):
        found = coarse_network.model_samples(surface, count)
        assert found.points.shape == (count, 3)
        low, high = np.min(found.points[:, 2]), np.max(found.points[:, 2])
        whole = poses.apply(surface.canonical_from_model, surface.points)[:, 2]
        assert low < np.min(whole) + 12.0
        assert high > np.max(whole) - 12.0


def test_points_that_are_not_numbers_count_nothing(fine_surface, truth, rng):
    scene = scene_on(fine_surface, truth, rng, 300)
    broken = scene._replace(points=scene.points.copy())
    broken.points[:3] = np.nan
    schedule = Schedule(first_scale_mm=4.0, steps=10)
    middles = np.asarray(poses.apply_inverse(truth, scene.points[:1]))
    whole = run_schedule(broken, fine_surface, truth, schedule)
    found = levels.register_levels(broken, fine_surface, whole, middles, schedule)
    assert np.isfinite(found.pose.translation).all()
    assert np.isfinite(found.inlier_weight).all()
