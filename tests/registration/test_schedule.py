"""Schedules: the oracle mask, padding, and early steps on a subsample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import farthest, scene_on, start_near

from e2r.datasets.case import true_pose
from e2r.registration.schedule import Schedule, register_cloud
from e2r.training import examples, losses
from e2r.types import Cloud


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


def test_the_oracle_mask_recovers_the_pose(simulated_cases, fine_surface):
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


def test_surfaces_are_exact_where_triangles_may_be_read():
    closest = "e2r.geometry.correspondences:closest"  # as a plug-in is named
    for name, needed in (("project", False), ("soft", False), ("closest", True), (closest, True)):
        assert Schedule(correspondence=name).needs_triangles == needed


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "steps is 0; use 1 or more"),
        ({"first_scale_mm": float("inf")}, "first_scale_mm is inf; use a finite one"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Schedule(**settings)
