"""One pose a level: bending, neighbours, and gradients."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import farthest, in_x64, scene_on

from e2r.datasets.case import true_pose
from e2r.evaluation.preparation import level_centres
from e2r.geometry import correspondences, poses, surfaces
from e2r.registration import iterate, levels, steps
from e2r.registration.kernels import KERNELS
from e2r.registration.schedule import Schedule, run_schedule
from e2r.simulation import simulator, specimens
from e2r.types import MaskedCloud, Pose

SCALES = iterate.annealed_scales(2.5, 1.0, 20, hold=6)


@pytest.fixture(scope="module")
def centres(simulated_cases):
    return level_centres(simulated_cases[0].model)


@pytest.fixture(scope="module")
def bent(fine_surface, truth, centres):
    """Points on the middle three of five levels, each moved by itself; and where each level is."""
    rng = np.random.default_rng(5)
    moved, points, normals = [], [], []
    for level in range(5):
        turn = poses.exp_rotation(np.deg2rad(rng.normal(0.0, 2.0, 3)).astype(np.float32))
        shift = rng.normal(0.0, 1.5, 3).astype(np.float32)
        pose = poses.compose(truth, poses.about(Pose(turn, shift), centres[level]))
        moved.append(pose)
        if level in (1, 2, 3):
            pick = np.flatnonzero(np.asarray(fine_surface.levels) == level)[::4]
            points.append(poses.apply(pose, fine_surface.points[pick]))
            normals.append(poses.rotate(pose, fine_surface.normals[pick]))
    points, normals = np.concatenate(points), np.concatenate(normals)
    return MaskedCloud(points, normals, np.ones(len(points), np.float32)), moved


def level_pose(found, level):
    return jax.tree.map(lambda leaf: leaf[level], found.pose)


def off(surface, level, a, b):
    own = np.asarray(surface.points)[np.asarray(surface.levels) == level]
    return float(jnp.max(jnp.linalg.norm(poses.apply(a, own) - poses.apply(b, own), axis=1)))


def test_each_level_finds_its_own_pose(fine_surface, truth, centres, bent):
    scene, moved = bent
    schedule = Schedule(first_scale_mm=4.0)
    whole = run_schedule(scene, fine_surface, truth, schedule)
    found = levels.register_levels(scene, fine_surface, whole, centres=centres, schedule=schedule)
    for level in (1, 2, 3):
        rigid = off(fine_surface, level, whole.pose, moved[level])
        assert off(fine_surface, level, level_pose(found, level), moved[level]) < 0.5 * rigid
    assert (np.asarray(found.inlier_weight)[[1, 2, 3]] > 40).all()


def test_a_level_without_points_follows_its_neighbour(fine_surface, truth, centres, bent):
    scene, _ = bent
    found = levels.refine_levels(scene, fine_surface, truth, centres=centres, scales=SCALES)
    for level, neighbour in ((0, 1), (4, 3)):
        assert float(found.inlier_weight[level]) < 5.0  # a point or two where joints touch
        pair = level_pose(found, level), level_pose(found, neighbour)
        assert off(fine_surface, level, *pair) < 1.5
    assert np.isfinite(found.pose.translation).all()  # of the padded row, too
    assert len(found.pose.translation) == 6


def test_levels_may_be_listed_in_any_order(simulated_cases, fine_surface, truth, centres, bent):
    """Level 0 listed last, as `L1 ... L5, T12` is: its neighbour is still the one beside it."""
    scene, _ = bent
    model = simulated_cases[0].model
    names = [*list(model)[1:], next(iter(model))]
    mixed = {name: model[name] for name in names}
    surface = surfaces.build_surface(mixed, seed=0, nodes=2**19, exact=False)
    found = levels.refine_levels(scene, surface, truth, centres=level_centres(mixed), scales=SCALES)
    pair = level_pose(found, 4), level_pose(found, 0)  # the first and second of the spine
    assert off(fine_surface, 0, *pair) < 1.5
    far = level_pose(found, 4), level_pose(found, 3)
    assert off(fine_surface, 0, *far) > 2.0


def test_an_unbent_spine_keeps_one_pose(fine_surface, truth, centres, rng):
    scene = scene_on(fine_surface, truth, rng, 600, noise=0.3)
    schedule = Schedule(first_scale_mm=4.0)
    whole = run_schedule(scene, fine_surface, truth, schedule)
    found = levels.register_levels(scene, fine_surface, whole, centres=centres, schedule=schedule)
    for level in range(5):
        assert farthest(fine_surface, level_pose(found, level), whole.pose) < 1e-5


def test_an_empty_scene_moves_nothing(fine_surface, truth, centres, rng):
    scene = scene_on(fine_surface, truth, rng, 50, weights=np.zeros(50, np.float32))
    found = levels.refine_levels(scene, fine_surface, truth, centres=centres, scales=SCALES)
    for level in range(5):
        assert farthest(fine_surface, level_pose(found, level), truth) < 1e-2


def test_nonfinite_points_are_ignored(fine_surface, truth, rng):
    scene = scene_on(fine_surface, truth, rng, 300)
    broken = scene._replace(points=scene.points.copy())
    broken.points[:3] = np.nan
    schedule = Schedule(first_scale_mm=4.0, steps=10)
    middles = np.asarray(poses.apply_inverse(truth, scene.points[:1]))
    whole = run_schedule(broken, fine_surface, truth, schedule)
    found = levels.register_levels(broken, fine_surface, whole, centres=middles, schedule=schedule)
    assert np.isfinite(found.pose.translation).all()
    assert np.isfinite(found.inlier_weight).all()


def test_gradients_forward_reverse_numeric(fine_surface, truth, centres, bent):
    given, _ = bent
    rng = np.random.default_rng(2)
    pick = rng.choice(len(given.weights), 40, replace=False)
    with jax.enable_x64(True):
        surface, start = in_x64(fine_surface), in_x64(truth)
        scene = in_x64(jax.tree.map(lambda leaf: np.asarray(leaf)[pick], given))
        middles, scales = jnp.asarray(centres, jnp.float64), np.float64([1.5, 1.5, 1.5])

        def error(points, weights, *, detach=True):
            moved = levels.refine_levels(
                MaskedCloud(points, scene.normals, weights),
                surface,
                start,
                centres=middles,
                scales=scales,
                detach_robust_weights=detach,
            )
            goal = jnp.sin(jnp.arange(18.0)).reshape(6, 3)
            return jnp.sum(jnp.square(moved.pose.translation - goal) * 1e-3)

        at = (scene.points, 0.7 * scene.weights)
        way = tuple(jnp.asarray(rng.normal(size=leaf.shape)) for leaf in at)
        _, forward = jax.jit(lambda a, b: jax.jvp(error, a, b))(at, way)
        reverse = jax.jit(jax.grad(error, argnums=(0, 1)))(*at)
        dot = sum(jnp.vdot(a, b) for a, b in zip(reverse, way, strict=True))
        np.testing.assert_allclose(forward, dot, rtol=1e-8)

        def along(run, eps=1e-6):
            ahead = run(*(a + eps * b for a, b in zip(at, way, strict=True)))
            behind = run(*(a - eps * b for a, b in zip(at, way, strict=True)))
            return (ahead - behind) / (2 * eps)

        # Differences see the robust weights, too, and so does the derivative that keeps them.
        kept = partial(error, detach=False)
        _, whole = jax.jit(lambda a, b: jax.jvp(kept, a, b))(at, way)
        reverse = jax.jit(jax.grad(kept, argnums=(0, 1)))(*at)
        dot = sum(jnp.vdot(a, b) for a, b in zip(reverse, way, strict=True))
        np.testing.assert_allclose(whole, dot, rtol=1e-8)
        numeric = along(jax.jit(kept))
        np.testing.assert_allclose(whole, numeric, rtol=1e-5)
        assert abs(forward - numeric) > 0.01 * abs(numeric)  # what the cut derivative leaves out

        # Without robust weights, a step that cuts their derivative leaves out nothing.
        def constant(points, weights):
            step = partial(
                steps.symmetric,
                kernel=KERNELS["constant"],
                anchor=steps.Anchor(start, 1.0),
                correspond=correspondences.project,
            )
            moved = iterate.run_unrolled(
                MaskedCloud(points, scene.normals, weights), surface, start, scales, step=step
            )
            return jnp.sum(jnp.square(moved.pose.translation)) * 1e-3

        _, forward = jax.jit(lambda a, b: jax.jvp(constant, a, b))(at, way)
        np.testing.assert_allclose(forward, along(jax.jit(constant)), rtol=2e-3)


def test_simulated_levels_are_bent_against_the_scan(fine_surface):
    settings = simulator.SimulationConfig(
        wound_fraction=(0.4, 0.8), min_bone_fraction=0.05, posture_degrees=2.0, posture_mm=1.5
    )
    specimen = specimens.procedural_specimen(jax.random.key(11), "bent")
    (case,) = simulator.simulate_frames(jax.random.key(12), specimen, settings, count=1)
    names = list(case.truth)
    apart = [farthest(fine_surface, case.truth[a], case.truth[b]) for a, b in pairwise(names)]
    assert min(apart) > 1.0
    assert np.linalg.det(case.truth["L3"].rotation) == pytest.approx(1.0, abs=1e-4)
    # True bone lies on the levels as they are now, and off them where one of them were all.
    bone = case.points[case.bone].astype(np.float32)

    def distance(pose):
        queries = poses.apply_inverse(pose, bone)
        return np.linalg.norm(queries - correspondences.project(surface, queries).points, axis=1)

    surface = surfaces.build_surface(specimen.model, seed=0, nodes=2**19, exact=False)
    each = np.min([distance(pose) for pose in case.truth.values()], axis=0)
    assert np.median(each) < 1.2
    assert true_pose(case) is not None
