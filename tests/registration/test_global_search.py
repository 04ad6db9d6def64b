"""The global search: its score, its result and its settings."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY, farthest, random_rotation, scene_on

from e2r.geometry import correspondences, poses
from e2r.networks.mask_network import MaskOutput
from e2r.registration import global_search
from e2r.registration.schedule import Schedule
from e2r.types import Cloud, Pose

ALL_LEVELS = np.ones(6, bool)
"""Every level may lie in the wound."""


def inlier_score(scene, surface, pose, exposed=ALL_LEVELS):
    return global_search.inlier_score(scene, surface, pose, exposed=exposed, scale_mm=1.5)


def test_the_inlier_score_is_highest_at_the_truth_and_uses_normals(fine_surface, truth, rng):
    scene = scene_on(fine_surface, truth, rng, 300)
    best = float(inlier_score(scene, fine_surface, truth))
    assert best > 0.9 * 300
    off = truth._replace(translation=truth.translation + np.array([0.0, 4.0, 0.0], np.float32))
    assert float(inlier_score(scene, fine_surface, off)) < 0.7 * best
    inside_out = scene._replace(normals=-scene.normals)
    assert float(inlier_score(inside_out, fine_surface, truth)) < 0.05 * best


def test_exposed_levels_restrict_the_inlier_score(fine_surface, truth, rng):
    """Only points on the levels that the surgeon names count."""
    scene = scene_on(fine_surface, truth, rng, 400)
    own = np.asarray(
        correspondences.project(fine_surface, poses.apply_inverse(truth, scene.points)).levels
    )
    some = np.array([False, False, True, True, False, False])
    score = float(inlier_score(scene, fine_surface, truth, exposed=some))
    assert score == pytest.approx(np.isin(own, [2, 3]).sum(), rel=0.1)


def test_the_search_corrects_a_coarse_pose_that_is_a_level_off(
    fine_surface, truth, rng, monkeypatch
):
    """One coarse pose of eight is 36 mm off along the spine; the others are far away."""
    scene = scene_on(fine_surface, truth, rng, 256, noise=0.2)
    count = len(scene.weights)
    cloud = Cloud(scene.points, np.zeros((count, 3)), scene.normals, np.ones(count, bool))
    features = jnp.zeros((count, TINY.network.widths[0]))
    output = MaskOutput(jnp.zeros(count), jnp.zeros(count), features)
    cranial = poses.rotate(truth, fine_surface.canonical_from_model.rotation[2])
    off = truth._replace(translation=truth.translation - 36.0 * cranial + jnp.array([2.0, -2.0, 1]))
    wrong = [
        Pose(random_rotation(jax.random.key(i)), off.translation + 40.0 * i) for i in range(1, 8)
    ]
    guess = jax.tree.map(lambda *leaves: jnp.stack(leaves), off, *wrong)
    monkeypatch.setattr(global_search, "coarse_poses", lambda *_, **__: guess)
    find = jax.jit(
        partial(
            global_search.search,
            params={},  # of the coarse network, whose poses are given
            network=TINY.network,
            schedule=Schedule(steps=30),
            config=global_search.SearchConfig(points=128),
        )
    )
    observed = global_search.ObservedScene(cloud, scene, output)
    found = find(jax.random.key(1), observed, fine_surface, exposed=ALL_LEVELS)
    assert farthest(fine_surface, found.registration.pose, truth) < 0.5
    several = found.hypotheses
    assert (np.diff(several.inlier_score) <= 0).all()
    assert float(several.inlier_score[0]) > 0.8 * count
    same = [
        farthest(fine_surface, jax.tree.map(lambda leaf, k=k: leaf[k], several.pose), truth) < 2.0
        for k in range(4)
    ]
    assert same[0] and not (np.asarray(several.distinct) & same)[1:].any()


def test_bad_settings_of_the_search_are_refused():
    for bad in ({"rolls": 0}, {"shifts": ()}, {"finalists": 99}, {"score_scale_mm": 0.0}):
        with pytest.raises(ValueError, match=r"search\."):
            replace(global_search.SearchConfig(), **bad)
