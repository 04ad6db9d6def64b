import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

from e2r.geometry import surfaces


@pytest.fixture(scope="module")
def sphere():
    return surfaces.build(
        {"L1": trimesh.creation.icosphere(subdivisions=5, radius=30.0)},
        seed=0, samples=8192, cells=2**16,
    )  # fmt: skip


def test_samples_lie_on_the_sphere_with_outward_normals(sphere):
    radius = np.linalg.norm(sphere.points, axis=1)
    np.testing.assert_allclose(radius, 30.0, atol=0.05)
    np.testing.assert_allclose(
        np.sum(sphere.normals * sphere.points / radius[:, None], 1), 1.0, atol=5e-3
    )
    # Even by area: the mean of each octant's share.
    octant = (sphere.points > 0) @ [1, 2, 4]
    assert np.bincount(octant, minlength=8).std() < 0.05 * len(radius) / 8


def test_the_closest_point_is_radial(sphere, rng):
    direction = rng.normal(size=(500, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    queries = (direction * rng.uniform(25, 36, (500, 1))).astype(np.float32)
    match = surfaces.project(sphere, queries)
    np.testing.assert_allclose(np.linalg.norm(match.points, axis=1), 30.0, atol=0.25)
    assert np.linalg.norm(match.points - 30 * direction, axis=1).max() < 1.5
    hard = surfaces.nearest(sphere, queries)
    assert np.linalg.norm(hard.points - 30 * direction, axis=1).mean() < 2.0


def test_far_queries_and_other_grids_stay_in_bounds(sphere):
    far = jnp.array([[1e6, -1e6, 3.0], [0.0, 0.0, 0.0], [-1e9, 1e9, 1e9]])
    match = surfaces.project(sphere, far)
    assert np.isfinite(match.points).all()
    assert np.linalg.norm(match.points, axis=1).max() < 33.0


def test_projection_carries_the_tangential_gradient_only(sphere):
    with jax.enable_x64(True):
        surface = jax.tree.map(jnp.asarray, sphere)
        sample = np.asarray(sphere.points[17], np.float64)
        normal = np.asarray(sphere.normals[17], np.float64)
        query = jnp.asarray(sample + 0.3 * normal)[None]
        jacobian = jax.jacfwd(lambda q: surfaces.project(surface, q).points)(query)[0, :, 0]
        assert np.abs(jacobian @ normal).max() < 1e-3
        np.testing.assert_allclose(np.trace(jacobian), 2.0, atol=1e-3)


def test_several_levels_are_told_apart():
    ball = trimesh.creation.icosphere(subdivisions=3, radius=10.0)
    other = ball.copy()
    other.apply_translation([60.0, 0, 0])
    surface = surfaces.build({"L1": ball, "L2": other}, seed=0, samples=2048, cells=2**14)
    assert set(surface.levels) == {0, 1}
    np.testing.assert_array_equal(surface.levels == 1, surface.points[:, 0] > 30)


def test_bad_models_are_refused():
    with pytest.raises(ValueError, match="no level"):
        surfaces.build({}, seed=0)
    with pytest.raises(ValueError, match="16-bit"):
        surfaces.build({"L1": trimesh.creation.icosphere()}, seed=0, samples=70000)
