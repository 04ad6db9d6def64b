"""Train a mask network with nothing but the registration error.

Command:  python -m experiments.train demo --output runs/demo
Time:     about 11 minutes on two cores (scenes 100 s, steps 9 min)
Expect:   then experiments.evaluate: median TRE 0.34 to 0.39 mm, with no start

Interrupted, the same command goes on from the last checkpoint, and ends with the same
parameters, bit for bit, as a run that was never interrupted. It trains on all devices it finds,
and with --coordinator on those of several processes; another number of them may go on with it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import tyro

from e2r.analysis import nan_tracing, training_probe
from e2r.cli.errors import run_command
from e2r.config import NAMED_CONFIGS, TrainingConfig
from e2r.runtime import sharding
from e2r.runtime.provenance import versions
from e2r.training import batches, checkpoints, examples, loop
from e2r.training.metrics_log import read_log
from e2r.training.trained_model import initial_parameters


@dataclass(frozen=True)
class Train:
    """Train a mask network; every field of the named configuration can be changed."""

    config: Annotated[TrainingConfig, tyro.conf.arg(name="")]
    output: Path
    """folder of the run: checkpoint/, config.json, metrics.jsonl"""
    cases: Path | None = None
    """train on these case folders (with truth.json) instead of simulated scenes"""
    stream: bool = False
    """with --cases: read them while training goes on, instead of holding all in memory"""
    workers: int = 0
    """with --stream: processes that read; 0 for threads of this one"""
    begin: Path | None = None
    """output folder of a run, or of an exported one, whose parameters to begin with; fresh ones
    without it"""
    stop_after: int | None = None
    """stop, with a checkpoint, after this many steps in all"""
    probe_every: int = 0
    """steps between probes of the gradient, whose figures go into metrics.jsonl; 0: none"""
    log_every: int = 10
    """steps between lines of metrics.jsonl, which hold means over them"""
    coordinator: str = ""
    """to train in several processes: auto on a cluster that JAX recognises, or the first process's
    host:port"""
    processes: int = 0
    """with a host:port: how many processes there are"""
    process: int = 0
    """with a host:port: which one this is, from 0"""

    def __post_init__(self) -> None:
        if self.probe_every < 0 or self.log_every < 1:
            raise ValueError("--probe-every is 0 or more, --log-every 1 or more")
        if self.stop_after is not None and self.stop_after < 1:
            raise ValueError(f"--stop-after is {self.stop_after}; use 1 or more")


def train(options: Train) -> int:
    """Runs the training."""
    sharding.join_processes(options.coordinator, options.processes, options.process)
    config = options.config
    sharding.make_mesh(config.optimisation.batch)  # all that can be refused, before scenes are made
    begin = None if options.begin is None else initial_parameters(options.begin, config)
    source = "simulated" if options.cases is None else str(options.cases.resolve())
    if begin is not None:
        source += f", begun with the parameters {checkpoints.digest(begin)[:12]}"
    done = loop.progress(config, options.output, source=source)
    end = config.optimisation.steps if options.stop_after is None else options.stop_after
    if done >= end:
        _tell(options.output, done)
        return 0
    if options.cases is not None and options.stream:
        stream = batches.from_folder(config, options.cases, workers=options.workers)
    elif options.cases is not None:
        stream = batches.from_bank(config, examples.bank_from_folder(options.cases, config))
    else:
        stream = batches.from_bank(config, examples.simulated_bank(config))
    if sharding.is_primary():
        print(f"{jax.device_count()} devices of {jax.process_count()} processes; {versions()}")
    try:
        state = loop.train(
            config,
            stream,
            options.output,
            stop_after=options.stop_after,
            source=source,
            begin=begin,
            probe=training_probe.make_probe(config) if options.probe_every else None,
            probe_every=options.probe_every,
            log_every=options.log_every,
        )
    except loop.NotFiniteError as broken:
        raise FloatingPointError(f"{broken}; {nan_tracing.explain(config, broken)}") from None
    _tell(options.output, int(state.step))
    return 0


def _tell(output: Path, done: int) -> None:
    """Says that a run is at its end."""
    if sharding.is_primary():
        lines = read_log(output)
        waited = f", {lines[-1]['waited']:.1%} of the time waiting for scenes" if lines else ""
        print(f"{done} steps done{waited}; checkpoint in {output / 'checkpoint'}")


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and trains."""
    named = {
        name: (text, Train(config=config, output=Path("runs") / name))
        for name, (text, config) in NAMED_CONFIGS.items()
    }
    options = tyro.extras.overridable_config_cli(
        named, args=arguments, prog="python -m experiments.train", description=__doc__
    )
    return run_command(lambda: train(options))


if __name__ == "__main__":
    sys.exit(main())
