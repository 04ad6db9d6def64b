"""A remembered view is found again in another depth image, without a start."""

import json
from functools import partial

import jax
import numpy as np
import pytest
import trimesh

from e2r.evaluation.metrics import distances_apart
from e2r.geometry import poses
from e2r.geometry.depth_pixels import Pinhole
from e2r.registration import relocalisation
from tests import ellipsoid_scene as scene
from tests.conftest import ANATOMY

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


@pytest.mark.parametrize("corner", [(0, 0), (70, 90), (70, 0)])
def test_a_small_patch_of_depth_is_found_by_itself(corner):
    row, column = corner
    patch = np.zeros_like(SEEN)
    patch[row : row + 50, column : column + 70] = SEEN[30:80, 45:115]
    middle = np.float32([(column - 45) * 2.0, (row - 30) * 2.0, 388.0])
    (motion, score), _ = find(patch, patch, middle)
    assert score > 0.9
    np.testing.assert_allclose(motion.translation, 0.0, atol=0.5)


RANGE = ANATOMY.parent / "range" / "views"
RANGE_FOCAL = 542.0
"""At which the columns of these views are whole numbers."""


@pytest.mark.skipif(not RANGE.exists(), reason="needs the range views of ../shared")
@pytest.mark.parametrize("first", ["00", "09", "21", "30"])
def test_a_real_sensors_view_is_found_in_the_next_one(first):
    second = f"{int(first) + 3:02d}"
    depths, truths, middle = [], [], None
    for number in (first, second):
        folder = RANGE / f"bunny_{number}"
        points = np.asarray(trimesh.load(folder / "scene.ply").vertices)
        u, v = np.round(RANGE_FOCAL * points[:, :2] / points[:, 2:] + [320.0, 240.0]).T.astype(int)
        depth = np.zeros((480, 640), np.float32)
        depth[v, u] = points[:, 2]
        depths.append(depth)
        truth = json.loads((folder / "truth.json").read_text())
        truths.append(poses.from_matrix(truth["T_camera_model"]["L3"], "truth"))
        middle = np.float32(points.mean(0)) if middle is None else middle
    camera = Pinhole(*np.float32([RANGE_FOCAL, RANGE_FOCAL, 320.0, 240.0]))
    keyframe = relocalisation.make_keyframe(relocalisation.view_depth(depths[0], camera), middle)
    motion, score = jax.jit(relocalisation.relocalise)(
        keyframe, relocalisation.view_depth(depths[1], camera)
    )
    surface = np.asarray(trimesh.load(RANGE.parent / "bunny.stl").vertices)[::10]
    apart = distances_apart(poses.compose(motion, truths[0]), truths[1], surface)
    assert apart.mean() < 2.5  # a pose of these views is uncertain by about 1.5 mm
    assert score > 0.35
