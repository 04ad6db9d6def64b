"""``e2r train``: trains a mask network with nothing but the registration error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro

from e2r.analysis import nan_tracing, training_probe
from e2r.cli.errors import parse_named
from e2r.config import NAMED_CONFIGS, TrainingConfig
from e2r.runtime import outputs, sharding
from e2r.runtime.provenance import versions
from e2r.training import batches, checkpoints, given_scenes, loop, sources, tensorboard_log
from e2r.training.batches import Batches
from e2r.training.held_out import make_held_out
from e2r.training.metrics_log import read_log
from e2r.training.trained_model import load_initial_params


@dataclass(frozen=True)
class Options:
    """Train a mask network with nothing but the registration error.

    Begin with the name of a configuration; every field of it can be changed. The same command
    resumes an interrupted run.

    Example: e2r train demo --output runs/mine
    """

    config: Annotated[TrainingConfig, tyro.conf.arg(name="")]
    output: Path
    """folder of the run: checkpoint/, config.json, metrics.jsonl, metrics.csv"""
    cases: Path | None = None
    """train on these case folders (with truth.json) instead of simulated scenes"""
    stream: bool = False
    """with --cases: read the folders during training instead of holding all examples in memory"""
    workers: int = 0
    """with --stream: processes that read; 0 for threads of this process"""
    begin: Path | None = None
    """output folder of a run, or of an exported model, whose parameters to begin with; random
    parameters without it"""
    stop_after: int | None = None
    """stop, with a checkpoint, after this many steps in all"""
    probe_every: int = 0
    """steps between probes of the gradient, whose figures go into metrics.jsonl; 0: no probes"""
    log_every: int = 10
    """steps between lines of metrics.jsonl, which hold means over them"""
    held_out_every: int = 0
    """steps between registrations of a held-out set, whose TRE and success rate go into
    metrics.jsonl; 0: never"""
    log: Literal["files", "tensorboard"] = "files"
    """tensorboard: write metrics.jsonl and metrics.csv, and for TensorBoard too"""
    coordinator: str = ""
    """for several processes: auto on a cluster that JAX recognises, or the first process's
    host:port"""
    processes: int = 0
    """with a host:port: number of processes"""
    process: int = 0
    """with a host:port: number of this process, from 0"""

    def __post_init__(self) -> None:
        for name, steps, least in (
            ("--probe-every", self.probe_every, 0),
            ("--held-out-every", self.held_out_every, 0),
            ("--log-every", self.log_every, 1),
        ):
            if steps < least:
                raise ValueError(f"{name} is {steps}; use {least} or more")
        if self.stop_after is not None and self.stop_after < 1:
            raise ValueError(f"--stop-after is {self.stop_after}; use 1 or more")
        if self.workers < 0:
            raise ValueError(f"--workers is {self.workers}; use 0 or more")
        if self.stream and self.cases is None:
            raise ValueError("--stream reads the folders of --cases; give it, too")
        if self.workers and not self.stream:
            raise ValueError("--workers reads for --stream; give it, too")


def run(options: Options) -> int:
    """Runs ``e2r train``. All that can be refused is refused before scenes are made."""
    sharding.join_processes(options.coordinator, options.processes, options.process)
    if sharding.is_primary():
        outputs.require_folder(options.output)
    config = options.config
    if options.log == "tensorboard":
        tensorboard_log.require_package()
    loop.make_training_mesh(config.optimisation)
    initial_params = None
    source = given_scenes.source_name(options.cases)
    if options.stream:
        source += ", streamed"  # other samples, and in another order
    if options.begin is not None:
        initial_params = load_initial_params(options.begin, config)
        source += f", begun with the parameters {checkpoints.digest(initial_params)[:12]}"
    done = loop.steps_done(config, options.output, source=source)
    if done >= loop.last_step(config, options.stop_after):
        _report(options.output, done)
        return 0
    inputs = loop.RunInputs(
        config, _make_batches(options), source=source, initial_params=initial_params
    )
    log_options = loop.LogOptions(
        log_every=options.log_every,
        probe=training_probe.make_probe(config) if options.probe_every else None,
        probe_every=options.probe_every,
        held_out=make_held_out(config) if options.held_out_every else None,
        held_out_every=options.held_out_every,
        tensorboard=options.log == "tensorboard",
    )
    if sharding.is_primary():
        with_versions = ", ".join(f"{name} {version}" for name, version in versions().items())
        print(f"devices: {jax.device_count()}, processes: {jax.process_count()}; {with_versions}")
    try:
        state = loop.train(
            inputs, options.output, stop_after=options.stop_after, log_options=log_options
        )
    except loop.NotFiniteError as broken:
        raise FloatingPointError(f"{broken}; {nan_tracing.explain(config, broken)}") from None
    _report(options.output, int(state.step))
    return 0


def _make_batches(options: Options) -> Batches:
    """The batches of a run: of simulated scenes, or of case folders in memory or on disk."""
    config = options.config
    if options.cases is None or not options.stream:
        return given_scenes.make_batches(options.cases, config)
    streamed = sources.streamed_folder(options.cases, config)
    return batches.shuffled_batches(config, streamed, workers=options.workers)


def _report(output: Path, done: int) -> None:
    """Prints how far a run is and where it is."""
    if sharding.is_primary():
        lines = read_log(output)
        waited = f", {lines[-1]['waited']:.1%} of the time waiting for scenes" if lines else ""
        print(f"{done} steps done{waited}; checkpoint in {output / 'checkpoint'}")


def parse(arguments: Sequence[str] | None, *, prog: str, description: str | None = None) -> Options:
    """Parses a command line that begins with the name of a configuration.

    Args:
      arguments: the words; those of the process by default.
      prog: name of the command in the help.
      description: opens the help; the docstring of the options by default.

    Raises:
      ValueError: the words cannot be parsed, or a value is refused.
    """
    named = {
        name: (text, Options(config=config, output=Path("runs") / name))
        for name, (text, config) in NAMED_CONFIGS.items()
    }
    return parse_named(named, arguments, prog=prog, description=description or Options.__doc__)
