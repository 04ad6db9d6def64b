"""Loads, restores and exports trained models."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from e2r.config import TrainingConfig, changed_plugins, config_from_json, config_to_json
from e2r.formats import notices
from e2r.training import checkpoints, metrics_log
from e2r.training.step import TrainState, init_state
from e2r.types import Params

PACKAGED = Path(__file__).resolve().parents[1] / "pretrained" / "base"
"""The trained model in the package; its README says which command made it."""
EXPORTED_LINES = 500
"""An exported log has about this many lines."""


def load_trained(folder: Path) -> tuple[TrainingConfig, Params]:
    """Configuration and parameters of a run, or of an exported model.

    Raises:
      ValueError: there is no usable checkpoint in ``folder``.
    """
    saved = restore_trained(folder)
    config = config_from_json(saved.settings)
    for changed in changed_plugins(saved.settings, config):
        notices.say(folder, f"{changed} has other code now than when this model was trained")
    return config, saved.state.params


def load_initial_params(folder: Path, config: TrainingConfig) -> Params:
    """Parameters of a run, or of an exported model, with which another run begins.

    Args:
      folder: of the run or the exported model.
      config: of the run that begins.

    Raises:
      ValueError: there is no usable checkpoint in ``folder``, or its network has other sizes.
    """
    _, params = load_trained(folder)
    wanted = jax.eval_shape(partial(init_state, config)).params
    if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, wanted):
        raise ValueError(
            f"{folder}: its network has other sizes; give this run the same --network settings"
        )
    return params


def restore_trained(folder: Path) -> checkpoints.Checkpoint[TrainState]:
    """The newest whole checkpoint of a run, or of an exported model, which has no optimiser state.

    Raises:
      ValueError: there is no usable checkpoint in ``folder``.
    """

    def abstract_state(settings: dict[str, Any], stored: dict[str, Any]) -> TrainState:
        config = config_from_json(settings)
        if settings.get("exported") and {"step", "params"} <= set(stored):
            return TrainState(stored["step"], stored["params"], ())  # tracing takes a second more
        return jax.eval_shape(partial(init_state, config))

    return checkpoints.restore(folder, abstract_state)


def export_trained(folder: Path, output: Path) -> int:
    """Writes the model of a run without its optimiser state, and returns its step.

    Args:
      folder: of the run.
      output: new folder, which :func:`load_trained` reads.

    Raises:
      ValueError: there is no usable checkpoint in ``folder``, or ``output`` holds one.
    """
    saved = restore_trained(folder)
    if checkpoints.saved_steps(output / "checkpoint"):
        raise ValueError(f"{output}: holds a checkpoint; name another folder, or delete this one")
    state = saved.state._replace(optimiser=())
    with checkpoints.open_writer(output / "checkpoint", keep=1) as writer:
        checkpoints.save(writer, saved.step, state, {**saved.settings, "exported": True})
    lines = metrics_log.read_log(folder)
    with (output / metrics_log.FILE).open("w") as file:
        for line in lines[:: max(1, len(lines) // EXPORTED_LINES)]:
            short = {name: _short(value) for name, value in line.items()}
            file.write(json.dumps(short) + "\n")
    return saved.step


def save_trained(config: TrainingConfig, params: Params, folder: Path, *, step: int) -> None:
    """Writes a model that is in memory, in place of the one that the folder holds.

    Args:
      config: settings it was trained with.
      params: of both networks.
      folder: which :func:`load_trained` reads.
      step: steps done.
    """
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    settings = {**config_to_json(config), "source": "in memory", "exported": True}
    state = TrainState(np.asarray(step, np.int32), params, ())
    with checkpoints.open_writer(folder / "checkpoint", keep=1) as writer:
        checkpoints.save(writer, step, state, settings)


def _short(value: float | int) -> float | int:
    """A number with six digits that count; a learning rate is small."""
    return value if isinstance(value, int) else float(f"{value:.6g}")
