"""The animation draws the model where each step puts it, and writes files that open."""

import numpy as np
import pytest
import trimesh
from made_up_job import made_up_result
from PIL import Image

from e2r.types import Pose
from e2r.visualisation import animation
from e2r.visualisation.colors import MASK_RGB
from e2r.visualisation.snapshots import make_snapshot


def test_the_model_moves_into_the_cloud():
    """The model is drawn 16 px to the left at first and in the middle last; the mask is red."""
    ball = trimesh.creation.icosphere(subdivisions=3, radius=10.0)
    trajectory = Pose(
        np.stack([np.eye(3)] * 3), np.array([[-2.0, 0, 300], [-1, 0, 300], [0, 0, 300]])
    )
    images = animation.registration_images(
        np.array([[0.0, 0, 280], [0, 0, 320]]),  # before and behind the ball
        np.array([[0, 1.0, 0], [0, 0, 1.0]]),
        np.array([1.0, 0.0]),
        surfaces={"L1": ball},
        trajectory=trajectory,
        size=200,
    )
    assert images.shape == (3, 200, 400, 3) and images.dtype == np.uint8
    left = images[:, 20:, :200].astype(int)
    bone = left[..., 0] + left[..., 1] > 200
    assert bone[0].sum() > 15000
    middles = [np.argwhere(b)[:, 1].mean() for b in bone]
    np.testing.assert_allclose(middles, np.array([84, 92, 100]), atol=1)
    tinted = 0.3 * np.array([0, 255, 0]) + 0.7 * np.array(MASK_RGB)
    np.testing.assert_allclose(left[2, 80, 100], tinted, atol=1)
    assert not (left[2, ..., 2] > left[2, ..., 0] + 50).any()  # the point behind stays hidden


def test_an_animation_is_written(tmp_path):
    snapshot = make_snapshot(made_up_result(0, 4.0), "learnt")
    for name in ("a.gif", "new/b.webp"):
        animation.registration_animation(snapshot, tmp_path / name, size=100)
        with Image.open(tmp_path / name) as file:
            assert file.n_frames == 4 and file.size == (200, 100)
    for name in ("a.png", "a"):
        with pytest.raises(ValueError, match="ends in"):
            animation.registration_animation(snapshot, tmp_path / name)
