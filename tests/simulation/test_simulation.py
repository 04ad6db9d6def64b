"""The simulator: every named part is bone, scenes are what they claim, real spines fit in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from conftest import TINY
from scipy.spatial import cKDTree

from e2r.datasets import meshes
from e2r.datasets.case import true_pose
from e2r.geometry import anatomical_frame, correspondences, poses
from e2r.simulation import anatomy, camera, rendering, simulator, vertebra
from e2r.simulation.anatomy import bake_meshes, distance_to_bone


@pytest.fixture(scope="module")
def bones():
    return jax.jit(anatomy.bake_specimen)(jax.random.key(4))


def test_every_part_is_bone_and_the_canal_is_open():
    for seed in range(3):
        shape = vertebra.sample_vertebra(
            jax.random.key(seed), jnp.float32(seed / 2), jnp.float32(1)
        )
        value = lambda points, shape=shape: np.asarray(vertebra.signed_distance(shape, points))  # noqa: E731
        assert value(np.zeros((1, 3), np.float32)) < -8  # the body
        # Both sides' pedicles, laminae, articular and transverse processes, then the spinous one.
        assert shape.centre.shape == (2 * len(vertebra.PARTS) + 1, 3)
        assert (value(shape.centre) < -1.0).all()
        left, right = shape.centre[:5, 0], shape.centre[5:10, 0]
        assert (left > 0).all()
        assert (right < 0).all()
        canal = np.array([[0, shape.canal[2], z] for z in (-20, 0, 20)], np.float32)
        assert (value(canal) > 4).all()
        far = np.array([[200.0, 0, 0], [0, -150, 0], [0, 0, 300]], np.float32)
        assert (value(far) > 30).all()


def test_distances_never_overstate(bones):
    """Sphere tracing is safe: the bound changes no faster than one walks."""
    rng = np.random.default_rng(0)
    shape = vertebra.sample_vertebra(jax.random.key(1), jnp.float32(0.5), jnp.float32(1))
    points = rng.uniform([-45, -20, -40], [45, 65, 32], (4000, 3)).astype(np.float32)
    gradient = jax.vmap(jax.grad(lambda p: vertebra.signed_distance(shape, p)))(points)
    slope = np.linalg.norm(gradient, axis=1)
    assert np.quantile(slope, 0.99) < 1.25


def test_the_lumbar_spine_is_lordotic():
    for seed in range(5):
        _, pose = anatomy.sample_spine(jax.random.key(seed))
        y, z = np.asarray(pose.translation)[:, 1:].T
        chord = np.interp(-z[2:5], -z[[1, 5]], y[[1, 5]])
        assert (y[2:5] < chord - 3.0).all()  # L2 to L4 lie in front of the line from L1 to L5
        assert np.asarray(pose.rotation)[6, 1, 2] < -0.25  # the sacrum's end plate slopes forward


def test_a_whole_spine_has_short_stubs_at_its_head_and_a_sacrum_at_its_tail():
    settings = simulator.SimulationConfig(first=("T12",), last=("S1",))
    model = simulator.procedural_specimen(jax.random.key(3), "s", settings).model
    assert list(model) == list(anatomy.LEVELS)
    assert all(mesh.is_watertight for mesh in model.values())
    frame = anatomical_frame.estimate_frame(model)
    size = {
        name: np.ptp(np.asarray(poses.apply(frame, mesh.vertices.astype(np.float32))), axis=0)
        for name, mesh in model.items()
    }
    assert size["T12"][0] < 0.75 * size["L1"][0]
    assert size["S1"][0] > 95.0 and size["S1"][2] > 60.0
    few = simulator.SimulationConfig(first=("L2",), last=("L4",))
    assert list(simulator.procedural_specimen(jax.random.key(3), "s", few).model) == [
        "L2",
        "L3",
        "L4",
    ]


def test_no_part_of_a_level_is_lost():
    """Some canals cut an arch off its body: it stays in the surface, as it stays in the picture."""
    for seed in (1001, 1005, 1020):
        bones = jax.tree.map(np.asarray, _whole(jax.random.key(seed)))
        models = anatomy.extract_meshes(bones, anatomy.LEVELS)
        for i, mesh in enumerate(models.values()):
            cells = np.asarray(bones.corners[i, : int(np.prod(bones.shape[i])), 0])
            inside = (cells < 0).sum() * float(bones.spacing[i]) ** 3
            assert mesh.volume == pytest.approx(inside, rel=0.03)


_whole = jax.jit(lambda key: anatomy.bake_specimen(key, anatomy.LEVELS))


def test_levels_of_a_simulation_are_checked():
    with pytest.raises(ValueError, match="some of T12, L1"):
        simulator.SimulationConfig(first=("T11",))
    with pytest.raises(ValueError, match="lies above"):
        simulator.SimulationConfig(first=("L1", "L5"), last=("L5",))


def test_specimens_levels_and_sides_differ(bones):
    other = jax.jit(anatomy.bake_specimen)(jax.random.key(5))
    assert float(jnp.abs(bones.corners - other.corners).max()) > 1
    shapes, pose = anatomy.sample_spine(jax.random.key(4))
    widths = shapes.body[:, 0]
    assert float(widths[4]) > float(widths[0])
    mirrored = shapes.centre[:, 5:10] * jnp.array([-1.0, 1.0, 1.0])
    assert float(jnp.abs(shapes.centre[:, :5] - mirrored).max()) > 0.5
    heights = pose.translation[:, 2]
    assert (np.diff(heights) < -25).all()  # head to tail, a vertebra apart


def test_models_are_closed_and_lie_where_the_distance_is_zero(bones):
    models = anatomy.extract_meshes(jax.tree.map(np.asarray, bones), anatomy.LEVELS[1:6])
    assert list(models) == ["L1", "L2", "L3", "L4", "L5"]
    for mesh in models.values():
        assert mesh.is_watertight
        assert 25_000 < mesh.volume < 110_000
        assert 70 < mesh.extents.max() < 125
        apart, _ = anatomy.distance_to_bone(bones, jnp.asarray(mesh.vertices[::25], jnp.float32))
        # On the surface, or inside a neighbour that it touches.
        assert float(jnp.quantile(jnp.abs(apart), 0.9)) < 0.1


def test_the_same_key_is_the_same_frame_and_kinds_are_all_there(bones):
    take = jax.jit(
        jax.vmap(
            lambda key: rendering.photograph(
                key, bones, width=96, height=72, wound_fraction=(0.2, 0.8)
            )
        )
    )
    keys = jax.random.split(jax.random.key(8), 6)
    frames, again = take(keys), take(keys)
    for a, b in zip(jax.tree.leaves(frames), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    shares = np.bincount(np.asarray(frames.kind).ravel(), minlength=5) / frames.kind.size
    assert (shares > 0.005).all(), shares
    seen = np.asarray(frames.depth)
    assert 0.02 < (seen == 0).mean() < 0.4
    noise = (seen - np.asarray(frames.clean))[
        (np.asarray(frames.kind) == rendering.BONE) & (seen > 0)
    ]
    assert 0.1 < np.median(np.abs(noise)) < 1.5
    # Between two and five levels in a row are exposed.
    for row in np.asarray(frames.exposed).astype(int):
        assert 2 <= row.sum() <= 5
        assert np.abs(np.diff(np.pad(row, 1))).sum() == 2


def test_the_depth_picture_shows_the_model_where_the_truth_puts_it(simulated_cases, fine_surface):
    """Bone points moved by the inverse of the truth lie on the CT surface, noise apart."""
    for case in simulated_cases:
        bone = case.points[case.bone].astype(np.float32)
        queries = poses.apply_inverse(true_pose(case), bone)
        apart = np.linalg.norm(
            queries - correspondences.project(fine_surface, queries).points, axis=1
        )
        assert np.median(apart) < 1.2


def test_every_scene_shows_bone_of_two_levels_and_enough(simulated_cases):
    settings = TINY.scenes.simulation
    for case in simulated_cases:
        assert case.bone.sum() >= settings.min_bone_fraction * settings.width * settings.height
        # Each bone point's level, from the nearest vertex of the model at the true pose.
        bone = case.points[case.bone]
        apart = [
            cKDTree(poses.apply(case.truth[name], np.asarray(mesh.vertices, np.float32))).query(
                bone
            )[0]
            for name, mesh in case.model.items()
        ]
        assert (np.bincount(np.argmin(apart, axis=0), minlength=5) >= 6).sum() >= 2
        assert len(case.targets) >= 2
        assert all(points.shape == (16, 3) for points in case.targets.values())


def test_colour_does_not_suffice(simulated_cases):
    """Neighbours in colour space, learnt on three frames, miss much of the fourth's bone."""
    scores = []
    for held in range(4):
        others = [c for i, c in enumerate(simulated_cases) if i != held]
        colors = np.concatenate([c.colors for c in others])
        bone = np.concatenate([c.bone for c in others])
        case = simulated_cases[held]
        _, near = cKDTree(colors).query(case.colors, k=25)
        called = bone[near].mean(1) > bone.mean()  # balanced: as likely as the base rate
        hit, false = called[case.bone].mean(), called[~case.bone].mean()
        scores.append(0.5 * (hit + 1 - false))
    assert np.mean(scores) < 0.85, scores


