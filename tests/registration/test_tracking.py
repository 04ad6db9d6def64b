"""Levels are followed from one depth image to the next."""

from functools import partial

import jax
import numpy as np
import pytest

from e2r.geometry import depth_pixels, surfaces
from e2r.registration import tracking
from e2r.registration.tracking import TrackingSettings
from e2r.types import MaskedCloud
from tests import ellipsoid_scene as scene

RATE = np.float32(1 / 30)


@pytest.fixture(scope="module")
def surface():
    return surfaces.build_surface(scene.model(), seed=0, nodes=2**17, exact=False)


@pytest.fixture(scope="module")
def follow(surface):
    step = jax.jit(partial(tracking.track_frame, camera=scene.camera(), surface=surface))
    return lambda state, depth, seconds=RATE: step(state, depth, seconds)


def seen_cloud(depth):
    """All pixels before the plane behind."""
    v, u = np.nonzero(depth < scene.PLANE_MM - 2.0)
    z = depth[v, u]
    rays = np.stack([(u - 79.5) / scene.FOCAL, (v - 59.5) / scene.FOCAL, np.ones(len(u))], 1)
    found = depth_pixels.read_pixels(depth, scene.camera(), (rays * z[:, None]).astype(np.float32))
    return MaskedCloud(found.points, found.normals, np.asarray(found.seen, np.float32))


@pytest.fixture(scope="module")
def start(surface):
    """The state after a registration of a bent spine."""
    pose = scene.level_poses(bend=0.05)
    bone = tracking.remember_bone(seen_cloud(scene.depth_image(pose)), surface, pose)
    return tracking.start_track(pose, bone)


def test_the_bone_that_was_seen_lies_on_its_level(start):
    bone = start.bone
    assert set(np.asarray(bone.levels)) == {0, 1, 2} and float(bone.weights.mean()) > 0.8
    middle, radii = scene.CENTRES[bone.levels], scene.RADII[bone.levels]
    size = np.linalg.norm((np.asarray(bone.points) - middle) / radii, axis=1)
    np.testing.assert_allclose(size[np.asarray(bone.weights) > 0.5], 1.0, atol=0.02)


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_levels_are_followed_through_a_motion(start, follow, noise):
    state = start
    for number in range(1, 13):  # 150 mm/s and 30 degrees/s
        t = number / 30
        pose = scene.level_poses(
            turn=(0.3 * t, -0.2 * t, 0.35 * t), shift=(110 * t, -60 * t, -70 * t), bend=0.05
        )
        state, _, evidence = follow(state, scene.depth_image(pose, noise=noise, seed=number))
    assert scene.apart(state.pose, pose).max() < (0.6 if noise else 0.4)
    assert float(evidence.agreeing) > 0.7 and float(evidence.covered) < 0.1
    np.testing.assert_allclose(state.velocity[3:], [110, -60, -70], atol=12.0)
    turned = np.einsum("lij,lkj->lik", state.pose.rotation, state.pose.rotation)
    np.testing.assert_allclose(turned, np.tile(np.eye(3), (3, 1, 1)), atol=1e-5)


def test_a_level_that_moved_is_followed_alone(start, follow):
    state, moved = start, scene.level_poses(bend=0.05, lift=1.5)
    for _ in range(40):
        state, _, _ = follow(state, scene.depth_image(moved))
    before, after = scene.apart(start.pose, moved), scene.apart(state.pose, moved)
    assert before[2] > 1.4 and after.max() < 0.5, (before, after)


def test_noise_is_averaged_where_nothing_moves(start, follow):
    state, raw, filtered = start, [], []
    for number in range(30):
        depth = scene.depth_image(scene.level_poses(bend=0.05), noise=0.2, seed=number)
        state, measured, _ = follow(state, depth)
        raw.append(measured.pose.translation[1])
        filtered.append(state.pose.translation[1])
    spread = [np.std(values[10:], axis=0).max() for values in (raw, filtered)]
    assert spread[1] < 0.7 * spread[0] and spread[1] < 0.15


@pytest.mark.parametrize("what", ["covered", "blind"])
def test_poses_are_held_while_nothing_is_seen(start, follow, what):
    moving = start._replace(velocity=np.float32([0, 0, 0, 50, 0, 0]))
    depth = np.full((scene.HEIGHT, scene.WIDTH), 300.0 if what == "covered" else 0.0, np.float32)
    state, _, evidence = follow(moving, depth)
    np.testing.assert_array_equal(state.pose.translation, start.pose.translation)
    np.testing.assert_array_equal(state.velocity, np.zeros(6))
    assert float(evidence.agreeing) < 1e-3
    assert float(evidence.covered) > 0.95 if what == "covered" else float(evidence.covered) == 0
    again, _, evidence = follow(state, scene.depth_image(scene.level_poses(bend=0.05)))
    assert scene.apart(again.pose, start.pose).max() < 0.2 and float(evidence.agreeing) > 0.9


def test_half_a_wound_is_enough(start, follow):
    pose = scene.level_poses(turn=(0.0, 0.01, 0.0), shift=(2.0, 1.0, -2.0), bend=0.05)
    depth = scene.depth_image(pose)
    depth[:, 90:] = 330.0
    state, _, evidence = follow(start, depth)
    assert 0.3 < float(evidence.covered) < 0.7
    assert scene.apart(state.pose, pose)[:2].max() < 0.5


def test_many_tracks_are_one_batch(start, surface, follow):
    shifts = [(1.0, 0.0, 0.0), (0.0, 2.0, -1.0)]
    depths = [scene.depth_image(scene.level_poses(shift=shift, bend=0.05)) for shift in shifts]
    step = partial(tracking.track_frame, camera=scene.camera(), surface=surface)
    batch = jax.jit(jax.vmap(step, (None, 0, None)))(start, np.stack(depths), RATE)
    for number, depth in enumerate(depths):
        one = follow(start, depth)
        got = jax.tree.map(lambda leaf, n=number: leaf[n], batch)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=2e-2), got[0], one[0])


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", 0), ("last_scale_mm", 0.0), ("quiet_gain", 1.5), ("posture_weight", -1.0)],
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=rf"tracking\.{field} is {value}"):
        TrackingSettings(**{field: value})
