"""Registrations that agree are merged into one memory."""

import jax
import numpy as np
import pytest

from e2r.evaluation.predictions import Prediction
from e2r.registration import tracking
from e2r.registration.tracking import SeenBone
from e2r.tracking.finder import Found
from e2r.tracking.merging import merge
from tests import ellipsoid_scene as scene

HERE = scene.level_poses(shift=(5.0, 0.0, 0.0))
N = 400


def bone(level_of_most, value):
    levels = np.full(N, level_of_most, np.int32)
    levels[:100] = 0
    return SeenBone(np.full((N, 3), value, np.float32), levels, np.ones(N, np.float32))


def found(pose, value, number=3):
    return Found(number, pose, bone(1, value), Prediction("f", {}, True, 0.5, (), 0.1), 1.0)


def relative(posture):
    """Where the last level lies in the frame of the middle one."""
    apart = posture.translation[2] - posture.translation[1]
    return np.asarray(posture.rotation[1]).T @ apart


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_the_posture_lies_between_both_and_the_poses_stay(share):
    track = tracking.start_track(HERE, bone(1, 1.0))
    lifted = scene.level_poses(turn=(0.0, 0.0, 0.4), lift=8.0)  # seen from elsewhere
    merged = merge(track, found(lifted, 2.0), share)
    jax.tree.map(np.testing.assert_array_equal, merged.pose, track.pose)
    between = (1 - share) * relative(HERE) + share * relative(lifted)
    np.testing.assert_allclose(relative(merged.posture), between, atol=1e-3)
    np.testing.assert_allclose(merged.posture.translation[1], HERE.translation[1], atol=1e-3)
    turns = np.asarray(merged.posture.rotation)
    np.testing.assert_allclose(
        turns @ turns.transpose(0, 2, 1), np.tile(np.eye(3), (3, 1, 1)), atol=1e-5
    )


def test_the_bone_is_drawn_from_both():
    track = tracking.start_track(HERE, bone(1, 1.0))
    merged = merge(track, found(HERE, 2.0), 0.25)
    new = merged.bone.points[:, 0] == 2.0
    assert 0.18 < new.mean() < 0.32
    assert set(np.unique(merged.bone.points)) == {1.0, 2.0}
    assert [leaf.dtype for leaf in merged.bone] == [leaf.dtype for leaf in track.bone]
    whole = merge(track, found(HERE, 2.0), 1.0)
    assert (whole.bone.points == 2.0).all()
