"""The training loop: batches through the step, with a log, checkpoints and a graceful stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from e2r.config import OptimisationConfig, TrainingConfig, config_to_json
from e2r.runtime import sharding
from e2r.runtime.provenance import versions
from e2r.runtime.shutdown import stop_requested
from e2r.runtime.single_writer import single_writer
from e2r.training import checkpoints
from e2r.training.batches import Batches, run_key
from e2r.training.metrics_log import Line, finite_figures, open_log
from e2r.training.objective import MaskLoss
from e2r.training.same_run import continued_settings
from e2r.training.step import TrainState, compiled_train_step, init_state, last_learning_rate
from e2r.types import Array, Example, Params

Probe: TypeAlias = Callable[[Params, Example, Array, Array], Any]
"""(params, batch, the run's key, step) -> figures (), a named tuple."""
HeldOut: TypeAlias = Callable[[Params], Any]
"""(params) -> figures () of a held-out set, a named tuple."""


@dataclass(frozen=True)
class RunInputs:
    """What determines the result of a run."""

    config: TrainingConfig
    batches: Batches
    source: str = "simulated"
    """where the examples come from and what teaches; a run is only resumed with the same"""
    mask_loss: MaskLoss | None = None
    """teaches the mask instead of the pose error"""
    initial_params: Params | None = None
    """parameters to begin with; random ones without them"""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that identify the run, as JSON values."""
        return run_settings(self.config, self.source)


@dataclass(frozen=True)
class LogOptions:
    """What is logged of a run. It changes no result."""

    log_every: int = 10
    """steps between lines of ``metrics.jsonl``, which hold means over them"""
    probe: Probe | None = None
    """figures of the gradient, for ``metrics.jsonl``"""
    probe_every: int = 50
    """steps between probes"""
    held_out: HeldOut | None = None
    """figures of a held-out set, by :func:`e2r.training.held_out.make_held_out`"""
    held_out_every: int = 200
    """steps between them"""
    on_log: Callable[[Line], object] | None = None
    """called with each line of ``metrics.jsonl`` as a dictionary, after it is written, by the
    primary process. If it raises, the run stops: the steps done are saved, and the exception is
    passed on. The same command then resumes the run"""
    tensorboard: bool = False
    """write the lines for TensorBoard, too; needs the package tensorboardX"""


class NotFiniteError(FloatingPointError):
    """A step's loss or gradient is not finite; holds what is needed to find the cause."""

    def __init__(self, step: int, state: TrainState, batch: Example, names: list[str]) -> None:
        super().__init__(
            f"the loss or its gradient is not finite in step {step}, of the cases "
            f"{', '.join(names)}; the steps before it are saved. Lower "
            "optimisation.learning_rate, leave the case out, or skip such steps with "
            "optimisation.skip_not_finite"
        )
        self.step, self.state, self.batch, self.names = step, state, batch, names


def last_step(config: TrainingConfig, stop_after: int | None) -> int:
    """The step at which a run ends: its own last one, or an earlier one.

    Args:
      config: of the run.
      stop_after: the earlier one; None: there is none.
    """
    steps = config.optimisation.steps
    return steps if stop_after is None else min(steps, stop_after)


def train(
    inputs: RunInputs,
    output: Path,
    *,
    stop_after: int | None = None,
    log_options: LogOptions = LogOptions(),
) -> TrainState:
    """Trains to the end of the run, from the newest checkpoint in ``output`` if there is one.

    Writes ``config.json``, ``metrics.jsonl``, ``metrics.csv`` and ``checkpoint/``. Uses all devices
    of all processes (see :func:`e2r.runtime.sharding.join_processes`). Each process calls this
    function; the primary one writes. The number of devices changes results by rounding only, and a
    run may be resumed on another number of them.

    A run may be resumed with another number of ``optimisation.steps``. The learning rate's
    schedule of that number then holds from the resumed step on.

    Args:
      inputs: settings and batches.
      output: folder of the run.
      stop_after: stop, with a checkpoint, once this many steps are done in all; where the settings
        have fewer, these end the run.
      log_options: how often to log, and the probe.

    Raises:
      KeyboardInterrupt: SIGTERM or Ctrl-C came; the current step was finished and saved.
      NotFiniteError: a loss is not finite; the steps before it are saved.
      ValueError: ``output`` holds a run with other settings, another process writes it, or the
        batch cannot be divided among the devices.
      Exception: whatever ``log_options.on_log`` raises; the steps done are saved.
    """
    mesh = make_training_mesh(inputs.config.optimisation)
    with _only_writer(output):
        return _train(inputs, output, mesh, stop_after, log_options)


@contextmanager
def _only_writer(output: Path) -> Iterator[None]:
    """Holds the folder by the primary process; where it is refused, all processes are."""
    refusal: ValueError | None = None
    with ExitStack() as held:
        if sharding.is_primary():
            output.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(single_writer(output, "run"))
            except ValueError as error:
                refusal = error
        if sharding.any_process(refusal is not None):
            raise refusal or ValueError(f"{output}: the primary process was refused; see there")
        yield


def _train(
    inputs: RunInputs, output: Path, mesh: Mesh, stop_after: int | None, log_options: LogOptions
) -> TrainState:
    options = inputs.config.optimisation
    step_fn = compiled_train_step(inputs.config, inputs.mask_loss, mesh)
    state, settings = _restore_or_init(inputs, output)
    done, end = int(state.step), last_step(inputs.config, stop_after)
    state, key = sharding.replicate((state, run_key(inputs.config)), mesh)  # new and restored alike
    record = {**settings, "versions": versions()}
    with (
        open_log(output, record, done=done, end=end, tensorboard=log_options.tensorboard) as log,
        checkpoints.open_writer(output / "checkpoint", keep=2) as writer,
        stop_requested() as stop,
        closing(inputs.batches.iterate(done + 1, end)) as batches,
    ):
        for step in range(done + 1, end + 1):
            with log.waiting():
                batch = sharding.shard(next(batches), mesh)
            state, metrics = step_fn(state, batch, key, step=np.int32(step))
            log.add(metrics)
            logs = step % log_options.log_every == 0
            stops = _agree_to_stop(stop, at_line=logs)
            saves = step % options.checkpoint_every == 0 or step == end or stops
            figures = _due_figures(log_options, state.params, batch, key=key, step=step)
            if not (logs or saves or figures is not None):
                continue
            broken = log.first_skipped(step)
            if broken is not None and not options.skip_not_finite:
                checkpoints.save(writer, broken - 1, state, settings)
                raise _not_finite(inputs, broken, state)
            rate = {"learning_rate": last_learning_rate(state, options)}
            line = log.write(step, rate | (figures or {}))
            failure = _call(log_options.on_log, line)
            if saves or failure is not None:
                checkpoints.save(writer, step, state, settings)
            if failure is not None:
                raise failure
            if stops:
                raise KeyboardInterrupt
    return state


def steps_done(config: TrainingConfig, output: Path, *, source: str = "simulated") -> int:
    """The number of steps that the run in ``output`` has done; 0 for a new one. Reads no state.

    Args:
      config: of the run.
      output: its folder.
      source: of the run.

    Raises:
      ValueError: ``output`` holds a run with other settings, or no run can have these.
    """
    found = checkpoints.read_settings(output / "checkpoint")
    if found is None:
        if config.schedule.tolerance_mm:  # such a loop has no reverse derivative
            raise ValueError("schedule.tolerance_mm is for inference; use 0 to train")
        return 0
    done, settings = found
    continued_settings(settings, run_settings(config, source), output=output, done=done)
    return done


def run_settings(config: TrainingConfig, source: str) -> dict[str, Any]:
    """The settings that identify a run, as JSON values."""
    return {**config_to_json(config), "source": source}


def make_training_mesh(options: OptimisationConfig) -> Mesh:
    """All devices of all processes, for the run's batches.

    Raises:
      ValueError: the batch, or a device's share of it, cannot be divided evenly.
    """
    mesh = sharding.make_mesh(options.batch)
    share = options.batch // mesh.size
    if share % options.accumulate:
        raise ValueError(
            f"optimisation.accumulate is {options.accumulate}, which does not divide a device's "
            f"share of the batch, {share}; use a divisor of {share}"
        )
    return mesh


def _restore_or_init(inputs: RunInputs, output: Path) -> tuple[TrainState, dict[str, Any]]:
    """The state of the newest checkpoint, or the initial one, and the settings of the run."""
    folder, initial = output / "checkpoint", partial(init_state, inputs.config)
    if not checkpoints.saved_steps(folder):
        state: TrainState = jax.jit(initial)()
        if inputs.initial_params is not None:
            state = state._replace(params=jax.tree.map(jnp.copy, inputs.initial_params))
        return state, inputs.settings

    def abstract_state(settings: dict[str, Any], _: dict[str, Any]) -> TrainState:
        continued_settings(settings, inputs.settings, output=output, done=0)
        return jax.eval_shape(initial)

    saved = checkpoints.restore(folder, abstract_state)
    sharding.barrier("restored")
    if sharding.is_primary():
        checkpoints.set_aside(folder, saved.step)
    settings = continued_settings(saved.settings, inputs.settings, output=output, done=saved.step)
    return saved.state, settings


def _due_figures(
    log_options: LogOptions, params: Params, batch: Example, *, key: Array, step: int
) -> dict[str, float] | None:
    """The figures of the probe and of the held-out set at a step; None where neither is due."""
    found: list[Mapping[str, float]] = []
    if log_options.probe is not None and step % log_options.probe_every == 0:
        probed = log_options.probe(params, batch, key, np.asarray(step, np.int32))
        found.append(finite_figures("probe", probed))
    if log_options.held_out is not None and step % log_options.held_out_every == 0:
        found.append(finite_figures("held_out", log_options.held_out(params)))
    return {name: value for one in found for name, value in one.items()} if found else None


def _call(on_log: Callable[[Line], object] | None, line: Line) -> BaseException | None:
    """Hands a line to the callback of the primary process; what it raised, on every process.

    The others need no callback: all ask whether one failed, so none waits for the rest.
    """
    failure: BaseException | None = None
    if on_log is not None and sharding.is_primary():
        try:
            on_log(dict(line))
        except BaseException as error:
            failure = error
    if sharding.any_process(failure is not None) and failure is None:
        failure = RuntimeError("the primary process's on_log raised an exception; see there")
    return failure


def _agree_to_stop(stop: Callable[[], bool], *, at_line: bool) -> bool:
    """Whether to stop. Several processes agree only at a log's line, where they wait anyway."""
    return (jax.process_count() == 1 or at_line) and sharding.any_process(stop())


def _not_finite(inputs: RunInputs, step: int, state: TrainState) -> NotFiniteError:
    """The error of a step, with its batch."""
    with closing(inputs.batches.iterate(step, step)) as batches:
        return NotFiniteError(step, state, next(batches), inputs.batches.names(step))
