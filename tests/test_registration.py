"""The unrolled registration: exactness, gradients, padding, singular inputs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import numeric_gradient

from e2r import banks, losses, pipeline
from e2r.datasets import cases
from e2r.geometry import poses, surfaces
from e2r.registration import kernels, starts, steps, unroll
from e2r.types import Cloud, Pose

STEPS = {"point": steps.point_to_point, "plane": steps.point_to_plane}


def noiseless(surface, pose, rng, count=300):
    """Scene points that lie exactly on the model's samples."""
    pick = rng.choice(len(surface.points), count, replace=False)
    return np.asarray(poses.apply(pose, surface.points[pick]))


@pytest.fixture(scope="module")
def surface(simulated_cases):
    return surfaces.build(simulated_cases[0].model, seed=0, samples=4096, cells=2**15)


@pytest.fixture(scope="module")
def truth(simulated_cases):
    return cases.true_pose(simulated_cases[0])


def start_near(truth, points, degrees=4.0, mm=4.0, seed=3):
    centre = jnp.mean(points, axis=0)
    return poses.perturb(jax.random.key(seed), truth, centre, degrees=degrees, mm=mm)


@pytest.mark.parametrize("name", STEPS)
def test_clean_points_are_registered_exactly(name, fine_surface, truth, rng):
    surface = fine_surface
    points = noiseless(surface, truth, rng)
    result = unroll.register(
        points, jnp.ones(len(points)), surface, start_near(truth, points),
        unroll.annealed(8.0, 0.5, 60), step=STEPS[name],
    )  # fmt: skip
    error = poses.apply(result.pose, surface.points) - poses.apply(truth, surface.points)
    limit = 0.1 if name == "plane" else 0.5  # point-to-point converges linearly
    assert float(jnp.max(jnp.linalg.norm(error, axis=1))) < limit
    assert float(result.evidence) > 0.9 * len(points)


def test_the_true_bone_recovers_the_pose(simulated_cases, fine_surface):
    """Real frames with noise: the oracle mask brings the surface home to half a millimetre."""
    errors = []
    for case in simulated_cases:
        cloud, weights = whole_cloud(case)
        start = start_near(cases.true_pose(case), target_goals(case), degrees=2.0, mm=2.0)
        result = pipeline.register(cloud, weights, fine_surface, start, pipeline.Schedule())
        targets = banks.make_targets(case)
        errors.append(float(losses.mean_target_error(result.pose, targets)))
    assert np.median(errors) < 0.5, errors


def whole_cloud(case) -> tuple[Cloud, np.ndarray]:
    count = 7000
    size = len(case.points)
    pad = ((0, count - size), (0, 0))
    points = np.pad(case.points, pad).astype(np.float32)
    weights = np.pad(case.bone, (0, count - size)).astype(np.float32)
    return Cloud(points, points, points, np.arange(count) < size), weights


def target_goals(case):
    targets = banks.make_targets(case)
    return targets.goals[targets.valid]


def test_no_evidence_means_no_motion(surface, truth, rng):
    points = noiseless(surface, truth, rng)
    start = start_near(truth, points)
    far = jax.tree.map(jnp.asarray, start._replace(translation=start.translation + 1e4))
    for step in STEPS.values():
        for weights, begin in ((jnp.zeros(len(points)), start), (jnp.ones(len(points)), far)):
            result = unroll.register(
                points, weights, surface, begin, unroll.annealed(8.0, 1.5, 5), step=step
            )
            np.testing.assert_allclose(result.pose.rotation, begin.rotation, atol=1e-5)
            np.testing.assert_allclose(
                result.pose.translation, begin.translation, rtol=1e-6, atol=2e-3
            )
            assert float(result.evidence) < 1e-6


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("weight", [0.0, 1e-30, 1e-3, 1e30])
def test_extreme_weights_give_finite_poses_and_gradients(name, weight, surface, truth, rng):
    points = noiseless(surface, truth, rng, 40)
    start = start_near(truth, points)

    def error(w):
        result = unroll.register(
            points, w, surface, start, unroll.annealed(8.0, 2.0, 4), step=STEPS[name]
        )
        return jnp.sum(jnp.square(result.pose.translation - truth.translation))

    value, gradient = jax.value_and_grad(error)(jnp.full(len(points), weight))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("clip", ["one point", "two points", "line", "plane", "same point"])
