"""Gradients of the registration: every step, kernel, correspondence and mode; their memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import crossed, in_x64, numeric_gradient, scene_on, start_near

from e2r.geometry import correspondences, poses
from e2r.geometry.correspondences import CORRESPONDENCES
from e2r.registration import iterate, steps
from e2r.registration.kernels import KERNELS
from e2r.registration.steps import STEPS
from e2r.types import MaskedCloud, Pose


def pose_error(surface, truth, pose):
    apart = poses.apply(pose, surface.points[:9]) - poses.apply(truth, surface.points[:9])
    return jnp.mean(jnp.sum(apart * apart, 1))


def nudged(start, nudge):
    turned = poses.exp_rotation(nudge[:3]) @ start.rotation
    return Pose(turned, start.translation + nudge[3:])


def held(robust):
    """A kernel with given weights: its derivative is cut by design, so a check must hold it."""
    return lambda square, weights, scale: robust


def robust_weights(count, largest):
    """Of every kernel, the weights of distances from 0 to `largest`."""
    square = np.linspace(0.0, largest, count).astype(np.float32) ** 2
    return {name: np.asarray(k(square, np.ones(count), 3.0)) for name, k in KERNELS.items()}


@pytest.mark.parametrize(
    ("name", "look_up"), crossed(STEPS, ["project", "closest", "nearest", "soft"], plain="project")
)
def test_gradients_forward_reverse_numeric(name, look_up, surface, truth, rng):
    """Through several steps, with respect to weights, points and start, in double precision."""
    scene = scene_on(surface, truth, rng, 12, noise=0.7)
    weights = ((np.arange(12) % 3 > 0) * 0.8).astype(np.float32)  # a third is dropped
    begin = start_near(truth, scene.points, 2.0, 2.0)
    with jax.enable_x64(True):
        model, truth64, begin64, normals = in_x64((surface, truth, begin, scene.normals))

        def error(weights, points, nudge, robust):
            step = partial(STEPS[name], kernel=held(robust), correspond=CORRESPONDENCES[look_up])
            result = iterate.run_unrolled(
                MaskedCloud(points, normals, weights),
                model,
                nudged(begin64, nudge),
                np.full(3, 8.0),
                step=step,
            )
            return pose_error(model, truth64, result.pose)

        arguments = in_x64((weights, scene.points, np.zeros(6, np.float32)))
        backward = jax.jit(jax.value_and_grad(error, (0, 1, 2)))
        onward = jax.jit(jax.jacfwd(error, (0, 1, 2)))
        for kernel, robust in in_x64(robust_weights(12, 8.0)).items():
            reverse, forward = backward(*arguments, robust)[1], onward(*arguments, robust)
            for i in range(3):
                np.testing.assert_allclose(forward[i], reverse[i], rtol=1e-6, atol=1e-9)

                def one(x, i=i, robust=robust):
                    return backward(*arguments[:i], x, *arguments[i + 1 :], robust)[0]

                numeric = numeric_gradient(one, np.asarray(arguments[i]), 1e-6)
                np.testing.assert_allclose(
                    reverse[i],
                    numeric,
                    rtol=1e-4,
                    atol=1e-5 * max(1.0, np.abs(numeric).max()),
                    err_msg=kernel,
                )
            if kernel == "constant":
                assert (np.abs(np.asarray(reverse[0])[weights == 0]) > 1e-8).all()


@pytest.mark.parametrize(
    "name",
    ["point_to_point", "symmetric"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ("point_to_plane", "generalised")],
)
def test_all_gradient_modes_agree_at_the_fixed_point(name, surface, truth, rng):
    """Steps x kernels x modes, where the run has settled: implicit, unrolled, numeric."""
    scene = scene_on(surface, truth, rng, 60, noise=0.4)
    start = start_near(truth, scene.points, 1.0, 1.0)
    count = 1500 if name == "point_to_point" else 40  # it slides home slowly
    with jax.enable_x64(True):
        model, truth64, start64 = in_x64((surface, truth, start))
        points, normals, weights = in_x64(tuple(scene))

        def error(weights, points, robust, mode):
            result = iterate.run_unrolled(
                MaskedCloud(points, normals, weights),
                model,
                start64,
                np.full(count, 3.0),
                step=partial(STEPS[name], kernel=held(robust), prior=1e-3),
                mode=mode,
            )
            return pose_error(model, truth64, result.pose)

        derive = {
            mode: jax.jit(jax.value_and_grad(partial(error, mode=mode), (0, 1)))
            for mode in iterate.GRADIENT_MODES
        }
        for kernel, robust in in_x64(robust_weights(60, 6.0)).items():
            found = {mode: f(weights, points, robust)[1] for mode, f in derive.items()}

            def value(i, change, robust=robust):
                return derive["last"](weights.at[i].add(change), points, robust)[0]

            numeric = [(value(i, 1e-5) - value(i, -1e-5)) / 2e-5 for i in range(6)]
            largest = float(jnp.abs(found["unrolled"][0]).max())
            np.testing.assert_allclose(
                found["unrolled"][0][:6], numeric, rtol=1e-3, atol=1e-4 * largest, err_msg=kernel
            )
            for i in range(2):
                parts = {k: np.asarray(v[i]).ravel() for k, v in found.items()}
                size = {k: np.linalg.norm(v) for k, v in parts.items()}
                cosine = {
                    k: v @ parts["unrolled"] / (size[k] * size["unrolled"])
                    for k, v in parts.items()
                }
                assert cosine["implicit"] > 0.98, (kernel, cosine)
                assert 0.9 < size["implicit"] / size["unrolled"] < 1.1, (kernel, size)
                if name != "point_to_point":  # the others forget their start at once
                    assert cosine["last"] > 0.95, (kernel, cosine)


@pytest.mark.parametrize("mode", iterate.GRADIENT_MODES)
@pytest.mark.parametrize("name", ["point_to_point", "symmetric"])
def test_forward_equals_reverse_in_each_gradient_mode(name, mode, surface, truth, rng):
    scene = scene_on(surface, truth, rng, 25, noise=0.4)
    start = start_near(truth, scene.points, 1.0, 1.0)
    with jax.enable_x64(True):
        model, truth64, start64, normals = in_x64((surface, truth, start, scene.normals))

        def error(weights, points):
            result = iterate.run_unrolled(
                MaskedCloud(points, normals, weights),
                model,
                start64,
                np.full(6, 3.0),
                step=STEPS[name],
                mode=mode,
                last=2,
                remat=True,
            )
            return pose_error(model, truth64, result.pose)

        arguments = in_x64((scene.weights, scene.points))
        reverse = jax.jit(jax.grad(error, (0, 1)))(*arguments)
        forward = jax.jit(jax.jacfwd(error, (0, 1)))(*arguments)
        for a, b in zip(forward, reverse, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
            assert np.abs(a).max() > 1e-6


def test_one_step_is_the_gradient_of_the_last_step(surface, truth, rng):
    """And `last` with all steps is `unrolled`; the poses are the same in every mode."""
    scene = scene_on(surface, truth, rng, 60, noise=0.4)
    start = start_near(truth, scene.points, 1.0, 1.0)
    scales = iterate.annealed_scales(4.0, 2.0, 5)

    def error(weights, begin, scales, **options):
        moved = scene._replace(weights=weights)
        result = iterate.run_unrolled(
            moved, surface, begin, scales, step=steps.point_to_plane, **options
        )
        return pose_error(surface, truth, result.pose), result.pose

    options = ("mode", "last")
    gradient = jax.jit(jax.grad(error, has_aux=True), static_argnames=options)
    register = jax.jit(error, static_argnames=options)
    before = register(scene.weights, start, scales[:-1])[1]
    last, _ = gradient(scene.weights, before, scales[-1:])
    one, end = gradient(scene.weights, start, scales, mode="one_step")
    np.testing.assert_allclose(one, last, rtol=1e-3, atol=1e-3 * float(np.abs(last).max()))
    whole, _ = gradient(scene.weights, start, scales)
    every, _ = gradient(scene.weights, start, scales, mode="last", last=5)
    np.testing.assert_allclose(every, whole, rtol=1e-5, atol=1e-9)
    for mode in iterate.GRADIENT_MODES:
        pose = register(scene.weights, start, scales, mode=mode)[1]
        np.testing.assert_allclose(pose.translation, end.translation, atol=1e-3)
        np.testing.assert_allclose(pose.rotation, end.rotation, atol=1e-5)
    with pytest.raises(ValueError, match="use one of unrolled, last"):
        error(scene.weights, start, scales, mode="magic")


def test_hard_matches_have_the_gradient_of_the_last_step_only(surface, truth, rng):
    """Point-to-point with hard matches: the whole run's gradient is its last step's."""
    scene = scene_on(surface, truth, rng, 60)
    start = start_near(truth, scene.points, 2.0, 2.0)
    step = partial(steps.point_to_point, correspond=correspondences.nearest, prior=0.0)

    def error(w, begin, count):
        moved = scene._replace(weights=w)
        result = iterate.run_unrolled(moved, surface, begin, np.full(count, 8.0), step=step)
        return jnp.sum(jnp.square(result.pose.translation)) * 1e-3

    before = jax.jit(partial(iterate.run_unrolled, step=step))(
        scene, surface, start, np.full(4, 8.0)
    ).pose
    gradient = jax.jit(jax.grad(error), static_argnums=2)
    whole, last = gradient(scene.weights, start, 5), gradient(scene.weights, before, 1)
    assert np.abs(last).max() > 1e-6
    np.testing.assert_allclose(whole, last, rtol=1e-3, atol=1e-3 * float(np.abs(last).max()))


def error_of_weights(scene, surface, truth, start, count, mode):
    """The pose error after `count` steps, as a function of the weights."""

    def error(w):
        moved = scene._replace(weights=w)
        result = iterate.run_unrolled(
            moved, surface, start, np.full(count, 3.0), step=steps.point_to_plane, mode=mode
        )
        return pose_error(surface, truth, result.pose)

    return error


@pytest.mark.parametrize(
    "mode", ["last", pytest.param("one_step", marks=pytest.mark.slow), "implicit"]
)
def test_memory_does_not_grow_with_the_number_of_steps(mode, surface, truth, rng):
    """From the compiled program's own account, of forward and gradient."""
    scene = scene_on(surface, truth, rng, 256)
    start = start_near(truth, scene.points)

    def needed(count, mode):
        error = error_of_weights(scene, surface, truth, start, count, mode)
        compiled = jax.jit(jax.value_and_grad(error)).lower(scene.weights).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, some, many = (needed(count, mode) for count in (10, 50, 200))
    # A pose and three figures a step are the trajectory itself.
    assert many - few <= 190 * 2 * 60, (few, some, many)
    assert some - few <= 40 * 2 * 60, (few, some, many)
    assert needed(200, "unrolled") > 5 * many


def test_the_program_does_not_grow_with_the_number_of_steps(surface, truth, rng):
    scene = scene_on(surface, truth, rng, 64)
    start = start_near(truth, scene.points)

    def size(count, mode):
        error = error_of_weights(scene, surface, truth, start, count, mode)
        return len(str(jax.make_jaxpr(jax.grad(error))(scene.weights)).splitlines())

    for mode in iterate.GRADIENT_MODES:
        assert abs(size(10, mode) - size(200, mode)) < 10  # lines; a constant may print in two
