"""What a recording's frames say of themselves."""

import numpy as np
import pytest

from e2r.simulation import sequences
from e2r.types import Pose


@pytest.mark.parametrize(
    ("shift", "held_from", "share"),
    [(0.0, 160, 1.0), (0.0, 80, 0.5), (0.0, 0, 0.0), (160.0, 160, 0.5), (400.0, 160, 0.0)],
)
def test_the_wound_is_visible_by_its_bone_wherever_the_camera_looks(shift, held_from, share):
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(-200.0, 201.0, 4.0), [-1.0, 1.0]))
    points = np.stack([x, y, np.full_like(x, 400.0)], 1).astype(np.float32)
    backdrop = sequences._Backdrop(
        points,
        np.zeros_like(points),
        np.zeros_like(points),
        np.abs(x) <= 40.0,
        np.zeros(len(x), np.int32),
    )
    held = np.zeros((120, 160), bool)
    held[:, held_from:] = True  # a hand over the right of the picture
    view = Pose(np.eye(3, dtype=np.float32), np.float32([shift, 0.0, 0.0]))
    found = sequences._visible_share(backdrop, held, np.asarray(200.0, np.float32), view)
    assert found == pytest.approx(share, abs=0.05)