@pytest.mark.parametrize("name", STEPS)
def test_too_little_geometry_stays_finite(name, clip, surface, truth, rng):
    points = noiseless(surface, truth, rng, 20)
    middle = points.mean(0)
    points = {
        "one point": points[:1],
        "two points": points[:2],
        "line": middle + np.linspace(-20, 20, 20)[:, None] * np.array([1.0, 0.2, 0.0]),
        "plane": np.where([True, True, False], points, middle),
        "same point": np.tile(points[:1], (20, 1)),
    }[clip].astype(np.float32)
    start = start_near(truth, points)

    def error(p, w):
        result = unroll.register(
            p, w, surface, start, unroll.annealed(8.0, 2.0, 4), step=STEPS[name]
        )
        return jnp.sum(jnp.square(result.pose.translation - truth.translation)), result

    (_, result), gradients = jax.value_and_grad(error, (0, 1), has_aux=True)(
        jnp.asarray(points), jnp.ones(len(points))
    )
    assert np.isfinite(jax.tree.leaves(result.pose)[0]).all()
    assert all(np.isfinite(g).all() for g in gradients)
    np.testing.assert_allclose(np.linalg.det(result.pose.rotation), 1.0, atol=1e-4)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("correspond", [surfaces.project, surfaces.nearest])
def test_gradients_forward_reverse_numeric(name, correspond, surface, truth, rng):
    """Through several steps, with respect to weights, points and start, in float64.

    The robust weight's derivative is cut by design, so the plain kernel is compared here.
    """
    points = noiseless(surface, truth, rng, 12) + rng.normal(size=(12, 3)) * 0.7
    begin = start_near(truth, points, 2.0, 2.0)
    step = partial(STEPS[name], kernel=kernels.constant, correspond=correspond)
    with jax.enable_x64(True):
        model = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64) if leaf.dtype == np.float32 else leaf,
            surface,
        )
        truth64 = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), truth)

        def error(weights, points, nudge):
            start = Pose(
                poses.exp_rotation(nudge[:3]) @ jnp.asarray(begin.rotation, jnp.float64),
                begin.translation + nudge[3:],
            )
            result = unroll.register(points, weights, model, start, np.full(3, 8.0), step=step)
            apart = poses.apply(result.pose, model.points[:9]) - poses.apply(
                truth64, model.points[:9]
            )
            return jnp.mean(jnp.sum(apart * apart, 1))

        weights = jnp.asarray((np.arange(12) % 3 > 0) * 0.8)  # a third is dropped
        arguments = (weights, jnp.asarray(points), jnp.zeros(6))
        compiled = jax.jit(error)
        for i in range(3):
            reverse = jax.grad(error, i)(*arguments)
            forward = jax.jacfwd(error, i)(*arguments)
            np.testing.assert_allclose(forward, reverse, rtol=1e-6, atol=1e-9)

            def one(x, i=i):
                return compiled(*arguments[:i], x, *arguments[i + 1 :])

            numeric = numeric_gradient(one, np.asarray(arguments[i]), 1e-6)
            np.testing.assert_allclose(
                reverse, numeric, rtol=1e-4, atol=1e-5 * max(1.0, np.abs(numeric).max())
            )
        dropped = np.asarray(jax.grad(error)(*arguments))[np.asarray(weights) == 0]
        assert (np.abs(dropped) > 1e-8).all()


def test_hard_matches_pass_gradient_through_the_last_step_only(surface, truth, rng):
    """Point-to-point with nearest samples: the whole run's gradient is its last step's."""
    points = noiseless(surface, truth, rng, 60)
    step = partial(steps.point_to_point, correspond=surfaces.nearest, prior=0.0)
    start = start_near(truth, points, 2.0, 2.0)
    weights = jnp.ones(60)

    def error(w, begin, count):
        result = unroll.register(points, w, surface, begin, np.full(count, 8.0), step=step)
        return jnp.sum(jnp.square(result.pose.translation)) * 1e-3

    before = unroll.register(points, weights, surface, start, np.full(4, 8.0), step=step).pose
    whole = jax.grad(error)(weights, start, 5)
    last = jax.grad(error)(weights, before, 1)
    assert np.abs(last).max() > 1e-6
    np.testing.assert_allclose(whole, last, rtol=1e-3, atol=1e-3 * float(np.abs(last).max()))
    flat = partial(steps.point_to_plane)

    def error_plane(w, begin, count):
        result = unroll.register(points, w, surface, begin, np.full(count, 8.0), step=flat)
        return jnp.sum(jnp.square(result.pose.translation)) * 1e-3

    before = unroll.register(points, weights, surface, start, np.full(1, 8.0), step=flat).pose
    whole = jax.grad(error_plane)(weights, start, 2)
    last = jax.grad(error_plane)(weights, before, 1)
    assert float(jnp.linalg.norm(whole - last)) > 0.05 * float(jnp.linalg.norm(last))


