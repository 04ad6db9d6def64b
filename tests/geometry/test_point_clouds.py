"""Clouds, normals and pyramids."""

import numpy as np
from conftest import padded_cloud

from e2r.geometry import point_clouds


def test_the_pyramid_holds_the_nearest_points(rng):
    cloud = padded_cloud(rng, 256, 256)
    pyramid = point_clouds.build_pyramid(cloud, levels=2, neighbours=4)
    apart = np.linalg.norm(cloud.points[:, None] - cloud.points[None], axis=-1)
    np.testing.assert_array_equal(pyramid.within[0][:, 0], np.arange(256))
    found = np.take_along_axis(apart, np.asarray(pyramid.within[0]), 1)
    np.testing.assert_allclose(found, np.sort(apart, 1)[:, :4], atol=1e-3)
    coarse = np.take_along_axis(apart, np.asarray(pyramid.up[0]), 1)
    np.testing.assert_allclose(coarse, np.sort(apart[:, :64], 1)[:, :3], atol=1e-3)


def test_back_projection_inverts_the_pinhole_camera():
    depth = np.zeros((4, 6))
    depth[1, 2], depth[3, 5] = 400.0, 500.0
    points, pixels = point_clouds.back_project(depth, fx=100.0, fy=200.0, cx=2.5, cy=1.5)
    np.testing.assert_array_equal(pixels, [1 * 6 + 2, 3 * 6 + 5])
    np.testing.assert_allclose(points[0], [(2 - 2.5) / 100 * 400, (1 - 1.5) / 200 * 400, 400])


def test_normals_of_a_plane_face_the_camera(rng):
    xy = rng.uniform(-50, 50, (400, 2))
    points = np.column_stack([xy, 500 + 0.3 * xy[:, 0]])
    normals = point_clouds.estimate_normals(points, points[:50])
    expected = np.array([0.3, 0.0, -1.0]) / np.hypot(1.0, 0.3)
    np.testing.assert_allclose(normals, np.tile(expected, (50, 1)), atol=1e-6)
