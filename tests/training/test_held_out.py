"""The scenes on which a run is watched: fixed, drawn by no training, registered as in training."""

import dataclasses

import jax
import numpy as np
import pytest
from conftest import TINY, first_state

from e2r.geometry import surface_cache
from e2r.simulation import simulator
from e2r.training import held_out, losses
from e2r.training.problems import draw_problem
from e2r.types import Pose


@pytest.fixture(scope="module")
def examples(bank):
    return held_out.stack_examples([bank.read(row, row) for row in range(len(bank))])


def test_no_specimen_is_shared_with_training_or_evaluation(simulated_cases):
    kinds = (simulator.HELD_OUT, simulator.CALIBRATION, simulator.WATCHED)
    assert len({1, *kinds}) == 4  # 1 is training's
    models = {surface_cache.fingerprint(simulated_cases[0].model)}
    for kind in kinds:
        (case,) = simulator.held_out_cases(
            TINY.scenes.simulation, specimens=1, frames=1, seed=TINY.seed, kind=kind
        )
        models.add(surface_cache.fingerprint(case.model))
    assert len(models) == 4


def test_the_initial_poses_have_the_noise_of_training(examples):
    """Of many draws about one example: the standard deviations of ``draw_problem``'s."""
    one = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[:1], 500, axis=0), examples)
    options = dataclasses.replace(TINY.optimisation, start_noise_deg=3.0, start_noise_mm=5.0)
    starts = held_out.initial_poses(jax.random.key(5), one, options)
    again = held_out.initial_poses(jax.random.key(5), one, options)
    jax.tree.map(np.testing.assert_array_equal, starts, again)
    keys = jax.random.split(jax.random.key(6), 500)
    _, problems = jax.vmap(lambda k, e: draw_problem(k, e, options))(keys, one)
    angles = [
        degrees_apart(problems.initial_pose, problems.example.pose),
        degrees_apart(starts, one.pose),
    ]
    assert np.mean(angles[0]) == pytest.approx(np.mean(angles[1]), rel=0.08)
    expected = 3.0 * np.sqrt(8 / np.pi)  # mean length of a Gaussian vector in space
    assert np.mean(angles[1]) == pytest.approx(expected, rel=0.08)


def degrees_apart(a, b):
    """Angles between two stacks of rotations."""
    traces = np.einsum("nij,nij->n", np.float64(a.rotation), np.float64(b.rotation))
    return np.degrees(np.arccos(np.clip((traces - 1) / 2, -1, 1)))


def test_the_figures_are_those_of_the_registrations(bank, examples):
    """From the true poses nearly all scenes are right; from poses 50 mm off none is."""
    rows = np.asarray(bank.surface_rows, np.int32)
    params = first_state().params
    config = dataclasses.replace(TINY, optimisation=dataclasses.replace(TINY.optimisation, batch=1))
    evaluate = jax.jit(
        lambda starts: held_out.held_out_figures(
            params, examples, bank.surfaces, rows, starts, config=config
        )
    )
    near = evaluate(examples.pose)
    assert float(near.start_mm) == pytest.approx(0.0, abs=1e-3)
    far = Pose(examples.pose.rotation, examples.pose.translation + np.float32([50.0, 0, 0]))
    away = evaluate(far)
    assert float(away.start_mm) == pytest.approx(50.0, rel=1e-3)
    assert float(away.success_2mm) == 0.0 and float(away.tre_mm) > held_out.SUCCESS_MM
    assert float(near.tre_mm) < float(away.tre_mm)
    by_hand = [
        float(losses.mean_target_error(p, t))
        for p, t in zip(_rows(far, len(rows)), _rows(examples.targets, len(rows)), strict=True)
    ]
    assert float(away.start_mm) == pytest.approx(np.median(by_hand), rel=1e-4)


def _rows(tree, count):
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(count)]
