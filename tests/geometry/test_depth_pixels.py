"""A depth image is read where points project, with the normals of its planes."""

import jax
import numpy as np
import pytest

from e2r.geometry.depth_pixels import REACH, Pinhole, read_pixels

CAMERA = Pinhole(*np.float32([300.0, 320.0, 79.5, 59.5]))


def plane(normal, offset, shape=(120, 160)):
    """Depth of the plane ``normal . x = offset``, mm, and the rays of its pixels."""
    v, u = np.mgrid[: shape[0], : shape[1]].astype(float)
    rays = np.stack([(u - 79.5) / 300.0, (v - 59.5) / 320.0, np.ones_like(u)], -1)
    return (offset / (rays @ normal)).astype(np.float32), rays


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (0.5, -0.3), (-0.2, 0.8)])
def test_points_of_a_plane_have_its_normal(tilt):
    normal = np.array([*tilt, 1.0]) / np.linalg.norm([*tilt, 1.0])
    depth, rays = plane(normal, 450.0)
    rows, columns = np.array([20, 60, 100]), np.array([30, 80, 120])
    points = (rays * depth[..., None])[rows, columns].astype(np.float32)
    found = jax.jit(read_pixels)(depth, CAMERA, points)
    assert found.inside.all() and found.seen.all()
    np.testing.assert_allclose(found.points, points, atol=2e-3)
    np.testing.assert_allclose(found.normals, np.tile(-normal, (3, 1)), atol=2e-3)
    np.testing.assert_allclose(found.ahead, 0.0, atol=2e-3)


def test_what_lies_before_a_point_is_told():
    depth, rays = plane(np.array([0.0, 0.0, 1.0]), 400.0)
    points = np.float32([400.0, 380.0, 430.0])[:, None] * rays[60, 80].astype(np.float32)
    np.testing.assert_allclose(
        read_pixels(depth, CAMERA, points).ahead, [0.0, -20.0, 30.0], atol=1e-3
    )


def test_the_other_side_of_an_edge_does_not_bend_the_normal():
    depth, rays = plane(np.array([0.0, 0.0, 1.0]), 400.0)
    depth[:, 82:] = 440.0
    found = read_pixels(depth, CAMERA, (400.0 * rays[60, 80:81]).astype(np.float32))
    assert found.seen.all()
    np.testing.assert_allclose(found.normals, [[0.0, 0.0, -1.0]], atol=1e-3)


def test_nothing_is_seen_outside_behind_or_in_a_hole():
    depth, rays = plane(np.array([0.0, 0.0, 1.0]), 400.0)
    depth[30:50, 30:50] = 0.0
    hole, edge = 400.0 * rays[40, 40], 400.0 * rays[60, REACH - 1]
    points = np.float32([hole, edge, -400.0 * rays[60, 80], [0, 0, 0], 1e30 * rays[60, 80]])
    found = read_pixels(depth, CAMERA, points)
    np.testing.assert_array_equal(found.seen, [False, False, False, False, True])
    np.testing.assert_array_equal(found.inside, [True, False, False, False, True])
    for leaf in found:
        assert np.isfinite(leaf).all()
    np.testing.assert_array_equal(found.normals[:4], np.zeros((4, 3)))
