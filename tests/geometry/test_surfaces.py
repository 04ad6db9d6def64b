"""Closest points: against closed forms, against trimesh, on broken meshes, from disk."""

import igl
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from conftest import numeric_gradient

from e2r.datasets.meshes import read_meshes
from e2r.geometry import anatomical_frame, correspondences, poses, surfaces
from e2r.simulation import simulator


@pytest.fixture(scope="module")
def ball():
    return trimesh.creation.icosphere(subdivisions=4, radius=30.0)


@pytest.fixture(scope="module")
def sphere(ball):
    return surfaces.build({"L1": ball}, seed=0, nodes=2**18, samples=8192)


def around(mesh, rng, count, margin=10.0):
    low, high = mesh.bounds
    return rng.uniform(low - margin, high + margin, (count, 3)).astype(np.float32)


def test_samples_lie_on_the_sphere_with_outward_normals(sphere):
    radius = np.linalg.norm(sphere.points, axis=1)
    np.testing.assert_allclose(radius, 30.0, atol=0.1)
    outward = np.sum(sphere.normals * sphere.points / radius[:, None], 1)
    np.testing.assert_allclose(outward, 1.0, atol=5e-3)
    # Even by area: the mean of each octant's share.
    octant = (sphere.points > 0) @ [1, 2, 4]
    assert np.bincount(octant, minlength=8).std() < 0.05 * len(radius) / 8


def test_the_closest_point_equals_trimesh(sphere, ball, rng):
    queries = around(ball, rng, 4000)
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
def test_real_models_are_searched_exactly(name, anatomy, rng):
    """Within 20 mm of the bone, 99.9 % of the queries to 0.05 mm; small enough to keep."""
    levels = ("L1", "L2", "L3", "L4", "L5")
    meshes = {k: v for k, v in read_meshes(anatomy / name).items() if k in levels}
    surface = surfaces.build(meshes, seed=0)
    assert sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(surface)) < 60e6
    whole = trimesh.util.concatenate(list(meshes.values()))
    queries = around(whole, rng, 3500, 20.0)
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


def test_projection_is_near_and_radial(sphere, rng):
    direction = rng.normal(size=(500, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    queries = (direction * rng.uniform(25, 36, (500, 1))).astype(np.float32)
    match = correspondences.project(sphere, queries)
    np.testing.assert_allclose(np.linalg.norm(match.points, axis=1), 30.0, atol=0.25)
    assert np.linalg.norm(match.points - 30 * direction, axis=1).max() < 1.5
    hard = correspondences.nearest(sphere, queries)
    assert np.linalg.norm(hard.points - 30 * direction, axis=1).mean() < 2.0


def test_soft_matches_are_the_mean_of_the_samples(sphere, rng):
    queries = around(trimesh.creation.box((50, 50, 50)), rng, 20)
    found = correspondences.soft(sphere, queries, spread=2.0)
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
def test_far_queries_stay_in_bounds(sphere, look_up):
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


def test_open_crossing_and_degenerate_triangles_work(ball, rng):
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
    surface = surfaces.build({"L1": soup}, seed=0, nodes=2**18)
    assert int(surface.num_degenerate) == 3
    good = trimesh.Trimesh(soup.vertices[:-9], soup.faces[:-3], process=False)
    queries = around(good, rng, 1500)
    _, distance, _ = trimesh.proximity.closest_point(good, queries)
    match = jax.jit(correspondences.closest)(surface, queries)
    found = np.linalg.norm(match.points - queries, axis=1)
    assert (found < distance + 0.01).mean() > 0.995
    assert np.isfinite(np.asarray(match.normals)).all()


def test_several_levels_are_told_apart():
    ball = trimesh.creation.icosphere(subdivisions=3, radius=10.0)
    other = ball.copy()
    other.apply_translation([60.0, 0, 0])
    surface = surfaces.build({"L1": ball, "L2": other}, seed=0, samples=2048, nodes=2**14)
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
        surfaces.build(meshes, seed=0, nodes=2**15)
        for meshes in ({"L1": small}, {"L1": ball, "L2": moved})
    ]
    queries = around(ball, rng, 200)
    batch = jax.jit(jax.vmap(correspondences.closest, (0, None)))(surfaces.stack(models), queries)
    for i, model in enumerate(models):
        alone = correspondences.closest(model, queries)
        np.testing.assert_allclose(batch.points[i], alone.points, atol=1e-4)
        np.testing.assert_array_equal(batch.levels[i], alone.levels)


def test_a_surface_is_saved_and_read(sphere, tmp_path):
    path = tmp_path / "surface.npz"
    surfaces.save(path, sphere)
    for a, b in zip(*map(jax.tree.leaves, (surfaces.load(path), sphere)), strict=True):
        np.testing.assert_array_equal(a, b)
    for text in (b"", b"PK not a zip", path.read_bytes()[:5000]):
        path.write_bytes(text)
        with pytest.raises(ValueError, match=r"surface\.npz: holds no surface"):
            surfaces.load(path)
    with pytest.raises(ValueError, match="holds no surface"):
        surfaces.load(tmp_path / "none.npz")


def test_a_surface_is_remembered_beside_its_model(tmp_path, monkeypatch):
    ball = trimesh.creation.icosphere(2, 20.0)
    path, options = tmp_path / "surface.npz", {"seed": 0, "nodes": 2**12, "exact": False}
    first = surfaces.remembered(path, {"L1": ball}, **options)
    made = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(surfaces, "build", lambda *_, **__: pytest.fail("built twice"))
        again = surfaces.remembered(path, {"L1": ball}, **options)
    for a, b in zip(*map(jax.tree.leaves, (first, again)), strict=True):
        np.testing.assert_array_equal(a, b)
    bigger = surfaces.remembered(path, {"L1": ball.copy().apply_scale(1.1)}, **options)
    assert bigger.spacing > first.spacing
    assert path.read_bytes() != made
    path.write_bytes(b"broken")
    mended = surfaces.remembered(path, {"L1": ball}, **options)
    np.testing.assert_array_equal(mended.nodes, first.nodes)
    nowhere = surfaces.remembered(tmp_path / "none" / "surface.npz", {"L1": ball}, **options)
    np.testing.assert_array_equal(nowhere.nodes, first.nodes)


def test_bad_models_are_refused(sphere):
    with pytest.raises(ValueError, match="no level"):
        surfaces.build({}, seed=0)
    flat = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]], process=False)
    with pytest.raises(ValueError, match="L3: the surface has no area"):
        surfaces.build({"L3": flat}, seed=0)
    quick = surfaces.build(
        {"L1": trimesh.creation.icosphere(2, 20.0)}, seed=0, nodes=2**12, exact=False
    )
    with pytest.raises(ValueError, match="exact=True"):
        correspondences.closest(quick, jnp.zeros((2, 3)))


