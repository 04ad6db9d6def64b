"""The unrolled registration: exactness, gradients in every mode, padding, singular inputs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import crossed, farthest, scene_on, start_near

from e2r.datasets.case import true_pose
from e2r.geometry import correspondences, linear_algebra, poses, surfaces
from e2r.registration import iterate, kernels, starts, steps
from e2r.registration.schedule import KERNELS, STEPS, Schedule, register_cloud
from e2r.training import examples, losses
from e2r.types import Cloud, MaskedCloud, Pose

STEPS = STEPS
KERNELS = KERNELS


@pytest.mark.parametrize("name", STEPS)
def test_clean_points_are_registered_exactly(name, fine_surface, truth, rng):
    """To a micrometre on average, on the true triangles; point-to-point takes its time."""
    scene = scene_on(fine_surface, truth, rng)
    count = 600 if name == "point_to_point" else 40
    result = jax.jit(
        partial(iterate.run_unrolled, step=partial(STEPS[name], correspond=correspondences.closest))
    )(
        scene,
        fine_surface,
        start_near(truth, scene.points),
        iterate.annealed_scales(8.0, 0.5, count, hold=count // 2),
    )
    apart = poses.apply(result.pose, fine_surface.points) - poses.apply(truth, fine_surface.points)
    # A metre from the camera, single precision itself ends at 0.06 micrometres times a few.
    assert float(jnp.mean(jnp.linalg.norm(apart, axis=1))) < 1e-3
    assert float(result.inlier_weight) > 0.99 * 300
    assert float(result.effective_dof) > 5.9


def test_the_true_bone_recovers_the_pose(simulated_cases, fine_surface):
    """Real frames with noise: the oracle mask brings the surface home to half a millimetre."""
    errors = []
    run = jax.jit(register_cloud, static_argnums=4)
    for case in simulated_cases:
        cloud, weights = whole_cloud(case)
        start = start_near(true_pose(case), target_goals(case), degrees=2.0, mm=2.0)
        result = run(cloud, weights, fine_surface, start, Schedule())
        targets = examples.make_targets(case)
        errors.append(float(losses.mean_target_error(result.pose, targets)))
    assert np.median(errors) < 0.5, errors


def whole_cloud(case) -> tuple[Cloud, np.ndarray]:
    count = 7000
    size = len(case.points)
    pad = ((0, count - size), (0, 0))
    points = np.pad(case.points, pad).astype(np.float32)
    weights = np.pad(case.bone, (0, count - size)).astype(np.float32)
    return Cloud(points, points, np.zeros_like(points), np.arange(count) < size), weights


def target_goals(case):
    targets = examples.make_targets(case)
    return targets.goals[targets.valid]


@pytest.mark.parametrize("name", STEPS)
def test_no_evidence_means_no_motion(name, surface, truth, rng):
    scene = scene_on(surface, truth, rng)
    start = start_near(truth, scene.points)
    far = start._replace(translation=start.translation + 1e4)
    for weights, begin in ((jnp.zeros(300), start), (jnp.ones(300), far)):
        result = iterate.run_unrolled(
            scene._replace(weights=weights),
            surface,
            begin,
            iterate.annealed_scales(8.0, 1.5, 5),
            step=STEPS[name],
        )
        np.testing.assert_allclose(result.pose.rotation, begin.rotation, atol=1e-5)
        np.testing.assert_allclose(result.pose.translation, begin.translation, rtol=1e-6, atol=2e-3)
        assert float(result.inlier_weight) < 1e-6
        assert float(result.effective_dof) < 1e-3


def bad_clips(points: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(points, weights) of every kind that has broken a registration."""
    ones = np.ones(len(points), np.float32)
    middle = points.mean(0)
    line = middle + np.linspace(-20, 20, len(points))[:, None] * np.array([1.0, 0.2, 0.0])
    holes = points.copy()
    holes[::3] = np.nan
    holes[1, 2] = np.inf
    return {
        "not a number": (holes, ones),
        "weights not numbers": (points, np.where(np.arange(len(points)) % 2, np.nan, ones)),
        "no weight": (points, 0 * ones),
        "one point": (points, np.arange(len(points)) < 1),
        "two points": (points, np.arange(len(points)) < 2),
        "line": (line, ones),
        "plane": (np.where([True, True, False], points, middle), ones),
        "same point": (np.tile(points[:1], (len(points), 1)), ones),
        "faint": (points, 1e-30 * ones),
        "heavy": (points, 1e30 * ones),
        "mixed": (points, np.where(np.arange(len(points)) % 2, 1e-30, 1e30)),
    }


