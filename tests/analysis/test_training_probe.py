"""Probes of a training run."""

import json

import jax
import numpy as np
import pytest
from conftest import TINY

from e2r.analysis import training_probe
from e2r.training import batches, loop
from e2r.training.trained_model import load_trained


@pytest.mark.slow
def test_probes_change_nothing_in_training(bank, checkpoint, tmp_path):
    """Bit for bit; their figures stand in metrics.jsonl, at their own steps."""
    probe = training_probe.make_probe(TINY)
    inputs = loop.RunInputs(TINY, batches.uniform_batches(TINY, bank))
    log_options = loop.LogOptions(probe=probe, probe_every=4)
    state = loop.train(inputs, tmp_path, log_options=log_options)
    _, params = load_trained(checkpoint)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 4, 6, 8]
    for line in lines:
        names = {f"probe_{name}" for name in training_probe.TrainingFigures._fields}
        assert (names <= set(line)) == (line["step"] in (4, 8))
    assert lines[-1]["probe_not_finite"] == 0
    assert lines[-1]["probe_mask_norm"] > 0 and lines[-1]["probe_last_share"] > 0
    assert lines[-1]["probe_mask_norm"] != lines[1]["probe_mask_norm"]