def test_plain_vmap_and_jit_agree(surface, truth, rng):
    points = np.stack([noiseless(surface, truth, rng, 50) for _ in range(3)])
    weights = jnp.asarray(rng.uniform(size=(3, 50)), jnp.float32)
    start = start_near(truth, points[0])
    for step in STEPS.values():
        one = partial(
            unroll.register, surface=surface, start=start, scales=np.full(3, 5.0), step=step
        )
        plain = [one(p, w).pose.translation for p, w in zip(points, weights, strict=True)]
        batched = jax.jit(jax.vmap(lambda p, w, one=one: one(p, w)))(points, weights)
        np.testing.assert_allclose(batched.pose.translation, np.stack(plain), atol=1e-3)


def test_padding_changes_nothing(surface, truth, rng):
    points = noiseless(surface, truth, rng, 50) + rng.normal(size=(50, 3)).astype(np.float32)
    garbage = np.concatenate([points, rng.normal(size=(14, 3)).astype(np.float32) * 100])
    start = start_near(truth, points)
    schedule = pipeline.Schedule(steps=4)

    def run(p, w):
        cloud = Cloud(p, p, p, np.arange(len(p)) < 50)
        pose = pipeline.register(cloud, w, surface, start, schedule).pose
        return jnp.sum(jnp.square(pose.translation - truth.translation)), pose

    (_, plain), g_plain = jax.value_and_grad(run, 1, has_aux=True)(points, jnp.ones(50))
    (_, padded), g_padded = jax.value_and_grad(run, 1, has_aux=True)(garbage, jnp.ones(64))
    np.testing.assert_allclose(padded.rotation, plain.rotation, atol=1e-5)
    np.testing.assert_allclose(padded.translation, plain.translation, atol=2e-3)
    scale = np.abs(g_plain).max()
    np.testing.assert_allclose(g_padded[:50], g_plain, atol=1e-3 * scale)
    assert (np.asarray(g_padded[50:]) == 0).all()


def test_equivariance(surface, truth, rng):
    """Moving the camera moves the pose with it."""
    points = noiseless(surface, truth, rng, 80)
    start = start_near(truth, points)
    motion = Pose(poses.random_rotation(jax.random.key(2)), jnp.array([3.0, -8.0, 20.0]))
    run = partial(
        unroll.register, weights=jnp.ones(80), surface=surface, scales=np.full(4, 4.0),
        step=steps.point_to_plane,
    )  # fmt: skip
    here = poses.compose(motion, run(points, start=start).pose)
    there = run(poses.apply(motion, points), start=poses.compose(motion, start)).pose
    np.testing.assert_allclose(here.rotation, there.rotation, atol=1e-4)
    np.testing.assert_allclose(here.translation, there.translation, atol=0.05)


def test_solve_6x6(rng):
    root = rng.normal(size=(6, 6)).astype(np.float32)
    matrix = root @ root.T + np.eye(6, dtype=np.float32)
    right = rng.normal(size=6).astype(np.float32)
    np.testing.assert_allclose(
        steps.solve_6x6(matrix, right), np.linalg.solve(matrix, right), atol=1e-4
    )


def test_kernels_are_one_at_zero_and_fall():
    square = jnp.array([0.0, 1.0, 4.0, 100.0])
    for kernel in (kernels.welsch, kernels.geman_mcclure):
        weight = kernel(square, 2.0)
        assert weight[0] == 1
        assert (np.diff(weight) < 0).all()
    assert (kernels.constant(square, 2.0) == 1).all()


def test_axes_starts_hold_one_near_the_truth(surface, truth, simulated_cases):
    """With the whole model as the scene, one of the crude starts is within reach."""
    points = np.asarray(poses.apply(truth, surface.points[::8]))
    candidates = starts.axes_starts(points, jnp.ones(len(points)), surface)
    turn = jax.vmap(lambda r: poses.rotation_angle(r @ truth.rotation.T))(candidates.rotation)
    assert np.rad2deg(np.min(turn)) < 16.0
    for rotation in np.asarray(candidates.rotation)[::37]:
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
        assert np.linalg.det(rotation) > 0


def test_the_best_start_wins(fine_surface, truth, rng):
    surface = fine_surface
    points = noiseless(surface, truth, rng, 200)
    good = start_near(truth, points, 2.0, 2.0)
    bad = start_near(truth, points, 60.0, 60.0)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), bad, good, bad)
    weights = jnp.ones(200)
    pose, residual = starts.best_of(
        both, weights,
        lambda s: unroll.register(
            points, weights, surface, s, unroll.annealed(8.0, 2.0, 20), step=steps.point_to_plane
        ),
    )  # fmt: skip
    np.testing.assert_allclose(pose.translation, truth.translation, atol=0.5)
    assert float(residual) < 0.1
