"""A remembered view is found again in another depth image, without a start."""

from functools import partial

import jax
import numpy as np
import pytest

from e2r.geometry import poses
from e2r.registration import relocalisation
from tests import ellipsoid_scene as scene

HERE = scene.level_poses(bend=0.05)


depth_of = partial(scene.depth_image, moving_plane=True)
SEEN = depth_of(HERE)
MIDDLE = np.float32([0.0, 0.0, 388.0])


@jax.jit
def find(before, after, middle):
    keyframe = relocalisation.make_keyframe(
        relocalisation.view_depth(before, scene.camera()), middle
    )
    view = relocalisation.view_depth(after, scene.camera())
    return relocalisation.relocalise(keyframe, view), keyframe


def errors(motion, there):
    """Mean distance of each level's surface from its place, mm."""
    return scene.apart(jax.vmap(lambda one: poses.compose(motion, one))(HERE), there)


@pytest.mark.parametrize(
    ("turn", "shift"),
    [
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ((0.1, -0.05, 0.9), (20.0, -15.0, 30.0)),
        ((-0.1, 0.12, -0.6), (-30.0, 25.0, -30.0)),
        ((0.15, 0.1, 0.3), (10.0, 30.0, 60.0)),
    ],
)
def test_a_scene_is_found_where_the_camera_sees_it_now(turn, shift):
    there = scene.level_poses(turn=turn, shift=shift, bend=0.05)
    (motion, score), _ = find(SEEN, depth_of(there, noise=0.3), MIDDLE)
    assert errors(motion, there).max() < 1.0
    assert score > 0.4


def test_a_scene_that_is_not_there_does_not_fit():
    covered = np.full_like(SEEN, 300.0)
    (_, score), _ = find(SEEN, covered, MIDDLE)
    other = depth_of(scene.level_poses(bend=0.8, lift=25.0))
    (_, elsewhere), _ = find(SEEN, other, MIDDLE)
    (_, alike), _ = find(SEEN, SEEN, MIDDLE)
    assert score < 0.2 and elsewhere < 0.75 and alike > 0.99


@pytest.mark.parametrize("empty", ["before", "after"])
def test_nothing_seen_is_no_error(empty):
    nothing = np.zeros_like(SEEN)
    before, after = (nothing, SEEN) if empty == "before" else (SEEN, nothing)
    (motion, score), _ = find(before, after, MIDDLE)
    assert score == 0.0
    assert all(np.isfinite(leaf).all() for leaf in motion)


def test_a_keyframe_holds_what_is_near_and_seen():
    holed = SEEN.copy()
    holed[:, :60] = 0.0
    _, keyframe = find(holed, SEEN, MIDDLE)
    kept = np.asarray(keyframe.weights) > 0
    assert kept.sum() == relocalisation.POINTS
    points = np.asarray(keyframe.points)[kept]
    assert np.linalg.norm(points - MIDDLE, axis=1).max() < relocalisation.RADIUS_MM
    assert (points[:, 0] / points[:, 2] > (57.0 - 79.5) / scene.FOCAL).all()
    assert len(np.unique(points, axis=0)) == len(points)
