"""Sources of examples: what they hold, and which examples a row gives."""

import dataclasses

import jax
import numpy as np
from conftest import TINY

from e2r.training import sources
from e2r.training.examples import make_example


def test_a_source_forgets_which_points_are_bone(simulated_cases):
    """Wrong bone labels change no number of the training data."""
    lies = [dataclasses.replace(case, bone=~case.bone) for case in simulated_cases]
    honest, lied = (sources.from_cases(group, TINY) for group in (simulated_cases, lies))
    assert honest.names == lied.names
    rows = range(len(honest))
    for a, b in zip(
        *(jax.tree.leaves(sources.read_batch(s, rows)) for s in (honest, lied)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_source_in_memory_shows_whole_frames_and_crops(bank, simulated_cases):
    """Each third example has a companion of the same case; the model's surface is held once."""
    ids = [case.id for case in simulated_cases]
    assert bank.names == (ids[0], ids[0], ids[1], ids[2], ids[2], ids[3])
    assert len(bank) == 6 and len(bank.surfaces.origin) == 1
    assert not bank.surface_rows.any()
    for row, cropped in ((0, True), (1, False)):
        expected = make_example(simulated_cases[0], TINY.network, seed=row, cropped=cropped)
        np.testing.assert_array_equal(bank.read(row, 0).cloud.points, expected.cloud.points)
