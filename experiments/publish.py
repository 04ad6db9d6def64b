"""Publishes a trained network: its parameters, settings and calibration, without the optimiser.

Command:  python -m experiments.publish --checkpoint runs/base --output e2r/pretrained/base
Time:     seconds
Expect:   a folder of about 3 MB, which every command takes as --checkpoint
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from e2r.cli.errors import parse_options, run_command
from e2r.evaluation.calibration import load_calibration, save_calibration
from e2r.evaluation.fitted_cases import load_cases, save_cases
from e2r.evaluation.patient import read_patient
from e2r.runtime import outputs
from e2r.training.trained_model import export_trained


@dataclass(frozen=True)
class Publish:
    """Publishes a trained network: its parameters, settings and calibration."""

    checkpoint: Path
    """output folder of experiments.train"""
    output: Path
    """new folder"""


def publish(options: Publish) -> int:
    """Writes the parameters, the settings and, where there is one, the calibration."""
    outputs.require_folder(options.output)
    if read_patient(options.checkpoint) is not None:
        raise ValueError(
            f"{options.checkpoint}: is adapted to a patient, and would be taken for anybody's; "
            "publish the model that it began with, or copy the whole folder"
        )
    step = export_trained(options.checkpoint, options.output)
    calibration = load_calibration(options.checkpoint)
    if calibration is not None:
        save_calibration(calibration, options.output)
    if cases := load_cases(options.checkpoint):
        save_cases(cases, options.output)
    size = sum(path.stat().st_size for path in options.output.rglob("*") if path.is_file())
    print(f"{options.output}: {step} steps, {size / 1e6:.1f} MB")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and publishes."""
    prog = "python -m experiments.publish"
    return run_command(
        lambda: publish(parse_options(Publish, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(main())