@pytest.mark.parametrize(("name", "mode"), crossed(STEPS, iterate.GRADIENT_MODES, plain="unrolled"))
def test_bad_numbers_stay_finite_and_are_flagged(name, mode, surface, truth, rng):
    scene = scene_on(surface, truth, rng, 200)
    scales = iterate.annealed_scales(8.0, 2.0, 4)

    @jax.jit
    def both(points, weights, normals, start):
        def error(p, w):
            result = iterate.run_unrolled(
                MaskedCloud(p, normals, w), surface, start, scales, step=STEPS[name], mode=mode
            )
            return jnp.sum(jnp.square(result.pose.translation - truth.translation)), result

        return jax.value_and_grad(error, (0, 1), has_aux=True)(points, weights)

    for clip, (points, weights) in bad_clips(scene.points).items():
        start = start_near(truth, scene.points, 2.0, 2.0)
        (_, result), gradients = both(
            points.astype(np.float32), weights.astype(np.float32), scene.normals, start
        )
        leaves = jax.tree.leaves(result)
        assert all(np.isfinite(leaf).all() for leaf in leaves), clip
        assert all(np.isfinite(g).all() for g in gradients), clip
        np.testing.assert_allclose(np.linalg.det(result.pose.rotation), 1.0, atol=1e-4)
        if clip in ("no weight", "faint"):
            assert farthest(surface, result.pose, start) < 0.01, clip
        if clip in ("no weight", "faint", "one point", "two points", "line", "same point"):
            assert float(result.effective_dof) < 5.5, clip
        elif clip != "plane":  # which a step may or may not find enough
            assert float(result.effective_dof) > 5.5, clip


# Batches, starts, laws ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", STEPS)
def test_plain_vmap_and_jit_agree(name, surface, truth, rng):
    scenes = [scene_on(surface, truth, rng, 50) for _ in range(3)]
    scenes = [s._replace(weights=rng.uniform(size=50).astype(np.float32)) for s in scenes]
    start = start_near(truth, scenes[0].points)
    one = partial(
        iterate.run_unrolled, surface=surface, start=start, scales=np.full(3, 5.0), step=STEPS[name]
    )
    plain = [one(scene).pose.translation for scene in scenes]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *scenes)
    batched = jax.jit(jax.vmap(one))(stacked)
    np.testing.assert_allclose(batched.pose.translation, np.stack(plain), atol=1e-3)


def test_ragged_scenes_and_models_share_a_batch(simulated_cases, truth, rng):
    """Clouds of 40 and 70 points, models of two and of all levels: as each alone."""
    names = list(simulated_cases[0].model)
    models = [
        surfaces.build({n: simulated_cases[0].model[n] for n in part}, seed=0, nodes=2**15)
        for part in (names[:2], names)
    ]
    scenes, padded = [], []
    for model, count in zip(models, (40, 70), strict=True):
        scene = scene_on(model, truth, rng, count, noise=0.3)
        scenes.append(scene)
        room = 80 - count
        padded.append(
            MaskedCloud(
                np.pad(scene.points, ((0, room), (0, 0)), constant_values=7.0),
                np.pad(scene.normals, ((0, room), (0, 0))),
                np.pad(scene.weights, (0, room)),
            )
        )
    starts_ = [start_near(truth, s.points, 2.0, 2.0) for s in scenes]

    def run(scene, surface, start):
        def error(w):
            result = iterate.run_unrolled(
                scene._replace(weights=w),
                surface,
                start,
                np.full(8, 4.0),
                step=steps.point_to_plane,
            )
            return jnp.sum(jnp.square(result.pose.translation - truth.translation)), result.pose

        return jax.grad(error, has_aux=True)(scene.weights)

    def stack(items):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *items)

    gradients, found = jax.jit(jax.vmap(run))(stack(padded), surfaces.stack(models), stack(starts_))
    for i, (scene, model, start) in enumerate(zip(scenes, models, starts_, strict=True)):
        gradient, alone = run(scene, model, start)
        mine = jax.tree.map(lambda leaf, i=i: leaf[i], found)
        assert farthest(model, mine, alone) < 0.01
        count = len(scene.weights)
        limit = 1e-2 * float(np.abs(gradient).max())
        np.testing.assert_allclose(gradients[i][:count], gradient, atol=limit)


