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

from e2r import banks, checkpoints, configs, console, devices, streams, training
from e2r.probes import faults, learning


@dataclass(frozen=True)
class Train:
    """Train a mask network; every field of the named configuration can be changed."""

    config: Annotated[configs.Config, tyro.conf.arg(name="")]
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
    devices.join(options.coordinator, options.processes, options.process)
    config = options.config
    devices.mesh(config.optimisation.batch)  # all that can be refused, before scenes are made
    begin = None if options.begin is None else training.parameters(options.begin, config)
    source = "simulated" if options.cases is None else str(options.cases.resolve())
    if begin is not None:
        source += f", begun with the parameters {checkpoints.digest(begin)[:12]}"
    done = training.progress(config, options.output, source=source)
    end = config.optimisation.steps if options.stop_after is None else options.stop_after
    if done >= end:
        _tell(options.output, done)
        return 0
    if options.cases is not None and options.stream:
        stream = streams.of_folder(config, options.cases, workers=options.workers)
    elif options.cases is not None:
        stream = streams.of_bank(config, banks.read_bank(options.cases, config))
    else:
        stream = streams.of_bank(config, banks.simulated_bank(config))
    if devices.leads():
        print(
            f"{jax.device_count()} devices of {jax.process_count()} processes; {configs.versions()}"
        )
    try:
        state = training.train(
            config, stream, options.output, stop_after=options.stop_after,
            source=source, begin=begin,
            probe=learning.make_probe(config) if options.probe_every else None,
            probe_every=options.probe_every, log_every=options.log_every,
        )  # fmt: skip
    except training.NotFiniteError as broken:
        raise FloatingPointError(f"{broken}; {faults.explain(config, broken)}") from None
    _tell(options.output, int(state.step))
    return 0


def _tell(output: Path, done: int) -> None:
    """Says that a run is at its end."""
    if devices.leads():
        lines = training.curve(output)
        waited = f", {lines[-1]['waited']:.1%} of the time waiting for scenes" if lines else ""
        print(f"{done} steps done{waited}; checkpoint in {output / 'checkpoint'}")


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and trains."""
    named = {
        name: (text, Train(config=config, output=Path("runs") / name))
        for name, (text, config) in configs.CONFIGS.items()
    }
    options = tyro.extras.overridable_config_cli(
        named, args=arguments, prog="python -m experiments.train", description=__doc__
    )
    return console.run(lambda: train(options))


if __name__ == "__main__":
    sys.exit(main())
