"""Batches: the same from any step on, from memory and from folders."""

import shutil

import jax
import numpy as np
import pytest
from conftest import TINY

from e2r.datasets import case_folder
from e2r.training import batches, loop, sources
from e2r.training.metrics_log import read_log


def assert_same(expected, found):
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_batch_in_memory_follows_from_its_step(bank):
    stream = batches.uniform_batches(TINY, bank)
    all_batches = [*stream.iterate(1, 5)]
    assert len(all_batches) == 5
    for expected, batch in zip(all_batches[2:], stream.iterate(3, 5), strict=True):
        assert_same(expected, batch)
    rows = [bank.names.index(name) for name in stream.names(2)]
    assert set(stream.names(2)) <= set(bank.names) and len(rows) == 2
    assert_same(all_batches[3], sources.read_batch(bank, stream.rows(4)))
    # The draws of earlier versions, which resumed runs depend on.
    key = jax.random.fold_in(batches.run_key(TINY), 3)
    drawn = jax.random.randint(jax.random.split(key)[0], (2,), 0, len(bank))
    np.testing.assert_array_equal(stream.rows(4), drawn)


def test_case_folders_are_read_during_training(data_set, tmp_path):
    """Batches are the same from any step on, by threads and by processes; a run uses them."""
    source = sources.streamed_folder(data_set, TINY)
    stream = batches.shuffled_batches(TINY, source)
    found = [*stream.iterate(1, 4)]
    assert len(found) == 4 and found[0].cloud.points.shape[0] == 2
    ids = {path.name for path in case_folder.find_cases(data_set)}
    assert {name for step in range(1, 7) for name in stream.names(step)} == ids
    assert len(set(stream.names(1) + stream.names(2)[:1])) == 3  # a pass sees each case once
    by_processes = batches.shuffled_batches(TINY, source, workers=1)
    for expected, batch in zip(found[2:], by_processes.iterate(3, 4), strict=True):
        assert_same(expected, batch)
    inputs = loop.RunInputs(TINY, stream, source="folder")
    state = loop.train(inputs, tmp_path / "run", stop_after=2)
    assert int(state.step) == 2
    assert 0 < read_log(tmp_path / "run")[-1]["waited"] < 1


def test_a_case_without_a_truth_is_refused(data_set, tmp_path):
    broken = shutil.copytree(data_set, tmp_path / "broken")
    (case_folder.find_cases(broken)[1] / "truth.json").unlink()
    for read in (sources.streamed_folder, sources.from_folder):
        with pytest.raises(ValueError, match=r"has no truth\.json"):
            read(broken, TINY)