def test_padding_changes_nothing(surface, truth, rng):
    scene = scene_on(surface, truth, rng, 50, noise=1.0)
    garbage = np.concatenate([scene.points, rng.normal(size=(14, 3)).astype(np.float32) * 100])
    normals = np.concatenate([scene.normals, np.zeros((14, 3), np.float32)])
    start = start_near(truth, scene.points)
    schedule = Schedule(steps=4)

    def run(p, n, w):
        cloud = Cloud(p, p, n, np.arange(len(p)) < 50)
        pose = register_cloud(cloud, w, surface, start, schedule).pose
        return jnp.sum(jnp.square(pose.translation - truth.translation)), pose

    gradient = jax.value_and_grad(run, 2, has_aux=True)
    (_, plain), g_plain = gradient(scene.points, scene.normals, jnp.ones(50))
    (_, padded), g_padded = gradient(garbage, normals, jnp.ones(64))
    np.testing.assert_allclose(padded.rotation, plain.rotation, atol=1e-5)
    np.testing.assert_allclose(padded.translation, plain.translation, atol=2e-3)
    scale = np.abs(g_plain).max()
    np.testing.assert_allclose(g_padded[:50], g_plain, atol=1e-3 * scale)
    assert (np.asarray(g_padded[50:]) == 0).all()


@pytest.mark.parametrize("name", STEPS)
def test_equivariance(name, surface, truth, rng):
    """Moving the camera moves the pose with it."""
    scene = scene_on(surface, truth, rng, 80)
    start = start_near(truth, scene.points)
    motion = Pose(poses.random_rotation(jax.random.key(2)), jnp.array([3.0, -8.0, 20.0]))
    run = partial(iterate.run_unrolled, surface=surface, scales=np.full(4, 4.0), step=STEPS[name])
    here = poses.compose(motion, run(scene, start=start).pose)
    moved = scene._replace(
        points=poses.apply(motion, scene.points), normals=poses.rotate(motion, scene.normals)
    )
    there = run(moved, start=poses.compose(motion, start)).pose
    np.testing.assert_allclose(here.rotation, there.rotation, atol=1e-4)
    np.testing.assert_allclose(here.translation, there.translation, atol=0.05)


def test_it_stops_when_nothing_moves_each_item_by_itself(fine_surface, truth, rng):
    scene = scene_on(fine_surface, truth, rng, 200, noise=0.3)
    scales = iterate.annealed_scales(6.0, 1.5, 40, hold=34)
    begins = [truth, start_near(truth, scene.points, 3.0, 3.0)]
    settle = partial(
        iterate.run_until_converged,
        scene,
        fine_surface,
        step=steps.point_to_plane,
        tolerance_mm=2e-3,
    )
    both = jax.jit(jax.vmap(lambda start: settle(start, scales)))(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *begins)
    )
    assert (np.asarray(both.steps) < 40).all()
    assert (np.asarray(both.steps) >= 6).all()
    for i, begin in enumerate(begins):
        alone = settle(begin, scales)
        assert int(both.steps[i]) == int(alone.steps)
        mine = jax.tree.map(lambda leaf, i=i: leaf[i], both)
        assert farthest(fine_surface, mine.pose, alone.pose) < 1e-3
        whole = iterate.run_unrolled(scene, fine_surface, begin, scales, step=steps.point_to_plane)
        assert farthest(fine_surface, mine.pose, whole.pose) < 0.02
        end = jax.tree.map(lambda leaf: leaf[-1], mine.trajectory)
        np.testing.assert_array_equal(end.translation, mine.pose.translation)


def test_what_weighs_nothing_is_left_out_at_no_loss(surface, truth, rng):
    """The heaviest points register as all do, value and gradient; of too many, none weighs less."""
    scene = scene_on(surface, truth, rng, 300, noise=0.3)
    weights = jnp.where(jnp.arange(300) % 3 == 0, scene.weights, 0.0)
    start, scales = start_near(truth, scene.points, 2.0, 2.0), iterate.annealed_scales(6.0, 1.0, 8)

    def error(weights, count):
        some = iterate.top_weighted(scene._replace(weights=weights), count)
        pose = iterate.run_unrolled(some, surface, start, scales, step=steps.symmetric).pose
        return jnp.sum(jnp.square(pose.translation - truth.translation))

    run = jax.jit(jax.vmap(jax.value_and_grad(error), (0, None)), static_argnums=1)
    (all_, all_slope), (some, slope) = (run(weights[None], count) for count in (300, 120))
    np.testing.assert_allclose(some, all_, rtol=1e-3)
    kept = np.asarray(weights) > 0
    np.testing.assert_allclose(
        slope[0][kept], all_slope[0][kept], atol=1e-3 * np.abs(all_slope).max()
    )
    few = iterate.top_weighted(scene._replace(weights=weights), 40)
    assert few.weights.shape == (40,)
    np.testing.assert_allclose(few.weights, 100 / 40, rtol=1e-5)
    np.testing.assert_array_equal(few.points, scene.points[::3][:40])


