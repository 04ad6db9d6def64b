"""Repeated steps: batches of different sizes, convergence, and the heaviest points."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from conftest import farthest, scene_on, start_near

from e2r.geometry import surfaces
from e2r.registration import iterate, steps
from e2r.types import MaskedCloud


def test_scenes_and_models_of_different_sizes_share_a_batch(simulated_cases, truth, rng):
    """Clouds of 40 and 70 points, models of two and of all levels: as each alone."""
    names = list(simulated_cases[0].model)
    models = [
        surfaces.build_surface({n: simulated_cases[0].model[n] for n in part}, seed=0, nodes=2**15)
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


def test_each_item_of_a_batch_stops_once_it_converged(fine_surface, truth, rng):
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


def test_leaving_out_points_without_weight_changes_nothing(surface, truth, rng):
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
