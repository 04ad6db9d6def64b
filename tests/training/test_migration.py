"""Settings of earlier versions: stored under old field names, read by today's."""

import dataclasses
import json

import pytest

from e2r.config import (
    NAMED_CONFIGS,
    OptimisationConfig,
    ScenesConfig,
    config_from_json,
    config_to_json,
    migrate,
)
from e2r.networks.build import NetworkConfig
from e2r.registration.schedule import Schedule

STORED = json.loads(
    """
{
 "seed": 3,
 "network": {
  "points": 2048, "widths": [32, 64, 96], "blocks": 1, "neighbours": 12, "tokens": 96,
  "samples": 256, "coarse_width": 96, "coarse_layers": 3, "precision": "float32"
 },
 "scenes": {
  "specimens": 64, "frames": 10,
  "simulation": {
   "width": 96, "height": 72, "fill": [0.25, 0.75], "least_bone": 0.03, "posture_degrees": 0.5,
   "posture_mm": 0.25, "still": 0.125, "first": ["L1"], "last": ["L5"]
  },
  "nodes": 131072
 },
 "schedule": {
  "step": "point_to_plane", "kernel": "welsch", "correspondence": "project", "steps": 10,
  "hold": 2, "first_scale": 7.0, "last_scale": 1.75, "early_steps": 0, "early_points": 256,
  "mode": "unrolled", "last": 4, "remat": false, "tolerance": 0.5
 },
 "optimisation": {
  "steps": 1600, "batch": 8, "learning_rate": 0.002, "weight_decay": 0.0001, "clip": 1.0,
  "degrees": 3.0, "mm": 5.0, "knee": 1.5, "estimator": "gumbel_straight_through",
  "temperature": 1.0, "least_keep": 0.04, "coarse": 0.75, "coarse_knee": 6.0, "roll": 25.0,
  "frame": 7.0, "middle": 21.0, "checkpoint_every": 200, "accumulate": 1,
  "skip_not_finite": false
 },
 "source": "simulated"
}
"""
)
"""What a run of an earlier version keeps beside its checkpoint."""


def test_settings_of_an_earlier_version_are_read():
    config = config_from_json(STORED)
    assert config.seed == 3
    simulation = config.scenes.simulation
    assert simulation.wound_fraction == (0.25, 0.75)
    assert (simulation.min_bone_fraction, simulation.unbent_fraction) == (0.03, 0.125)
    schedule = config.schedule
    assert (schedule.first_scale_mm, schedule.last_scale_mm) == (7.0, 1.75)
    assert (schedule.hold_steps, schedule.tolerance_mm) == (2, 0.5)
    assert schedule.detach_robust_weights  # a field that these settings do not know
    options = config.optimisation
    assert (options.start_noise_deg, options.start_noise_mm) == (3.0, 5.0)
    assert (options.error_scale_mm, options.coarse_error_scale_mm) == (1.5, 6.0)
    assert (options.min_keep_ratio, options.coarse_weight) == (0.04, 0.75)
    assert (options.max_roll_deg, options.frame_noise_deg) == (25.0, 7.0)
    assert options.frame_noise_mm == 21.0


def test_a_run_of_an_earlier_version_is_the_same_run():
    """Migrated, its settings are those that today's version writes, field by field."""
    today = {**config_to_json(config_from_json(STORED)), "source": "simulated"}
    assert migrate(STORED) == today
    assert migrate(today) == today


def test_settings_survive_the_checkpoint():
    for _, config in NAMED_CONFIGS.values():
        assert config_from_json(config_to_json(config)) == config
    for kind, options in (
        (OptimisationConfig, {"steps": 0}),
        (OptimisationConfig, {"start_noise_mm": float("nan")}),
        (OptimisationConfig, {"checkpoint_every": 0}),
        (ScenesConfig, {"frames": 0}),
        (NetworkConfig, {"widths": ()}),
        (NetworkConfig, {"points": 1000}),
        (Schedule, {"step": "sideways"}),
        (Schedule, {"first_scale_mm": 0.5}),
    ):
        with pytest.raises(ValueError, match="use"):
            kind(**options)
        assert next(iter(options)) in {field.name for field in dataclasses.fields(kind)}
    with pytest.raises(ValueError, match="another version"):
        config_from_json({"seed": 1})
