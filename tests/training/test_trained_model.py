"""Trained models: the packaged one is whole."""

import jax
import numpy as np
import pytest

from e2r.config import NAMED_CONFIGS
from e2r.evaluation.calibration import load_calibration
from e2r.training.metrics_log import read_log
from e2r.training.trained_model import PACKAGED, load_trained


@pytest.mark.parametrize("name", ["base", "varied"])
def test_the_packaged_models_are_whole_and_small(name):
    """Commands without --checkpoint use base."""
    folder = PACKAGED.parent / name
    config, params = load_trained(folder)
    assert config.scenes == NAMED_CONFIGS[name][1].scenes
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert read_log(folder)[-1]["step"] == config.optimisation.steps
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5e6


def test_the_default_model_is_calibrated():
    assert PACKAGED.name == "base"
    assert load_calibration(PACKAGED) is not None
