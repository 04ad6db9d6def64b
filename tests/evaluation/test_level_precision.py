"""The predicted error of a level's pose is the one that noise makes."""

import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from e2r.evaluation.precision import level_precision
from e2r.geometry import poses, surfaces
from e2r.registration import iterate, steps
from e2r.types import LevelPoses, MaskedCloud, Pose

NOISE_MM = 0.3


@pytest.fixture(scope="module")
def surface():
    shape = trimesh.creation.box([60.0, 40.0, 30.0]).subdivide().subdivide().subdivide().subdivide()
    other = shape.copy()
    other.apply_translation([0.0, 0.0, 60.0])
    return surfaces.build_surface(
        {"L1": shape, "L2": other}, seed=0, nodes=2**14, samples=4096, exact=False
    )


def tree_of(surface):
    return cKDTree(np.asarray(surface.planes)[:, :3])


def levels_at(*two):
    stacked = Pose(*(np.stack(leaves) for leaves in zip(*two, strict=True)))
    return LevelPoses(stacked, np.ones(2, np.float32), np.ones(2, np.float32))


def same(pose):
    return levels_at(pose, pose)


IDENTITY = Pose(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))


def sampled(surface, rows, rng):
    points, normals = np.asarray(surface.points)[rows], np.asarray(surface.normals)[rows]
    noise = NOISE_MM * rng.normal(size=(len(points), 1))
    return points + (noise * normals).astype(np.float32), normals


def test_the_predicted_error_is_the_one_that_noise_makes(surface, rng):
    points = np.asarray(surface.points)
    inside = (np.abs(points) < np.array([30.0, 20.0, 15.0]) - 5.0).sum(1) == 2  # not by an edge
    rows = np.flatnonzero((surface.levels == 0) & inside & (points[:, 1] > -10.0))
    targets = points[surface.levels == 0]
    tree, found, predicted = tree_of(surface), [], []
    scales = iterate.annealed_scales(4.0, 4.0, 8)
    for _ in range(30):
        some = rng.choice(rows, 60, replace=False)
        points, normals = sampled(surface, some, rng)
        cloud = MaskedCloud(jnp.asarray(points), jnp.asarray(normals), jnp.ones(60))
        step = steps.point_to_plane
        pose = iterate.run_unrolled(cloud, surface, IDENTITY, scales, step=step).pose
        moved = poses.apply_host(pose, targets) - targets
        found.append(np.sqrt(np.square(moved).sum(1).mean()))
        precision = level_precision(points, tree, surface, same(pose))
        predicted.append(precision.dilution[0] * precision.noise[0])
    root_mean = np.sqrt(np.mean(np.square(found)))
    assert root_mean == pytest.approx(np.mean(predicted), rel=0.35)


def test_points_of_one_corner_hold_a_level_less_than_points_all_around(surface, rng):
    points = np.asarray(surface.points)
    level = np.flatnonzero(surface.levels == 0)
    corner = level[np.argsort(-(points[level] @ [1.0, 1.0, 1.0]))[:100]]
    around = rng.choice(level, 100, replace=False)
    tree = tree_of(surface)
    few, many = (
        level_precision(points[rows], tree, surface, same(IDENTITY)).dilution[0]
        for rows in (corner, around)
    )
    assert few > 3.0 * many


def test_a_bent_level_is_held_by_its_own_points_alone(surface, rng):
    rows = np.flatnonzero(surface.levels == 0)
    points, _ = sampled(surface, rng.choice(rows, 300, replace=False), rng)
    shifted = Pose(np.eye(3, dtype=np.float32), np.array([0.0, 0.0, 0.5], np.float32))
    tree = tree_of(surface)
    rigid = level_precision(points, tree, surface, same(IDENTITY))
    bent = level_precision(points, tree, surface, levels_at(IDENTITY, shifted))
    assert rigid.dilution[1] < 1.0 < bent.dilution[1]
    np.testing.assert_allclose(bent.dilution[0], rigid.dilution[0], rtol=0.1)
    assert rigid.inliers[0] == pytest.approx(300, rel=0.1) and rigid.inliers[1] < 1.0
    assert rigid.noise[0] == pytest.approx(np.hypot(NOISE_MM, 0.1), rel=0.25)


def test_no_points_hold_nothing(surface):
    nothing = level_precision(np.zeros((0, 3)), tree_of(surface), surface, same(IDENTITY))
    assert (nothing.dilution > 3.0).all() and np.isfinite(nothing).all()
    assert (nothing.inliers == 0).all()
