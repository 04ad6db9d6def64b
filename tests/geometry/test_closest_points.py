"""Exact distances to a mesh, on the host."""

import numpy as np

from e2r.geometry import closest_points


def test_distances_to_a_ball_are_those_to_its_radius(ball, rng):
    points = rng.normal(size=(200, 3)) * 40
    distances, triangles = closest_points.distance_to_mesh(points, ball.vertices, ball.faces)
    radius = np.linalg.norm(points, axis=1)
    np.testing.assert_allclose(distances, np.abs(radius - 30.0), atol=0.1)
    facing = np.sum(ball.face_normals[triangles] * points, axis=1) / radius
    assert (facing[radius > 15.0] > 0.99).all()
