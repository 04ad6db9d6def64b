"""Distances to a mesh, and the triangles that a lattice names, on the host."""

import numpy as np

from e2r.geometry import closest_points, correspondences, surfaces


def test_distances_to_a_ball_are_those_to_its_radius(ball, rng):
    points = rng.normal(size=(200, 3)) * 40
    distances, triangles = closest_points.distance_to_mesh(points, ball.vertices, ball.faces)
    radius = np.linalg.norm(points, axis=1)
    np.testing.assert_allclose(distances, np.abs(radius - 30.0), atol=0.1)
    facing = np.sum(ball.face_normals[triangles] * points, axis=1) / radius
    assert (facing[radius > 15.0] > 0.99).all()


def test_the_lattice_names_the_triangles_that_a_registration_takes(ball, rng):
    """Also those of queries far outside it."""
    surface = surfaces.build_surface({"L1": ball}, seed=0, nodes=2**14, exact=False)
    points = np.concatenate([rng.normal(size=(300, 3)) * 25, rng.normal(size=(20, 3)) * 500])
    found = closest_points.near_planes(surface, points)
    taken = correspondences.nearest(surface, points.astype(np.float32))
    np.testing.assert_array_equal(found.centres, taken.points)
    np.testing.assert_array_equal(found.normals, taken.normals)
    assert (found.levels == 0).all()
    inside = np.linalg.norm(points, axis=1) < 40.0
    apart = np.abs(((points - found.centres) * found.normals).sum(1))[inside]
    exact = closest_points.distance_to_mesh(points[inside], ball.vertices, ball.faces)[0]
    assert np.abs(apart - exact).max() < 2.0 and np.median(np.abs(apart - exact)) < 0.1
