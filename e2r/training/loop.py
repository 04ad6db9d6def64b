"""Learning the mask from the registration error: state, loss, step, loop.

The step is pure, ``(state, batch, key) -> (state, metrics)``, and compiles for CPU, GPU and TPU
as it stands. Batches hold no label of bone: the pose is the only teacher.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from e2r.config import TrainingConfig, config_to_json, migrate
from e2r.runtime import sharding
from e2r.runtime.provenance import versions
from e2r.runtime.shutdown import stop_requested
from e2r.training import batches, checkpoints
from e2r.training.batches import run_key
from e2r.training.metrics_log import open_log, probe_figures
from e2r.training.objective import MaskLoss, StepMetrics
from e2r.training.step import TrainState, init_state, make_update
from e2r.types import Array, Example, Params

Probe: TypeAlias = Callable[[Params, Example, Array, Array], Any]
"""(params, batch, the run's key, step) -> figures (), a named tuple; see `probes.learning`."""


class NotFiniteError(FloatingPointError):
    """A step's loss or gradient is not finite; holds what is needed to find out why."""

    def __init__(self, step: int, state: TrainState, batch: Example, names: list[str]) -> None:
        super().__init__(
            f"the loss or its gradient is not finite in step {step}, of the cases "
            f"{', '.join(names)}; the steps before it are saved: lower optimisation.learning_rate, "
            "leave the case out, or skip such steps with optimisation.skip_not_finite"
        )
        self.step, self.state, self.batch, self.names = step, state, batch, names


def train(
    config: TrainingConfig,
    stream: batches.BatchSource,
    output: Path,
    *,
    stop_after: int | None = None,
    source: str = "simulated",
    teacher: MaskLoss | None = None,
    begin: Params | None = None,
    probe: Probe | None = None,
    probe_every: int = 50,
    log_every: int = 10,
) -> TrainState:
    """Trains to the end of ``config``, from the newest checkpoint in ``output`` if there is one.

    Runs on all devices of all processes (see :func:`e2r.runtime.sharding.join_processes`), each of which calls it; the
    first one writes. Results depend on the number of devices by rounding only, and a run goes on
    with any number of them. Writes ``config.json``, ``metrics.jsonl`` and ``checkpoint/``.

    Args:
      config: the run.
      stream: its batches.
      output: folder of the run.
      stop_after: stop (with a checkpoint) once this many steps are done in all.
      source: where the scenes come from; a run goes on with its own scenes only.
      teacher: of the mask, the pose error without it; name it in ``source``.
      begin: parameters to begin with, random ones without them.
      probe: figures to put into ``metrics.jsonl`` as ``probe_...``; it changes nothing.
      probe_every: steps between probes.
      log_every: steps between lines of ``metrics.jsonl``, which hold means over them.

    Raises:
      KeyboardInterrupt: SIGTERM or Ctrl-C came; the step at hand is done and saved.
      NotFiniteError: a loss is not finite; the steps before it are saved.
      ValueError: ``output`` holds a run of other settings, or the batch cannot be divided among the
        devices.
    """
    over = sharding.make_mesh(config.optimisation.batch)
    share, parts = config.optimisation.batch // over.size, config.optimisation.accumulate
    if share % parts:
        raise ValueError(
            f"optimisation.accumulate is {parts}, and a device's share of the batch {share}; use a "
            "divisor of it"
        )
    fresh = partial(init_state, config)
    settings = _settings(config, source)
    folder = output / "checkpoint"
    if not checkpoints.steps(folder):
        state = jax.jit(fresh)()
        if begin is not None:
            state = state._replace(params=jax.tree.map(jnp.copy, begin))
    else:

        def shapes(found: dict[str, Any], _: dict[str, Any]) -> TrainState:
            _check_same(found, settings, output)
            return jax.eval_shape(fresh)

        saved = checkpoints.restore(folder, shapes)
        state = saved.state
        sharding.barrier("restored")
        if sharding.is_primary():
            checkpoints.set_aside(folder, saved.step)
    done = int(state.step)
    end = config.optimisation.steps if stop_after is None else stop_after
    log = open_log(output, done, {**settings, "versions": versions()})
    state, key = sharding.replicate((state, run_key(config)), over)  # new and restored alike
    update = make_update(config, teacher, over)
    alone = jax.process_count() == 1
    began, waited = time.perf_counter(), 0.0
    with (
        log,
        checkpoints.writer(folder, keep=2) as writer,
        tqdm(
            total=end, initial=done, desc="train", unit="step", disable=not sharding.is_primary()
        ) as bar,
        stop_requested() as asked,
        closing(stream.batches(done + 1, end)) as batches,
    ):
        pending: list[StepMetrics] = []
        for step in range(done + 1, end + 1):
            before = time.perf_counter()
            batch = sharding.shard(next(batches), over)
            waited += time.perf_counter() - before
            state, metrics = update(state, batch, key, np.int32(step))
            pending.append(metrics)
            # Processes agree where all of them look at their figures anyway.
            stops = (alone or step % log_every == 0) and sharding.any_process(asked())
            saves = step % config.optimisation.checkpoint_every == 0 or step == end or stops
            figures: Any = ()
            if probe is not None and step % probe_every == 0:
                figures = probe(state.params, batch, key, np.int32(step))
            if step % log_every and not saves and not figures:
                continue
            found = [jax.tree.map(float, one) for one in pending]
            good = [one for one in found if not one.skipped]
            bad = next((i for i, one in enumerate(found) if one.skipped), None)
            if bad is not None and not config.optimisation.skip_not_finite:
                at = step - len(found) + 1 + bad
                checkpoints.save(writer, at - 1, state, settings)
                with closing(stream.batches(at, at)) as again:
                    raise NotFiniteError(at, state, next(again), stream.names(at))
            pending = []
            took = time.perf_counter() - began
            line: dict[str, float] = {"step": step, "seconds": took, "waited": waited / took}
            if good:
                line |= jax.tree.map(lambda *each: float(np.mean(each)), *good)._asdict()
            line["skipped"] = len(found) - len(good)
            log.write(json.dumps({**line, **probe_figures(figures)}) + "\n")
            log.flush()
            bar.update(step - bar.n)
            bar.set_postfix(
                {
                    name: f"{line[name]:.2f}"
                    for name in ("tre_mm", "keep", "coarse_mm", "waited")
                    if name in line
                }
            )
            if saves:
                checkpoints.save(writer, step, state, settings)
            if stops:
                raise KeyboardInterrupt
    return state


def progress(config: TrainingConfig, output: Path, *, source: str = "simulated") -> int:
    """How many steps the run in ``output`` has done, 0 where none has begun. Reads no state.

    Args:
      config, output, source: of :func:`train`; to ask before its scenes are made.

    Raises:
      ValueError: ``output`` holds a run of other settings.
    """
    found = checkpoints.read_settings(output / "checkpoint")
    if found is None:
        return 0
    done, settings = found
    _check_same(settings, _settings(config, source), output)
    return done


def _settings(config: TrainingConfig, source: str) -> dict[str, Any]:
    """What a run is known by."""
    return {**config_to_json(config), "source": source}


def _check_same(found: dict[str, Any], settings: dict[str, Any], output: Path) -> None:
    if migrate(found) != settings:
        raise ValueError(
            f"{output}: holds a run with other settings; name another output folder, or delete "
            "this one"
        )