def test_the_wound_fills_the_asked_share_of_the_picture(bones):
    """Measured on rendered pictures: what is neither skin, drape nor tool is wound."""
    shares = []
    for fill in ((0.05, 0.06), (0.5, 0.6)):
        take = jax.jit(
            jax.vmap(
                lambda key, fill=fill: rendering.photograph(
                    key, bones, width=96, height=72, wound_fraction=fill
                )
            )
        )
        kind = np.asarray(take(jax.random.split(jax.random.key(2), 8)).kind)
        shares.append(np.median((kind <= rendering.TISSUE).mean((1, 2))))
    assert 0.02 < shares[0] < 0.10, shares
    assert 0.25 < shares[1] < 0.75, shares


def test_workers_change_nothing(simulated_cases):
    scenes = TINY.scenes
    again = list(
        simulator.simulate_specimens(
            jax.random.key(11), scenes.simulation, specimens=2, frames=scenes.frames, workers=2
        )
    )
    for a, b in zip(again[0], simulated_cases, strict=True):
        np.testing.assert_array_equal(a.points, b.points)
        np.testing.assert_array_equal(a.colors, b.colors)
    assert not np.array_equal(again[1][0].points[:50], simulated_cases[0].points[:50])


def test_the_camera_keeps_its_promises():
    key = jax.random.key(0)
    look = jnp.array([5.0, 40.0, -20.0])
    fills, tilts, fars = [], [], []
    for k in jax.random.split(key, 60):
        eye = camera.sample_camera(
            k, look, jnp.float32(6000.0), width=96, height=72, wound_fraction=(0.05, 0.8)
        )
        fars.append(float(poses.apply(eye.pose, look)[2]))
        tilts.append(np.rad2deg(np.arccos(-float(eye.pose.rotation[2, 1]))))
        fills.append(6000.0 * float(eye.focal) ** 2 / fars[-1] ** 2 / (96 * 72))
        np.testing.assert_allclose(np.linalg.det(eye.pose.rotation), 1.0, atol=1e-4)
    assert 340 < min(fars) < max(fars) < 710
    assert max(tilts) <= 30.1
    assert 0.045 < min(fills) < 0.15
    assert 0.4 < max(fills) < 0.85


