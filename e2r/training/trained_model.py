"""Loads, restores and exports trained models."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from e2r.config import TrainingConfig, config_from_json
from e2r.evaluation.calibration import load_calibration, save_calibration
from e2r.training import checkpoints
from e2r.training.metrics_log import read_log
from e2r.training.step import TrainState, init_state
from e2r.types import Params

PACKAGED = Path(__file__).resolve().parents[1] / "pretrained" / "base"
"""The trained model in the package; its README says which command made it."""


def load_trained(folder: Path) -> tuple[TrainingConfig, Params]:
    """Configuration and parameters of a trained run, or of an exported one.

    Raises:
      ValueError: no usable checkpoint in ``folder``.
    """
    saved = restore_trained(folder)
    return config_from_json(saved.settings), saved.state.params


def initial_parameters(folder: Path, config: TrainingConfig) -> Params:
    """Parameters of a trained run, or of an exported one, for a run of ``config`` to begin with.

    Raises:
      ValueError: no usable checkpoint in ``folder``, or its network has other sizes.
    """
    _, params = load_trained(folder)
    wanted = jax.eval_shape(partial(init_state, config)).params
    sizes = [jax.tree.map(jnp.shape, tree) for tree in (params, wanted)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"{folder}: its network has other sizes; give this run the same --network settings"
        )
    return params


def restore_trained(folder: Path) -> checkpoints.Saved[TrainState]:
    """The newest whole checkpoint of a trained run, or of an exported one, without its optimiser.

    Raises:
      ValueError: no usable checkpoint in ``folder``.
    """

    def shapes(settings: dict[str, Any], stored: dict[str, Any]) -> TrainState:
        config = config_from_json(settings)
        if settings.get("exported") and {"step", "params"} <= set(stored):
            return TrainState(stored["step"], stored["params"], ())  # a second sooner than:
        return jax.eval_shape(partial(init_state, config))

    return checkpoints.restore(folder, shapes)


def export_trained(folder: Path, output: Path) -> int:
    """Writes a trained run without its optimiser, to give away, and returns its step.

    Args:
      folder: of the run; its calibration goes along.
      output: new folder, which :func:`load_trained` reads.

    Raises:
      ValueError: no usable checkpoint in ``folder``, or ``output`` holds one already.
    """
    saved = restore_trained(folder)
    if checkpoints.steps(output / "checkpoint"):
        raise ValueError(f"{output}: holds a checkpoint; name another folder, or delete this one")
    state = saved.state._replace(optimiser=())
    with checkpoints.writer(output / "checkpoint", keep=1) as writer:
        checkpoints.save(writer, saved.step, state, {**saved.settings, "exported": True})
    calibration = load_calibration(folder)
    if calibration is not None:
        save_calibration(calibration, output)
    lines = read_log(folder)
    with (output / "metrics.jsonl").open("w") as log:
        for line in lines[:: max(1, len(lines) // 500)]:
            log.write(json.dumps({k: round(v, 4) for k, v in line.items()}) + "\n")
    return saved.step
