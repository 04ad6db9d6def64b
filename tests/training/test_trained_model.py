"""Trained models: the packaged one is whole."""

import jax
import numpy as np

from e2r.config import NAMED_CONFIGS
from e2r.evaluation.calibration import load_calibration
from e2r.training.metrics_log import read_log
from e2r.training.trained_model import PACKAGED, load_trained


def test_the_packaged_model_is_whole_and_small():
    config, params = load_trained(PACKAGED)
    assert config.scenes == NAMED_CONFIGS[PACKAGED.name][1].scenes
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert read_log(PACKAGED)[-1]["step"] == config.optimisation.steps
    files = [path for path in PACKAGED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5e6


def test_the_packaged_model_is_calibrated_level_by_level():
    calibration = load_calibration(PACKAGED)
    assert calibration is not None
    assert calibration.level and calibration.safe
    assert calibration.threshold < 1.0
