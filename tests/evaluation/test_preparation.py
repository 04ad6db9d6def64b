"""A case is prepared for the device as the job and the surgeon say."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
from scipy.spatial import cKDTree

from e2r.config import EvaluationConfig
from e2r.datasets.sampling import sample_scene_points
from e2r.evaluation.preparation import (
    RETRY_THRESHOLD,
    initial_pose,
    prepare_case,
    rows_to_sample,
    stable_seed,
)
from e2r.evaluation.programs import compile_programs
from e2r.geometry import poses, surfaces
from e2r.networks.build import apply_mask_network
from e2r.networks.region_of_interest import START_REACH_MM
from e2r.pipeline import FirstLook, ProgramConfig
from e2r.registration.schedule import Schedule
from e2r.training.trained_model import load_trained
from e2r.types import Cloud


def test_second_attempt_has_a_stricter_mask(checkpoint, simulated_cases):
    config, params = load_trained(checkpoint)
    case = simulated_cases[0]
    program = ProgramConfig(schedule=Schedule(steps=12), num_samples=2, min_keep_ratio=0.02)
    job = EvaluationConfig(program, start="truth", batch=1)
    surface = surfaces.build_surface(case.model, seed=0, nodes=surfaces.PROJECTION_NODES)
    samples = [
        sample_scene_points(case, config.network, seed=stable_seed(case.id, attempt), num_samples=2)
        for attempt in (0, 1)
    ]
    tries = [
        prepare_case(
            case,
            sample,
            surface,
            job=job,
            initial_pose=initial_pose(case, job, None, attempt=attempt),
            attempt=attempt,
        )
        for attempt, sample in enumerate(samples)
    ]
    assert tries[0].mask_threshold == 0.0
    assert not np.array_equal(samples[0].rows, samples[1].rows)
    register = compile_programs(config.network, program, batch=1).register
    # An untrained network's logits lie close together: the median is the first threshold.
    logits = apply_mask_network(config.network, params, tries[0].cloud, tries[0].pyramid).logits
    median = float(np.median(logits))
    spread = float(np.std(logits))

    def kept(threshold):
        one = tries[0]._replace(mask_threshold=np.float32(threshold))
        weights = register(params, jax.tree.map(lambda leaf: np.asarray(leaf)[None], one)).weights
        return np.asarray(weights["learnt"][0])

    lax, strict = kept(median), kept(median + spread)
    valid = tries[0].cloud.valid.sum()
    assert 0.02 * valid < strict.sum() < lax.sum() < 0.6 * valid
    assert np.all(lax[strict > 0] > 0)
    assert tries[1].mask_threshold == RETRY_THRESHOLD > 0


def test_exposed_levels_restrict_the_search(checkpoint, simulated_cases, surface):
    config, _ = load_trained(checkpoint)
    restricted = replace(simulated_cases[0], exposed=("L2", "L3"))
    for case, expected in ((restricted, "-##--#"), (simulated_cases[0], "######")):
        sample = sample_scene_points(case, config.network, seed=0)
        prepared = prepare_case(case, sample, surface, job=EvaluationConfig(batch=1))
        assert "".join("-#"[int(v)] for v in prepared.exposed) == expected


def test_from_a_start_the_network_takes_no_point_away(simulated_cases, surface):
    """It finds nothing of interest, and its region is 1 m away."""
    case = simulated_cases[0]
    first = Cloud(*[np.zeros((64, 3), np.float32)] * 3, np.ones(64, bool))
    look = FirstLook(np.full(64, -9.0), np.array([0.0, 0.0, 1500.0]))
    pose = initial_pose(case, EvaluationConfig(start="truth", start_noise_deg=0.0), None)
    choose = partial(rows_to_sample, case, look, first, surface=surface, min_points=50)
    rows = choose(initial_pose=pose)
    placed = np.asarray(poses.apply(pose, surface.points))
    distance = cKDTree(placed).query(case.points)[0]
    np.testing.assert_array_equal(rows, np.flatnonzero(distance < START_REACH_MM))
    assert 50 < len(rows) < len(case.points)
    assert choose(initial_pose=None) is None
    away = pose._replace(translation=pose.translation + 900.0)
    assert choose(initial_pose=away) is None
