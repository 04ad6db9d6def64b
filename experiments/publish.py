"""Give a trained network away: its parameters, settings and calibration, without the optimiser.

Command:  python -m experiments.publish --checkpoint runs/base --output e2r/pretrained/base
Time:     seconds
Expect:   a folder of about 3 MB that every command takes as --checkpoint
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from e2r.cli.errors import run_command
from e2r.training.trained_model import export_trained


@dataclass(frozen=True)
class Export:
    """Give a trained network away."""

    checkpoint: Path
    """output folder of experiments.train"""
    output: Path
    """new folder"""


def export(options: Export) -> int:
    """Runs the export."""
    step = export_trained(options.checkpoint, options.output)
    size = sum(path.stat().st_size for path in options.output.rglob("*") if path.is_file())
    print(f"{options.output}: {step} steps, {size / 1e6:.1f} MB")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and exports."""
    options = tyro.cli(
        Export, args=arguments, prog="python -m experiments.publish", description=__doc__
    )
    return run_command(lambda: export(options))


if __name__ == "__main__":
    sys.exit(main())
