"""Calibrate a trained network: fit the probability that a pose is right, and its expected TRE.

Command:  python -m experiments.calibrate --checkpoint runs/base
Time:     about six minutes on two cores for 384 cases
Expect:   a table whose two columns agree to about 5 %; at most 0.5 % of the accepted cases wrong

The specimens are simulated; neither training nor evaluation sees them. Writes calibration.json into
the checkpoint's folder, where register and evaluate read it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from e2r.cli.errors import parse_options, run_command
from e2r.config import EvaluationConfig, TrainingConfig
from e2r.datasets.case import scored_targets
from e2r.evaluation import metrics, runner
from e2r.evaluation.calibration import (
    CALIBRATION_FILE,
    SUCCESS_THRESHOLD_MM,
    Calibration,
    fit_calibration,
    hypothesis_features,
    save_calibration,
    success_probability,
)
from e2r.evaluation.results import Registered
from e2r.runtime import outputs
from e2r.runtime.freed_memory import keep_freed_memory
from e2r.simulation import simulator
from e2r.training.trained_model import load_trained
from e2r.types import Bool, Float, Params

PROBABILITY_BINS = (0.0, 0.1, 0.5, 0.9, 0.99, 1.01)
"""Edges of the bins of :func:`reliability_table`."""


@dataclass(frozen=True)
class Calibrate:
    """Fit the probability that a pose is right, and its expected TRE."""

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

    def __post_init__(self) -> None:
        if self.specimens < 1 or self.frames < 1:
            raise ValueError("--specimens and --frames must be 1 or more")
        if not 0 <= self.risk < 1:
            raise ValueError(f"--risk is {self.risk}; use a share, 0 to below 1")


class HypothesisErrors(NamedTuple):
    """Distinct hypotheses, of one case or of many."""

    features: Float[np.ndarray, "r 3"]  # see hypothesis_features
    tre: Float[np.ndarray, "r"]  # mm
    best: Bool[np.ndarray, "r"]  # whether it is the best hypothesis of its case


def hypothesis_errors(result: Registered) -> HypothesisErrors:
    """The distinct hypotheses of a registered case under the learnt mask.

    Args:
      result: of a case with a truth.
    """
    case, hypotheses = result.case, result.hypotheses["learnt"]
    distinct = np.asarray(hypotheses.distinct)
    rows = np.flatnonzero(distinct)
    features = hypothesis_features(
        np.asarray(hypotheses.inlier_score), distinct, result.mask_points("learnt")
    )
    targets, tre = scored_targets(case), []
    for row in rows:
        pose = jax.tree.map(lambda leaf, row=row: leaf[row], hypotheses.pose)
        errors = metrics.case_errors(
            dict.fromkeys(case.model, pose), case.truth or {}, targets, model=case.model
        )
        tre.append(errors.tre_mm)
    tre[0] = result.errors["learnt"].tre_mm  # with one pose a level, as predictions have it
    return HypothesisErrors(features[rows], np.array(tre), rows == 0)


def reliability_table(
    calibration: Calibration, features: Float[np.ndarray, "r 3"], tre: Float[np.ndarray, "r"]
) -> str:
    """The share of right hypotheses beside the mean probability, by bin of probability.

    Args:
      calibration: of the trained network.
      features: from :func:`hypothesis_features`.
      tre: mm, of each hypothesis.
    """
    probability = success_probability(calibration, features)
    lines = ["predicted   hypotheses   right"]
    for low, high in pairwise(PROBABILITY_BINS):
        inside = (probability >= low) & (probability < high)
        if inside.any():
            right = np.mean(tre[inside] < SUCCESS_THRESHOLD_MM)
            lines.append(f"{probability[inside].mean():9.1%}   {inside.sum():10d}   {right:6.1%}")
    return "\n".join(lines)


def register_calibration_cases(
    options: Calibrate, config: TrainingConfig, params: Params
) -> Iterator[Registered]:
    """Registers the simulated cases, without an initial pose.

    Args:
      options: of the command line.
      config: the trained network's settings.
      params: the trained network's parameters.
    """
    cases = simulator.held_out_cases(
        options.simulation or config.scenes.simulation,
        specimens=options.specimens,
        frames=options.frames,
        seed=options.seed,
        kind=simulator.CALIBRATION,
    )
    with tqdm(total=options.specimens * options.frames, desc="calibrate", unit="case") as bar:
        for result in runner.run(cases, config, params, job=EvaluationConfig()):
            bar.update()
            if isinstance(result, Registered):
                yield result


def calibrate(options: Calibrate) -> int:
    """Runs the calibration."""
    config, params = load_trained(options.checkpoint)
    outputs.require_file(options.checkpoint / CALIBRATION_FILE)
    by_case = [
        hypothesis_errors(result) for result in register_calibration_cases(options, config, params)
    ]
    features, tre, best = (np.concatenate(column) for column in zip(*by_case, strict=True))
    calibration = fit_calibration(features, tre, best, risk=options.risk)
    save_calibration(calibration, options.checkpoint)
    print(reliability_table(calibration, features, tre))
    accepted = success_probability(calibration, features[best]) >= calibration.threshold
    wrong = np.mean(tre[best][accepted] >= SUCCESS_THRESHOLD_MM) if accepted.any() else 0.0
    print(f"accepted: {accepted.mean():.1%} of {best.sum()} cases; {wrong:.1%} of those are wrong")
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
