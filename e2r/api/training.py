"""Trains a model, or resumes a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from e2r.api.models import require_type
from e2r.config import TrainingConfig
from e2r.datasets.case import Case
from e2r.datasets.case_folder import as_case
from e2r.evaluation.models import Model
from e2r.runtime.compile_cache import enable_cache
from e2r.training import given_scenes, loop
from e2r.training.trained_model import load_trained


def train(
    config: TrainingConfig,
    scenes: str | os.PathLike[str] | Iterable[Case | str | os.PathLike[str]] | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    on_log: Callable[[dict[str, Any]], object] | None = None,
    log_every: int = 10,
) -> Model:
    """Trains a model, or resumes the run in a folder.

    Args:
      config: all settings; ``e2r.NAMED_CONFIGS`` has some.
      scenes: a folder of cases, or cases and folders of cases, with truth; simulated by the
        settings without them.
      output: folder of the run, as ``e2r train`` writes it; None: nothing is kept.
      on_log: called with each line of the log, a dictionary; what it raises stops the run.
      log_every: steps between lines, which hold means over them.

    Returns:
      the trained model, not calibrated.

    Raises:
      ValueError: the settings or the scenes are refused, the folder holds another run, or another
        process writes it.
      FloatingPointError: a loss is not finite; the steps before it are saved.
    """
    require_type(TrainingConfig, config=config)
    given: given_scenes.Scenes
    if scenes is None or isinstance(scenes, (str, os.PathLike)):
        given = scenes
    else:
        given = [as_case(case) for case in scenes]
    enable_cache()
    with ExitStack() as stack:
        kept = output if output is not None else stack.enter_context(TemporaryDirectory())
        folder, source = Path(kept), given_scenes.source_name(given)
        if loop.steps_done(config, folder, source=source) < config.optimisation.steps:
            inputs = loop.RunInputs(config, given_scenes.make_batches(given, config), source=source)
            loop.train(inputs, folder, log_options=loop.LogOptions(log_every, on_log=on_log))
        return Model(*load_trained(folder), calibration=None)
