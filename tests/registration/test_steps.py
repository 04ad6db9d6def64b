"""Every registration step: exactness, no evidence, singular inputs, batches, equivariance."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import crossed, farthest, random_rotation, scene_on, start_near

from e2r.geometry import correspondences, poses
from e2r.registration import iterate, steps
from e2r.registration.steps import STEPS
from e2r.types import MaskedCloud, Pose


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
def test_singular_inputs_stay_finite_and_are_flagged(name, mode, surface, truth, rng):
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


@pytest.mark.parametrize("name", STEPS)
def test_equivariance(name, surface, truth, rng):
    """Moving the camera moves the pose with it."""
    scene = scene_on(surface, truth, rng, 80)
    start = start_near(truth, scene.points)
    motion = Pose(random_rotation(jax.random.key(2)), jnp.array([3.0, -8.0, 20.0]))
    run = partial(iterate.run_unrolled, surface=surface, scales=np.full(4, 4.0), step=STEPS[name])
    here = poses.compose(motion, run(scene, start=start).pose)
    moved = scene._replace(
        points=poses.apply(motion, scene.points), normals=poses.rotate(motion, scene.normals)
    )
    there = run(moved, start=poses.compose(motion, start)).pose
    np.testing.assert_allclose(here.rotation, there.rotation, atol=1e-4)
    np.testing.assert_allclose(here.translation, there.translation, atol=0.05)


def test_an_anchor_pulls_where_points_do_not_hold(fine_surface, truth, rng):
    scene = scene_on(fine_surface, truth, rng, 50, weights=np.zeros(50, np.float32))
    shift = np.array([3.0, -2.0, 1.0], np.float32)
    anchor = poses.about(Pose(poses.exp_rotation(jnp.array([0.03, -0.02, 0.04])), shift), shift)
    anchor = poses.compose(truth, anchor)
    step = partial(steps.symmetric, anchor=steps.Anchor(anchor, 1.0), prior=0.5)
    found = iterate.run_unrolled(scene, fine_surface, truth, np.full(30, 1.0), step=step)
    assert farthest(fine_surface, found.pose, anchor) < 0.05
