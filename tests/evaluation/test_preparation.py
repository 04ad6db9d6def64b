"""A case is prepared for the device as the job and the surgeon say."""

from dataclasses import replace

import jax
import numpy as np

from e2r.config import EvaluationConfig
from e2r.datasets.sampling import sample_scene_points
from e2r.evaluation.preparation import initial_pose, prepare_case, stable_seed
from e2r.evaluation.programs import compile_programs
from e2r.geometry import surfaces
from e2r.networks.build import apply_mask_network
from e2r.pipeline import ProgramConfig
from e2r.registration.schedule import Schedule
from e2r.training.trained_model import load_trained


def test_each_attempt_draws_other_samples_and_starts(checkpoint, simulated_cases):
    config, _ = load_trained(checkpoint)
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
    assert not np.array_equal(samples[0].rows, samples[1].rows)
    assert not np.array_equal(tries[0].seeds, tries[1].seeds)


def test_a_higher_threshold_makes_the_mask_stricter(checkpoint, simulated_cases, surface):
    config, params = load_trained(checkpoint)
    case = simulated_cases[0]
    sample = sample_scene_points(case, config.network, seed=0)
    prepared = prepare_case(case, sample, surface, job=EvaluationConfig(batch=1))
    # An untrained network's logits lie close together: the median is the first threshold.
    logits = apply_mask_network(config.network, params, prepared.cloud, prepared.pyramid).logits
    median, spread = float(np.median(logits)), float(np.std(logits))
    batch = jax.tree.map(lambda leaf: np.asarray(leaf)[None], prepared)

    def weights(threshold, estimator):
        program = ProgramConfig(
            schedule=Schedule(steps=2),
            num_samples=1,
            per_level=False,
            estimator=estimator,
            mask_threshold=threshold,
        )
        register = compile_programs(config.network, program, batch=1).register
        return np.asarray(register(params, batch).weights["learnt"][0])

    lax, strict = (weights(t, "deterministic") for t in (median, median + spread))
    valid = prepared.cloud.valid.sum()
    assert 0.02 * valid < strict.sum() < lax.sum() < 0.6 * valid
    assert np.all(lax[strict > 0] > 0)
    soft = weights(median, "soft")
    np.testing.assert_array_equal(soft > 0.5, lax > 0.5)


def test_exposed_levels_restrict_the_search(checkpoint, simulated_cases, surface):
    config, _ = load_trained(checkpoint)
    restricted = replace(simulated_cases[0], exposed=("L2", "L3"))
    for case, expected in ((restricted, "-##--#"), (simulated_cases[0], "######")):
        sample = sample_scene_points(case, config.network, seed=0)
        prepared = prepare_case(case, sample, surface, job=EvaluationConfig(batch=1))
        assert "".join("-#"[int(v)] for v in prepared.exposed) == expected