def test_early_steps_on_a_subsample_end_at_the_same_pose(fine_surface, truth, rng):
    scene = scene_on(fine_surface, truth, rng, 1000, noise=0.3)
    start = start_near(truth, scene.points, 3.0, 3.0)
    cloud = Cloud(scene.points, scene.points, scene.normals, np.ones(1000, bool))
    whole = Schedule(steps=24, hold_steps=8)
    few = Schedule(steps=24, hold_steps=8, early_steps=14, early_points=128)
    stops = Schedule(steps=24, hold_steps=8, early_steps=14, early_points=128, tolerance_mm=1e-3)
    found = [
        register_cloud(cloud, scene.weights, fine_surface, start, schedule)
        for schedule in (whole, few, stops)
    ]
    for result in found[1:]:
        assert farthest(fine_surface, result.pose, found[0].pose) < 0.05
        assert result.trajectory.translation.shape == (24, 3)
    assert int(found[2].steps) < 24


def test_small_systems(rng):
    root = rng.normal(size=(6, 6)).astype(np.float32)
    matrix = root @ root.T + np.eye(6, dtype=np.float32)
    right = rng.normal(size=6).astype(np.float32)
    np.testing.assert_allclose(
        linear_algebra.inverse_6x6(matrix) @ right, np.linalg.solve(matrix, right), atol=1e-4
    )
    np.testing.assert_allclose(linear_algebra.inverse_6x6(matrix) @ matrix, np.eye(6), atol=1e-3)


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


def test_trimming_counts_weight_not_points():
    square = jnp.array([5.0, 1.0, 3.0, 2.0, 0.0])
    weights = jnp.array([1.0, 1.0, 1.0, 1.0, 0.0])
    kept = kernels.trimmed(square, weights, 1.0, share=0.5)
    np.testing.assert_array_equal(kept[:4], [0, 1, 0, 1])
    heavy = kernels.trimmed(square, weights.at[1].set(9.0), 1.0, share=0.5)
    np.testing.assert_array_equal(heavy[:4], [0, 0, 0, 0] if heavy[1] == 0 else [0, 1, 0, 0])


def test_an_outlier_moves_the_robust_ones_less(fine_surface, truth, rng):
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


def test_starts_along_the_spine_move_along_it(surface, truth):
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), truth)
    found = starts.shift_along_spine(several, surface, (0.0, 30.0, -12.0))
    assert found.rotation.shape == (6, 3, 3)
    for i, shift in enumerate([0.0, 30.0, -12.0] * 2):
        pose = jax.tree.map(lambda leaf, i=i: leaf[i], found)
        back = poses.compose(poses.inverse(truth), pose)
        np.testing.assert_allclose(back.rotation, np.eye(3), atol=1e-5)
        upright = poses.rotate(surface.canonical_from_model, back.translation)
        np.testing.assert_allclose(upright, [0.0, 0.0, shift], atol=1e-3)


def test_the_best_start_wins_and_the_soft_choice_is_differentiable(fine_surface, truth, rng):
    scene = scene_on(fine_surface, truth, rng, 200)
    good = start_near(truth, scene.points, 2.0, 2.0)
    bad = start_near(truth, scene.points, 60.0, 60.0)
    several = jax.tree.map(lambda *leaves: jnp.stack(leaves), bad, good, bad)

    def attempts(weights):
        masked = scene._replace(weights=weights)
        return jax.vmap(
            lambda s: iterate.run_unrolled(
                masked,
                fine_surface,
                s,
                iterate.annealed_scales(8.0, 2.0, 20),
                step=steps.point_to_plane,
            )
        )(several)

    found = attempts(scene.weights)
    hard = starts.choose(found, scene.weights)
    np.testing.assert_allclose(hard.pose.translation, truth.translation, atol=0.5)
    np.testing.assert_array_equal(hard.probabilities, [0, 1, 0])
    assert float(hard.residual) < 0.1
    soft = starts.choose(found, scene.weights, temperature=0.02)
    assert float(soft.probabilities[1]) > 0.99
    np.testing.assert_allclose(soft.pose.translation, hard.pose.translation, atol=1.0)

    def probability(weights):
        return starts.choose(attempts(weights), weights, temperature=0.5).probabilities[1]

    gradient = np.asarray(jax.jit(jax.grad(probability))(jnp.asarray(scene.weights)))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 1e-6