def test_rays_go_through_pixel_centres():
    eye = camera.Camera(jnp.float32(100.0), poses.identity())
    origin, directions = camera.rays(eye, 8, 4)
    np.testing.assert_allclose(origin, 0)
    np.testing.assert_allclose(directions[0], [-0.035, -0.015, 1.0], atol=1e-6)


def test_bad_settings_are_refused():
    for options, words in (
        ({"width": 97}, "multiple of 4"),
        ({"wound_fraction": (0.5, 0.2)}, "in order"),
        ({"min_bone_fraction": 0.9}, "min_bone_fraction"),
    ):
        with pytest.raises(ValueError, match=words):
            simulator.SimulationConfig(**options)
    with pytest.raises(ValueError, match="at least two levels"):
        anatomy.bake_meshes({"L1": trimesh.creation.icosphere(radius=20.0)})


def test_impossible_demands_end_in_a_sentence(bones, monkeypatch):
    specimen = simulator.procedural_specimen(jax.random.key(0), "s")
    monkeypatch.setattr(simulator, "_shows_enough", lambda frame, settings: False)
    monkeypatch.setattr(simulator, "ATTEMPTS", 2)
    with pytest.raises(ValueError, match="lower simulation"):
        simulator.simulate_frames(jax.random.key(1), specimen, TINY.scenes.simulation, count=1)


@pytest.mark.parametrize("name", ["visible_human", "lumbar_mean", "verse004"])
def test_real_spines_take_the_anatomys_place(name, anatomy):
    real = meshes.read_meshes(anatomy / name)
    bones, canonical = bake_meshes(real, nodes=30_000)
    np.testing.assert_allclose(np.linalg.det(canonical.rotation), 1.0, atol=1e-5)
    placed = {
        level: np.asarray(poses.apply(canonical, np.asarray(mesh.vertices, np.float32)))
        for level, mesh in real.items()
    }
    # Canonical: cranial is up (z), the spinous process is the most posterior part (y) and lies
    # on the midline (x), left and right are alike.
    assert placed["L2"][:, 2].mean() > placed["L5"][:, 2].mean() + 60
    for level in ("L2", "L3", "L4"):
        x, y = placed[level][:, 0], placed[level][:, 1]
        tip = y > np.quantile(y, 0.99)
        middle = 0.5 * (x.min() + x.max())
        assert abs(x[tip].mean() - middle) < 9
        bulk = poses.apply(canonical, np.asarray(real[level].center_mass, np.float32))[1]
        assert y.max() - bulk > bulk - y.min()
        apart, _ = distance_to_bone(bones, jnp.asarray(placed[level][::40]))
        assert float(jnp.median(jnp.abs(apart))) < 0.4
