"""Calibrate a trained network: fit the probability that a pose is right, and how far off it may be.

Command:  python -m experiments.calibrate --checkpoint runs/base
Time:     half an hour on two cores for 192 frames of every variety (--specimens 48 --frames 4);
          ten minutes for 64 frames of demo (--specimens 32); the default is 384 frames
Expect:   a table whose two columns agree to about 10 %; at most 0.5 % of the accepted cases wrong

The specimens are simulated; neither training nor evaluation sees them. Where the scenes have
varieties, half of the specimens are seen without. Every fourth frame is given the model of another
specimen, to which no pose is right. A cloth lies over every third. Writes calibration.json into the
checkpoint's folder, where register and evaluate read it, and the cases, which e2r adapt reads.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from e2r.cli.errors import parse_options, run_command
from e2r.datasets.case import Case
from e2r.evaluation.calibration import (
    CALIBRATION_FILE,
    SUCCESS_THRESHOLD_MM,
    Calibration,
    safe_probability,
    save_calibration,
    success_probability,
)
from e2r.evaluation.calibration_cases import register_cases, with_cloths, with_foreign_models
from e2r.evaluation.calibration_fit import FittedCase, best_probability, fit_calibration
from e2r.evaluation.fitted_cases import save_cases
from e2r.evaluation.models import Model, read_model
from e2r.runtime import outputs
from e2r.runtime.freed_memory import keep_freed_memory
from e2r.runtime.seeds import require_seed
from e2r.simulation import simulator
from e2r.types import Float

PROBABILITY_BINS = (0.0, 0.1, 0.5, 0.9, 0.99, 1.01)
"""Edges of the bins of :func:`reliability_table`."""


@dataclass(frozen=True)
class Calibrate:
    """Fit the probability that a pose is right, and how far off it may be."""

    checkpoint: Path
    """output folder of experiments.train"""
    specimens: int = 192
    """simulated specimens"""
    frames: int = 2
    """scenes of each specimen"""
    simulation: simulator.SimulationConfig | None = None
    """settings of the scenes; the checkpoint's own without it"""
    risk: float = 0.005
    """largest share of the accepted cases that is 5 mm off or more"""
    seed: int = 0
    """seed of the specimens"""
    foreign_every: int = 4
    """one frame of so many is given another specimen's model; 0: none"""
    covered_every: int = 3
    """one frame of so many lies under a cloth that hides up to 60 % of its bone; 0: none"""
    plain_every: int = 2
    """where the scenes have varieties, one specimen of so many is seen without; 0: none"""

    def __post_init__(self) -> None:
        for name in ("foreign_every", "covered_every", "plain_every"):
            if (every := getattr(self, name)) < 0:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} is {every}; use 0 or more")
        require_seed(self.seed)
        if self.specimens < 1 or self.frames < 1:
            raise ValueError("--specimens and --frames must be 1 or more")
        if not 0 <= self.risk < 1:
            raise ValueError(f"--risk is {self.risk}; use a share, 0 to below 1")


def simulated_cases(options: Calibrate, settings: simulator.SimulationConfig) -> Iterator[Case]:
    """The simulated cases: some specimens in frames of every variety of the settings, some without.

    Args:
      options: of the command line.
      settings: of the scenes.
    """
    plain = options.specimens // options.plain_every if options.plain_every else 0
    parts = [(settings, options.specimens - plain), (replace(settings, variety=()), plain)]
    if not settings.variety:
        parts = [(settings, options.specimens)]
    for number, (part, specimens) in enumerate(parts):
        if specimens:
            yield from simulator.held_out_cases(
                part,
                specimens=specimens,
                frames=options.frames,
                seed=options.seed + number,
                kind=simulator.CALIBRATION,
            )


def reliability_table(
    calibration: Calibration, features: Float[np.ndarray, "r 4"], errors: Float[np.ndarray, "r"]
) -> str:
    """The share of right hypotheses beside the mean probability, by bin of probability.

    Args:
      calibration: of the trained network.
      features: from :func:`hypothesis_features`.
      errors: of each hypothesis, mm, of its middle level.
    """
    probability = success_probability(calibration, features)
    lines = ["predicted   hypotheses   right"]
    for low, high in pairwise(PROBABILITY_BINS):
        inside = (probability >= low) & (probability < high)
        if inside.any():
            right = np.mean(errors[inside] < SUCCESS_THRESHOLD_MM)
            lines.append(f"{probability[inside].mean():9.1%}   {inside.sum():10d}   {right:6.1%}")
    return "\n".join(lines)


def fitted_cases(options: Calibrate, model: Model) -> Iterator[FittedCase]:
    """Registers the simulated cases, without an initial pose.

    Args:
      options: of the command line.
      model: the trained networks.
    """
    cases = simulated_cases(options, options.simulation or model.config.scenes.simulation)
    cases = with_cloths(cases, options.covered_every, options.seed)
    found = register_cases(with_foreign_models(cases, options.foreign_every), model)
    yield from tqdm(found, total=options.specimens * options.frames, desc="calibrate", unit="case")


def calibrate(options: Calibrate) -> int:
    """Runs the calibration."""
    model = read_model(options.checkpoint)
    if model.patient is not None:
        raise ValueError(
            f"{options.checkpoint}: is adapted to a patient, and calibrated already; calibrate the "
            "model that it began with, and adapt again"
        )
    outputs.require_file(options.checkpoint / CALIBRATION_FILE)
    cases = list(fitted_cases(options, model))
    calibration = fit_calibration(cases, risk=options.risk)
    save_calibration(calibration, options.checkpoint)
    save_cases(cases, options.checkpoint)
    features = np.concatenate([case.features for case in cases])
    print(reliability_table(calibration, features, np.concatenate([c.errors for c in cases])))
    foreign = np.array([np.isinf(case.errors[0]) for case in cases])
    safe = [
        safe_probability(calibration, case.precision, best_probability(calibration, case))
        for case in cases
    ]
    accepted = np.array(safe) >= calibration.threshold
    wrong = sum(not case.safe for case, taken in zip(cases, accepted, strict=True) if taken)
    print(
        f"accepted: {accepted[~foreign].mean():.1%} of {(~foreign).sum()} cases, and "
        f"{accepted[foreign].sum()} of {foreign.sum()} with another specimen's model; "
        f"{wrong} of all {accepted.sum()} have a wrong level"
    )
    print(options.checkpoint / CALIBRATION_FILE)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and calibrates."""
    if arguments is None:  # the process is ours
        keep_freed_memory()
    prog = "python -m experiments.calibrate"
    return run_command(
        lambda: calibrate(parse_options(Calibrate, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(main())
