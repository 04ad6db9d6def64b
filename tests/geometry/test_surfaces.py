"""Surfaces: samples, lattices, stacking, and malformed meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from conftest import points_around

from e2r.geometry import correspondences, surfaces


def test_samples_lie_on_the_sphere_with_outward_normals(sphere):
    radius = np.linalg.norm(sphere.points, axis=1)
    np.testing.assert_allclose(radius, 30.0, atol=0.1)
    outward = np.sum(sphere.normals * sphere.points / radius[:, None], 1)
    np.testing.assert_allclose(outward, 1.0, atol=5e-3)
    # Even by area: the mean of each octant's share.
    octant = (sphere.points > 0) @ [1, 2, 4]
    assert np.bincount(octant, minlength=8).std() < 0.05 * len(radius) / 8


def test_open_crossing_and_degenerate_meshes_are_searched(ball, rng):
    """Half a ball, a plate stuck through it, doubled faces, slivers, points and a NaN corner."""
    half = ball.submesh([np.flatnonzero(ball.triangles_center[:, 2] > 0)], append=True)
    plate = trimesh.creation.box((80, 1, 10))
    bad = np.array(
        [[[0, 0, 0]] * 3, [[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[np.nan, 0, 0], [1, 0, 0], [0, 1, 0]]]
    )
    triangles = np.concatenate([half.triangles, half.triangles[:50], plate.triangles, bad])
    soup = trimesh.Trimesh(
        triangles.reshape(-1, 3), np.arange(3 * len(triangles)).reshape(-1, 3), process=False
    )
    surface = surfaces.build_surface({"L1": soup}, seed=0, nodes=2**18)
    assert int(surface.num_degenerate) == 3
    good = trimesh.Trimesh(soup.vertices[:-9], soup.faces[:-3], process=False)
    queries = points_around(good, rng, 1500)
    _, distance, _ = trimesh.proximity.closest_point(good, queries)
    match = jax.jit(correspondences.closest)(surface, queries)
    found = np.linalg.norm(match.points - queries, axis=1)
    assert (found < distance + 0.01).mean() > 0.995
    assert np.isfinite(np.asarray(match.normals)).all()


def test_several_levels_are_told_apart():
    ball = trimesh.creation.icosphere(subdivisions=3, radius=10.0)
    other = ball.copy()
    other.apply_translation([60.0, 0, 0])
    surface = surfaces.build_surface({"L1": ball, "L2": other}, seed=0, samples=2048, nodes=2**14)
    assert set(surface.levels) == {0, 1}
    np.testing.assert_array_equal(surface.levels == 1, surface.points[:, 0] > 30)
    queries = np.array([[9.0, 3.0, 0.0], [52.0, 1.0, 0.0]], np.float32)
    for look_up in (correspondences.project, correspondences.closest):
        np.testing.assert_array_equal(look_up(surface, queries).levels, [0, 1])


def test_models_of_different_sizes_share_a_batch(ball, rng):
    small = trimesh.creation.icosphere(subdivisions=2, radius=20.0)
    moved = ball.copy()
    moved.apply_translation([70.0, 0, 0])
    models = [
        surfaces.build_surface(meshes, seed=0, nodes=2**15)
        for meshes in ({"L1": small}, {"L1": ball, "L2": moved})
    ]
    queries = points_around(ball, rng, 200)
    batch = jax.jit(jax.vmap(correspondences.closest, (0, None)))(surfaces.stack(models), queries)
    for i, model in enumerate(models):
        alone = correspondences.closest(model, queries)
        np.testing.assert_allclose(batch.points[i], alone.points, atol=1e-4)
        np.testing.assert_array_equal(batch.levels[i], alone.levels)


def test_models_of_most_patients_have_one_shape(monkeypatch):
    monkeypatch.setattr(surfaces, "SHARED_TRIANGLES", 2**9)

    def triangles(subdivisions):
        mesh = trimesh.creation.icosphere(subdivisions=subdivisions)
        surface = surfaces.build_surface({"L1": mesh}, seed=0, nodes=2**9, samples=8, exact=False)
        assert surfaces.stack([surface]).planes.shape[1] % surfaces.TRIANGLE_PADDING == 0
        return len(mesh.faces), surfaces.stack([surface], shared=True).planes.shape[1]

    monkeypatch.setattr(surfaces, "TRIANGLE_PADDING", 2**6)
    assert [triangles(n) for n in (1, 2, 3)] == [(80, 512), (320, 512), (1280, 2048)]


def test_empty_and_flat_models_are_refused(sphere):
    with pytest.raises(ValueError, match="no level"):
        surfaces.build_surface({}, seed=0)
    flat = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]], process=False)
    with pytest.raises(ValueError, match="L3: the surface has no area"):
        surfaces.build_surface({"L3": flat}, seed=0)
    quick = surfaces.build_surface(
        {"L1": trimesh.creation.icosphere(2, 20.0)}, seed=0, nodes=2**12, exact=False
    )
    with pytest.raises(ValueError, match="exact=True"):
        correspondences.closest(quick, jnp.zeros((2, 3)))
