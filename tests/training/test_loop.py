"""The training loop: runs are resumed exactly, and stop at a loss that is not finite."""

import dataclasses
import json
import os
import signal
from dataclasses import replace

import jax
import numpy as np
import pytest
from conftest import TINY, first_state

from e2r.analysis import nan_tracing
from e2r.runtime import sharding
from e2r.runtime.single_writer import single_writer
from e2r.training import batches, checkpoints, loop, sources
from e2r.training.metrics_log import read_log
from e2r.training.step import compiled_train_step
from e2r.training.trained_model import load_trained


def run(bank, output, **options):
    inputs = loop.RunInputs(TINY, batches.uniform_batches(TINY, bank))
    return loop.train(inputs, output, **options)


def test_interrupted_equals_uninterrupted_bit_for_bit(bank, tmp_path, monkeypatch):
    whole = run(bank, tmp_path / "whole")
    run(bank, tmp_path / "parts", stop_after=2)  # not on a checkpoint's step
    run(bank, tmp_path / "parts", stop_after=5)
    parts = run(bank, tmp_path / "parts")
    assert int(parts.step) == int(whole.step) == TINY.optimisation.steps
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_array_equal(a, b)
    config, params = load_trained(tmp_path / "parts")
    assert config == TINY
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_array_equal(a, b)
    steps_logged = [
        json.loads(line)["step"]
        for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps_logged == sorted(set(steps_logged))
    assert steps_logged[-1] == TINY.optimisation.steps
    # A run killed at step 8 repeats the steps after the checkpoint of step 6.
    compiled, calls = compiled_train_step, []

    def dying(*settings):
        step_fn = compiled(*settings)

        def step_or_die(state, *inputs, step):
            calls.append(int(state.step))
            if len(calls) == 8:
                raise KeyboardInterrupt
            return step_fn(state, *inputs, step=step)

        return step_or_die

    monkeypatch.setattr(loop, "compiled_train_step", dying)
    with pytest.raises(KeyboardInterrupt):
        run(bank, tmp_path / "killed")
    killed = run(bank, tmp_path / "killed")
    assert calls == [0, 1, 2, 3, 4, 5, 6, 7, 6, 7]
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(killed), strict=True):
        np.testing.assert_array_equal(a, b)
    logged = (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in logged] == [3, 6, 8]

    # A run asked to stop in its fifth step finishes and saves that step first.
    def asking(*settings):
        step_fn = compiled(*settings)

        def step_and_ask(state, *inputs, step):
            if int(state.step) == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return step_fn(state, *inputs, step=step)

        return step_and_ask

    monkeypatch.setattr(loop, "compiled_train_step", asking)
    with pytest.raises(KeyboardInterrupt):
        run(bank, tmp_path / "asked")
    assert checkpoints.latest_step(tmp_path / "asked") == 5
    monkeypatch.setattr(loop, "compiled_train_step", compiled)
    asked = run(bank, tmp_path / "asked")
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(asked), strict=True):
        np.testing.assert_array_equal(a, b)
    # All of these runs used one compiled program.
    assert compiled(TINY, None, sharding.make_mesh(2)).compilations() == 1
    # Other settings, or other scenes, do not overwrite a run.
    with pytest.raises(ValueError, match="other settings"):
        inputs = loop.RunInputs(TINY, batches.uniform_batches(TINY, bank), source="elsewhere")
        loop.train(inputs, tmp_path / "parts")
    other = dataclasses.replace(TINY, seed=1)
    with pytest.raises(ValueError, match="other settings"):
        inputs = loop.RunInputs(other, batches.uniform_batches(other, bank))
        loop.train(inputs, tmp_path / "parts")


@pytest.fixture(scope="module")
def broken(bank):
    """Batches with one bad example, its name, and which steps' batches hold it; not the first."""

    def read(row, number):
        example = bank.read(row, number)
        colors = np.array(example.cloud.colors)
        if row == 2:
            colors[:] = np.nan
        return example._replace(cloud=example.cloud._replace(colors=colors))

    stream = batches.uniform_batches(TINY, dataclasses.replace(bank, read=read))
    bad = [2 in stream.rows(step) for step in range(1, 9)]
    assert bank.names.count(bank.names[2]) == 1
    assert 1 < bad.index(True) + 1 < 9
    return stream, bank.names[2], bad


def test_a_loss_that_is_not_finite_stops_the_run(broken, bank, tmp_path):
    """The run stops before that step; the error names step, case and function."""
    stream, name, bad = broken
    first = bad.index(True) + 1
    with pytest.raises(loop.NotFiniteError, match=f"not finite in step {first}, of") as caught:
        loop.train(loop.RunInputs(TINY, stream), tmp_path / "bad")
    assert checkpoints.latest_step(tmp_path / "bad") == first - 1
    good = run(bank, tmp_path / "good", stop_after=first - 1)
    for a, b in zip(jax.tree.leaves(caught.value.state), jax.tree.leaves(good), strict=True):
        np.testing.assert_array_equal(a, b)
    sentence = nan_tracing.explain(TINY, caught.value)
    assert sentence.endswith(f"is colors of cloud, in {name}"), sentence


def test_a_folder_that_another_process_trains_in_is_refused(bank, tmp_path):
    with single_writer(tmp_path, "run"), pytest.raises(ValueError, match="another process writes"):
        run(bank, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.slow
def test_where_all_is_well_no_fault_is_found(bank):
    """Neither in the forward nor in the backward pass."""
    batch = sources.read_batch(bank, [0, 1])
    error = loop.NotFiniteError(1, first_state(), batch, ["a", "b"])
    assert nan_tracing.explain(TINY, error).startswith("no case")


def test_steps_that_are_not_finite_are_skipped_and_counted_on_request(broken, tmp_path):
    stream, _, bad = broken
    options = dataclasses.replace(TINY.optimisation, skip_not_finite=True)
    config = dataclasses.replace(TINY, optimisation=options)
    state = loop.train(loop.RunInputs(config, stream), tmp_path)
    assert int(state.step) == 8
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    lines = read_log(tmp_path)
    assert sum(line["skipped"] for line in lines) == sum(bad)


def test_parts_that_do_not_divide_a_devices_share_are_refused(bank, tmp_path):
    options = dataclasses.replace(TINY.optimisation, accumulate=3)
    config = dataclasses.replace(TINY, optimisation=options)
    inputs = loop.RunInputs(config, batches.uniform_batches(config, bank))
    with pytest.raises(ValueError, match=r"optimisation\.accumulate is 3.*use a divisor of 2"):
        loop.train(inputs, tmp_path)


def test_a_schedule_that_stops_by_itself_is_refused_before_the_work(tmp_path):
    config = replace(TINY, schedule=replace(TINY.schedule, tolerance_mm=0.1))
    with pytest.raises(ValueError, match="tolerance_mm is for inference; use 0 to train"):
        loop.steps_done(config, tmp_path)
