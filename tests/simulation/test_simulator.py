"""Simulated cases: the truth holds, each shows enough bone, colour alone does not find it."""

import jax
import numpy as np
import pytest
from conftest import TINY
from scipy.spatial import cKDTree

from e2r.datasets.case import true_pose
from e2r.geometry import correspondences, poses
from e2r.simulation import simulator
from e2r.simulation.specimens import procedural_specimen


def test_levels_of_a_simulation_are_checked():
    with pytest.raises(ValueError, match="some of T12, L1"):
        simulator.SimulationConfig(first=("T11",))
    with pytest.raises(ValueError, match="lies above"):
        simulator.SimulationConfig(first=("L1", "L5"), last=("L5",))


def test_bad_settings_are_refused():
    for options, words in (
        ({"width": 97}, "multiple of 4"),
        ({"wound_fraction": (0.5, 0.2)}, "in order"),
        ({"min_bone_fraction": 0.9}, "min_bone_fraction"),
    ):
        with pytest.raises(ValueError, match=words):
            simulator.SimulationConfig(**options)


def test_an_impossible_demand_for_bone_names_the_remedy(monkeypatch):
    specimen = procedural_specimen(jax.random.key(0), "s")
    monkeypatch.setattr(simulator, "_shows_enough_bone", lambda frame, settings: False)
    monkeypatch.setattr(simulator, "ATTEMPTS", 2)
    with pytest.raises(ValueError, match="lower simulation"):
        simulator.simulate_frames(jax.random.key(1), specimen, TINY.scenes.simulation, count=1)


def test_the_depth_image_shows_the_model_where_the_truth_puts_it(simulated_cases, fine_surface):
    """Bone points moved by the inverse of the truth lie on the CT surface, noise apart."""
    for case in simulated_cases:
        bone = case.points[case.bone].astype(np.float32)
        queries = poses.apply_inverse(true_pose(case), bone)
        apart = np.linalg.norm(
            queries - correspondences.project(fine_surface, queries).points, axis=1
        )
        assert np.median(apart) < 1.2


def test_every_frame_shows_enough_bone_of_two_levels(simulated_cases):
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


def test_colour_alone_does_not_find_bone(simulated_cases):
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


def test_the_number_of_workers_changes_nothing(simulated_cases):
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
