"""Correspondences: against closed forms and trimesh, and their gradients."""

import igl
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from conftest import numeric_gradient, points_around

from e2r.formats.meshes import read_meshes
from e2r.geometry import correspondences, surfaces


def test_closest_equals_trimesh(sphere, ball, rng):
    queries = points_around(ball, rng, 4000)
    queries = queries[np.linalg.norm(queries, axis=1) > 10]  # at the middle all are as near
    expected, _, faces = trimesh.proximity.closest_point(ball, queries)
    match = jax.jit(correspondences.closest)(sphere, queries)
    error = np.linalg.norm(match.points - expected, axis=1)
    assert (error < 1e-3).mean() > 0.998
    assert np.median(np.sum(match.normals * ball.face_normals[faces], axis=1)) > 0.999
    # Between the corners the normals bend, and stay radial where a face's would jump.
    radial = np.asarray(match.points) / np.linalg.norm(match.points, axis=1, keepdims=True)
    assert np.sum(match.normals * radial, axis=1).min() > 1 - 1e-4


@pytest.mark.parametrize(
    "name",
    ["verse004"]
    + [pytest.param(n, marks=pytest.mark.slow) for n in ("visible_human", "lumbar_mean")],
)
def test_closest_is_exact_on_real_models(name, anatomy, rng):
    """Within 20 mm of the bone, 99.9 % of the queries to 0.05 mm; small enough to keep."""
    levels = ("L1", "L2", "L3", "L4", "L5")
    meshes = {k: v for k, v in read_meshes(anatomy / name).items() if k in levels}
    surface = surfaces.build_surface(meshes, seed=0)
    assert sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(surface)) < 60e6
    whole = trimesh.util.concatenate(list(meshes.values()))
    queries = points_around(whole, rng, 3500, 20.0)
    expected, distance, _ = trimesh.proximity.closest_point(whole, queries)
    match = jax.jit(correspondences.closest)(surface, queries)
    error = np.linalg.norm(match.points - expected, axis=1)[distance < 20.0]
    # 99.9 % of 100,000 were seen; of some 1,500, four may miss by chance.
    assert (error > 0.05).sum() <= 4, error[error > 0.05]
    places = queries.astype(np.float64)
    owner = [
        np.sqrt(igl.point_mesh_squared_distance(places, np.array(m.vertices), np.array(m.faces))[0])
        for m in meshes.values()
    ]
    near = (distance < 20.0) & (np.sort(owner, axis=0)[1] > distance + 0.1)
    assert (np.asarray(match.levels) == np.argmin(owner, axis=0))[near].mean() > 0.999


def test_projection_is_close_and_radial(sphere, rng):
    direction = rng.normal(size=(500, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    queries = (direction * rng.uniform(25, 36, (500, 1))).astype(np.float32)
    match = correspondences.project(sphere, queries)
    np.testing.assert_allclose(np.linalg.norm(match.points, axis=1), 30.0, atol=0.25)
    assert np.linalg.norm(match.points - 30 * direction, axis=1).max() < 1.5
    hard = correspondences.nearest(sphere, queries)
    assert np.linalg.norm(hard.points - 30 * direction, axis=1).mean() < 2.0


def test_soft_correspondences_are_weighted_means_of_the_samples(sphere, rng):
    queries = points_around(trimesh.creation.box((50, 50, 50)), rng, 20)
    found = correspondences.soft(sphere, queries, spread_mm=2.0)
    square = np.sum((queries[:, None].astype(float) - sphere.points) ** 2, -1)
    share = np.exp(-0.5 * (square - square.min(1, keepdims=True)) / 4.0)
    share /= share.sum(1, keepdims=True)
    np.testing.assert_allclose(found.points, share @ sphere.points, atol=0.02)
    assert np.isfinite(
        jax.grad(lambda q: correspondences.soft(sphere, q).points.sum())(queries)
    ).all()


@pytest.mark.parametrize(
    "look_up", [correspondences.project, correspondences.closest, correspondences.soft]
)
def test_far_queries_find_points_of_the_surface(sphere, look_up):
    far = jnp.array([[1e6, -1e6, 3.0], [0.0, 0.0, 0.0], [-1e6, 1e6, 1e6]])
    match = look_up(sphere, far)
    assert np.isfinite(match.points).all()
    assert np.linalg.norm(match.points, axis=1).max() < 34.0
    assert np.isfinite(jax.grad(lambda q: look_up(sphere, q).points.sum())(far)).all()


@pytest.mark.parametrize(
    "look_up", [correspondences.project, correspondences.closest, correspondences.soft]
)
def test_gradients_forward_reverse_numeric(sphere, look_up, rng):
    queries = (np.asarray(sphere.points[::1000]) * rng.uniform(0.9, 1.1, (9, 1))).astype(float)
    with jax.enable_x64(True):
        surface = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64) if leaf.dtype == np.float32 else leaf,
            sphere,
        )
        direction = rng.normal(size=(9, 3))

        def value(q):
            return jnp.sum(look_up(surface, q).points * direction)

        reverse, forward = jax.grad(value)(queries), jax.jacfwd(value)(queries)
        np.testing.assert_allclose(forward, reverse, atol=1e-9)
        numeric = numeric_gradient(jax.jit(value), queries)
        np.testing.assert_allclose(reverse, numeric, atol=1e-5)


@pytest.mark.parametrize("height", [1e-3, 1e-4, 3e-5, 1e-6])
def test_slivers_have_finite_gradients(rng, height):
    """Triangles whose area single precision does not know; the closest point is on an edge."""
    count = 300
    corners = rng.normal(size=(count, 3, 3)) * 20
    along = corners[:, 1] - corners[:, 0]
    across = np.cross(along, rng.normal(size=(count, 3)))
    across *= np.linalg.norm(along, axis=1, keepdims=True) / np.linalg.norm(
        across, axis=1, keepdims=True
    )
    corners[:, 2] = corners[:, 0] + 0.4 * along + height * across
    rows = jnp.asarray(corners.reshape(count, 9), jnp.float32)
    points = tuple(jnp.asarray(rng.normal(size=(3, count)) * 25, jnp.float32))

    def distance(points):
        return jnp.sum(jnp.sqrt(correspondences._closest_on_triangle(points, rows)[2]))

    gradient = np.stack(jax.jit(jax.grad(distance))(points))
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(np.linalg.norm(gradient, axis=0), 1.0, atol=0.02)
    exact = trimesh.triangles.closest_point(corners, np.stack(points, 1).astype(np.float64))
    found = np.sqrt(correspondences._closest_on_triangle(points, rows)[2])
    apart = np.linalg.norm(exact - np.stack(points, 1), axis=1)
    np.testing.assert_allclose(found, apart, atol=0.03)
