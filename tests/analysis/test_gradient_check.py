"""Autodiff equals central differences, and the check tells why where it does not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smooth_problem
from conftest import in_x64

import e2r
from e2r.analysis.gradient_check import PATHS, differences, gradient_check
from e2r.geometry import poses
from e2r.registration import iterate
from e2r.registration.kernels import KERNELS
from e2r.registration.schedule import Schedule, apply_mask, register_cloud
from e2r.registration.steps import STEPS
from e2r.training import losses

SMOOTH = [name for name in KERNELS if name != "trimmed"]


@pytest.fixture(scope="module")
def surface():
    return smooth_problem.make_surface()


@pytest.fixture
def problem(surface, rng):
    return smooth_problem.make_example(surface, rng)


def cosine(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def switched(kernel):
    """One compiled program for all smooth kernels."""

    def weigh(square, weights, scale):
        return jax.lax.switch(kernel, [KERNELS[name] for name in SMOOTH], square, weights, scale)

    return weigh


def final_error(example, start, schedule, logits, kernel):
    """The TRE of a registration whose kernel is traced."""
    run = iterate.run_unrolled(
        apply_mask(example.cloud, jax.nn.sigmoid(logits)),
        example.surface,
        start,
        schedule.scales(),
        step=partial(schedule.bound_step(), kernel=switched(kernel)),
    )
    return losses.mean_target_error(run.pose, example.targets)


def gradient_and_differences(schedule, eps):
    def compare(example, start, logits, kernel):
        error = partial(final_error, example, start, schedule, kernel=kernel)
        rows = jnp.arange(len(logits))
        return jax.grad(error)(logits), differences(error, logits, rows=rows, eps=eps)

    return jax.jit(compare)


CLOSEST = {"correspondence": "closest", "steps": 3, "last_scale_mm": 2.0}


@pytest.mark.parametrize(
    ("step", "double"),
    [(step, True) for step in STEPS]
    + [pytest.param(step, False, marks=pytest.mark.slow) for step in STEPS],
)
def test_the_whole_gradient_equals_central_differences(step, double, problem):
    """Every smooth kernel and step, over 0.03 logits."""
    with jax.enable_x64(double):
        arguments = (*problem, np.zeros(24, np.float32))
        arguments = in_x64(arguments) if double else jax.tree.map(jnp.asarray, arguments)
        whole = gradient_and_differences(
            Schedule(step, **CLOSEST, detach_robust_weights=False), 0.03 if double else 0.1
        )
        for kernel, name in enumerate(SMOOTH):
            gradient, differed = whole(*arguments, jnp.int32(kernel))
            assert cosine(gradient, differed) > 0.99, name
            assert 0.95 < np.linalg.norm(gradient) / np.linalg.norm(differed) < 1.05, name


@pytest.mark.parametrize("step", ["symmetric", pytest.param("generalised", marks=pytest.mark.slow)])
def test_forward_reverse_and_differences_agree_under_vmap_and_jit(step, problem):
    """A batch of kernels, in double precision."""
    example, start = problem
    with jax.enable_x64(True):
        example, start, logits = in_x64((example, start, np.zeros(24, np.float32)))
        rows = jnp.arange(6)

        schedule = Schedule(step, **CLOSEST, detach_robust_weights=False)

        def one(kernel):
            error = partial(final_error, example, start, schedule, kernel=kernel)
            return (
                jax.jacrev(error)(logits)[rows],
                jax.jacfwd(error)(logits)[rows],
                differences(error, logits, rows=rows, eps=1e-4),
            )

        reverse, forward, differed = jax.jit(jax.vmap(one))(jnp.arange(len(SMOOTH)))
    np.testing.assert_allclose(forward, reverse, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(reverse, differed, rtol=1e-4, atol=1e-6 * np.abs(reverse).max())
    assert (np.abs(np.asarray(reverse)).max(axis=1) > 1e-4).all()


def test_cut_weights_are_the_gradient_of_fixed_weights(problem):
    """By default as ever: the gradient by the initial pose is that of a kernel of constants."""
    example, start = problem
    masked = apply_mask(example.cloud, np.full(24, 0.5, np.float32))
    bound = Schedule(**CLOSEST).bound_step()

    def moved(shift, **options):
        begin = start._replace(translation=start.translation + shift)
        result = bound(masked, example.surface, begin, 2.0, **options)
        return losses.mean_target_error(result.pose, example.targets)

    queries = poses.apply_inverse(start, masked.points)
    apart = queries - bound.keywords["correspond"](example.surface, queries).points
    robust = KERNELS["welsch"](jnp.sum(jnp.square(apart), axis=1), masked.weights, 2.0)
    cut, whole, fixed = (
        jax.jit(jax.grad(partial(moved, **options)))(jnp.zeros(3))
        for options in ({}, {"detach_robust_weights": False}, {"kernel": lambda *_: robust})
    )
    np.testing.assert_allclose(cut, fixed, rtol=1e-3, atol=1e-3 * np.abs(fixed).max())
    assert np.abs(np.asarray(whole - cut)).max() > 0.1 * np.abs(cut).max()


@pytest.mark.parametrize("step", STEPS)
def test_singular_points_have_finite_values_and_gradients(step, surface):
    """Distance zero, the kinks of Huber and Tukey, far points, no weights; in single precision."""
    example, _ = smooth_problem.make_example(surface, np.random.default_rng(7), noise=0.0)
    scale = 2.0
    outward = np.asarray(example.cloud.normals)
    away = np.array([0.0, scale, 3 * scale, 1e4, 1e6], np.float32)[np.arange(24) % 5]
    points = np.asarray(example.cloud.points) + away[:, None] * outward
    masked = apply_mask(example.cloud, np.ones(24, np.float32))
    bound = Schedule(step, **CLOSEST, detach_robust_weights=False).bound_step()

    def figures(weights, points, pose, kernel):
        cloud = masked._replace(points=points, weights=weights)
        result = bound(cloud, surface, pose, scale, kernel=switched(kernel))
        moved = losses.mean_target_error(result.pose, example.targets)
        return moved + result.residual + result.inlier_weight + result.effective_dof

    derive = jax.jit(jax.value_and_grad(figures, (0, 1, 2)))
    for kernel, name in enumerate(SMOOTH):
        for weight in (1.0, 0.0, 1e20, 1e-20):
            weights = np.full(24, weight, np.float32)
            found = derive(weights, points, example.pose, jnp.int32(kernel))
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found)), (
                name,
                weights[0],
            )


def test_each_path_is_named_and_together_they_explain_everything(problem):
    """A random binary mask, a selection, early steps, one differentiated step, cut weights."""
    example, start = problem
    schedule = Schedule(
        "point_to_plane",
        correspondence="project",
        steps=5,
        early_steps=2,
        early_points=12,
        mode="one_step",
        last_scale_mm=2.0,
    )
    logits = np.linspace(-2.0, 2.0, 24).astype(np.float32)
    options = {"logits": logits, "start": start, "estimator": "gumbel_straight_through"}
    found = gradient_check(example, schedule, **options, max_points=16, points=8)
    assert [path.name for path in found.paths] == list(PATHS)
    assert all(path.used for path in found.paths)
    assert not found.passed and found.cosine < 0.9
    assert found.paths[-1].cosine > 0.9999 and abs(found.rest) < 1e-3
    np.testing.assert_allclose(sum(path.share for path in found.paths) + found.rest, 1.0)
    with pytest.raises(ValueError, match="max_points >= 1"):
        gradient_check(example, schedule, **options, max_points=0)
    table = found.to_table()
    assert all(name in table for name in PATHS) and "fails" in table and str(found) == table


def test_the_check_differentiates_what_runs(problem):
    """Its figures are those of the registration itself, and the whole gradient passes."""
    example, start = problem
    schedule = Schedule(**CLOSEST, detach_robust_weights=False)
    found = gradient_check(example, schedule, start=start, points=5, eps=0.03)
    assert found.passed and 0.99 < found.scale < 1.01 and "passes" in found.to_table()
    with jax.enable_x64(True):
        example, start, logits = in_x64((example, start, np.zeros(24, np.float32)))

        def error(logits):
            weights = jax.nn.sigmoid(logits)
            run = register_cloud(example.cloud, weights, example.surface, start, schedule)
            return losses.mean_target_error(run.pose, example.targets)

        differed = jax.jit(partial(differences, error, rows=found.rows, eps=0.03))(logits)
    np.testing.assert_allclose(found.differences, differed, rtol=1e-6)
    assert [path.name for path in found.paths if path.used] == ["look-up cells"]


def test_what_cannot_be_checked_is_refused(problem, tmp_path):
    example, _ = problem
    for words, options in (
        ("tolerance_mm", {"schedule": Schedule(tolerance_mm=1e-3)}),
        ("estimator is 'magic'; use soft", {"estimator": "magic"}),
        ("points >= 1", {"points": 0}),
        ("eps > 0", {"eps": 0.0}),
    ):
        with pytest.raises(ValueError, match=words):
            gradient_check(example, **options)
    with pytest.raises(ValueError, match="no such folder"):
        e2r.gradient_check(str(tmp_path / "nowhere"))