def degrees_between(a, b):
    return np.degrees(np.arccos(np.clip((np.trace(a @ b.T) - 1.0) / 2.0, -1.0, 1.0)))


def test_the_anatomical_frame_is_found_whatever_the_models_axes(simulated_cases, rng):
    model = simulated_cases[0].model
    found = anatomical_frame.estimate_frame(model)
    turn = trimesh.transformations.random_rotation_matrix(rng.random(3))
    moved = {name: mesh.copy().apply_transform(turn) for name, mesh in model.items()}
    again = anatomical_frame.estimate_frame(moved)
    assert degrees_between(again.rotation @ turn[:3, :3], found.rotation) < 3.0  # another grid
    part = anatomical_frame.estimate_frame({name: model[name] for name in ("L2", "L3", "L4")})
    assert degrees_between(part.rotation, found.rotation) < 15.0
    one = anatomical_frame.estimate_frame({"L3": model["L3"]})
    assert np.isfinite(one.rotation).all()
    assert np.linalg.det(one.rotation) == pytest.approx(1.0, abs=1e-5)


def test_names_that_are_no_vertebrae_do_not_turn_the_spine_over(simulated_cases):
    model = dict(simulated_cases[0].model)
    found = anatomical_frame.estimate_frame(model)
    rib = trimesh.creation.icosphere(2, 15.0)
    top = poses.apply_inverse(found, np.array([40.0, 0.0, 150.0], np.float32))
    rib.apply_translation(np.asarray(top))
    for name in ("left_rib", "skull"):
        again = anatomical_frame.estimate_frame({name: rib, **model})
        assert degrees_between(again.rotation, found.rotation) < 1.0
    two = {"upper": model["L2"], "lower": model["L3"]}
    named = anatomical_frame.estimate_frame({"L2": model["L2"], "L3": model["L3"]})
    np.testing.assert_allclose(
        anatomical_frame.estimate_frame(two).rotation, named.rotation, atol=1e-6
    )


def test_a_procedural_spine_knows_its_own_frame(monkeypatch):
    for i in range(3):
        specimen = simulator.procedural_specimen(jax.random.key(i), "x")
        found = anatomical_frame.estimate_frame(specimen.model)
        assert degrees_between(found.rotation, specimen.canonical.rotation) < 15.0
        # The same of all levels in one surface, as some data sets have them.
        whole = {"spine": trimesh.util.concatenate(list(specimen.model.values()))}
        again = anatomical_frame.estimate_frame(whole)
        assert degrees_between(again.rotation, found.rotation) < 3.0
        assert np.linalg.norm(found.translation - again.translation) < 5.0
        # A vertebra by name is one level, in however many pieces.
        level = specimen.model["L3"]
        cut = trimesh.intersections.slice_faces_plane(
            level.vertices, level.faces, found.rotation[1], level.center_mass
        )
        rest = trimesh.intersections.slice_faces_plane(
            level.vertices, level.faces, -found.rotation[1], level.center_mass
        )
        halves = [trimesh.Trimesh(*half[:2]) for half in (cut, rest)]
        pieces = {"L3": trimesh.util.concatenate(halves)}
        assert len(pieces["L3"].split(only_watertight=False)) >= 2
        turned = degrees_between(
            anatomical_frame.estimate_frame(pieces).rotation,
            anatomical_frame.estimate_frame({"L3": level}).rotation,
        )
        assert turned < 5.0
        # And where they are grown together; then head and tail may be taken for each other.
        with monkeypatch.context() as patch:
            patch.setattr(trimesh.Trimesh, "split", lambda *_, **__: [])
            fused = anatomical_frame.estimate_frame(whole).rotation @ found.rotation.T
        assert abs(fused[2, 2]) > 0.99 and fused[1, 1] > 0.99
