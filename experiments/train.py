"""Train a mask network with nothing but the registration error.

Command:  python -m experiments.train demo --output runs/demo
Time:     about 11 minutes on two cores (scenes 100 s, steps 9 min)
Expect:   then experiments.evaluate: median TRE 0.39 mm, with no start

Interrupted, the same command goes on from the last checkpoint, and ends with the same
parameters, bit for bit, as a run that was never interrupted.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from e2r import banks, configs, console, training
from e2r.probes import learning


@dataclass(frozen=True)
class Train:
    """Train a mask network; every field of the named configuration can be changed."""

    config: Annotated[configs.Config, tyro.conf.arg(name="")]
    output: Path
    """folder of the run: checkpoint/, config.json, metrics.jsonl"""
    cases: Path | None = None
    """train on these case folders (with truth.json) instead of simulated scenes"""
    stop_after: int | None = None
    """stop, with a checkpoint, after this many steps in all"""
    probe_every: int = 0
    """steps between probes of the gradient, whose figures go into metrics.jsonl; 0: none"""

    def __post_init__(self) -> None:
        if self.probe_every < 0:
            raise ValueError(f"--probe-every is {self.probe_every}; use 0 or more")


def train(options: Train) -> int:
    """Runs the training."""
    config = options.config
    if options.cases is not None:
        bank = banks.read_bank(options.cases, config)
    else:
        bank = banks.simulated_bank(config)
    count = bank.specimen.shape[0]
    print(f"{count} scenes of {bank.surfaces.points.shape[0]} models; {configs.versions()}")
    source = "simulated" if options.cases is None else str(options.cases.resolve())
    state = training.train(
        config, bank, options.output, stop_after=options.stop_after, source=source,
        probe=learning.make_probe(config) if options.probe_every else None,
        probe_every=options.probe_every,
    )  # fmt: skip
    print(f"{int(state.step)} steps done; checkpoint in {options.output / 'checkpoint'}")
    return 0


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
