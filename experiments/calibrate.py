"""Calibrate a trained network: fit the probability that a pose is right, and how far off it may be.

Command:  python -m experiments.calibrate --checkpoint runs/base
Time:     half an hour on two cores for 192 frames of every variety; demo, 64 frames: ten minutes
Expect:   a table whose two columns agree to about 10 %; at most 0.5 % of the accepted cases wrong

The specimens are simulated; neither training nor evaluation sees them. Where the scenes have
varieties, half of the specimens are seen without. Every fourth frame is given the model of another
specimen, to which no pose is right. A cloth lies over every third. Writes calibration.json into the
checkpoint's folder, where register and evaluate read it.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from e2r.cli.errors import parse_options, run_command
from e2r.config import EvaluationConfig, TrainingConfig
from e2r.datasets.case import Case, scored_targets
from e2r.evaluation import metrics, runner
from e2r.evaluation.calibration import (
    CALIBRATION_FILE,
    SUCCESS_THRESHOLD_MM,
    Calibration,
    safe_probability,
    save_calibration,
    success_probability,
)
from e2r.evaluation.calibration_fit import FittedCase, best_probability, fit_calibration
from e2r.evaluation.metrics import CaseErrors
from e2r.evaluation.models import Model
from e2r.evaluation.preparation import stable_seed
from e2r.evaluation.results import Registered
from e2r.evaluation.visible import visible_levels
from e2r.runtime import outputs
from e2r.runtime.freed_memory import keep_freed_memory
from e2r.simulation import simulator
from e2r.simulation.cloth import hide_bone
from e2r.training.trained_model import load_trained
from e2r.types import Float, Params

PROBABILITY_BINS = (0.0, 0.1, 0.5, 0.9, 0.99, 1.01)
"""Edges of the bins of :func:`reliability_table`."""
MAX_HIDDEN = 0.6
"""Largest share of a frame's bone that a cloth hides."""


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
        if self.specimens < 1 or self.frames < 1:
            raise ValueError("--specimens and --frames must be 1 or more")
        if not 0 <= self.risk < 1:
            raise ValueError(f"--risk is {self.risk}; use a share, 0 to below 1")


class CalibrationCase(NamedTuple):
    """A case to fit on, and whether its model is another specimen's."""

    case: Case
    foreign: bool


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


def with_cloths(cases: Iterable[Case], every: int, seed: int) -> Iterator[Case]:
    """Lays a cloth over one frame of so many, which hides up to 60 % of its bone.

    Args:
      cases: simulated ones.
      every: such a frame follows so many less one that stay as they are; 0: none does.
      seed: of the cloths.
    """
    for number, case in enumerate(cases):
        if every and number % every == every - 1:
            rng = np.random.default_rng([seed, stable_seed(case.id)])
            yield hide_bone(case, rng.uniform(0.0, MAX_HIDDEN), rng)
        else:
            yield case


def with_foreign_models(cases: Iterable[Case], every: int) -> Iterator[CalibrationCase]:
    """Gives every so many frames the model of the specimen before.

    Args:
      cases: specimen after specimen.
      every: such a frame follows so many less one that keep their model; 0: none does.
    """
    before: Case | None = None  # the latest case of another specimen
    last: Case | None = None
    for number, case in enumerate(cases, 1):
        if last is not None and last.source != case.source:
            before = last
        last = case
        if every and before is not None and number % every == 0:
            yield CalibrationCase(
                replace(case, model=before.model, targets=None, truth=None, folder=None), True
            )
        else:
            yield CalibrationCase(case, False)


def fitted_case(result: Registered, *, foreign: bool) -> FittedCase:
    """What a registered case tells the calibration, under the learnt mask.

    Args:
      result: of a case with a truth, or with another specimen's model.
      foreign: whether its model is another specimen's.
    """
    case, hypotheses = result.case, result.hypotheses["learnt"]
    rows = np.flatnonzero(hypotheses.distinct)
    features, precision = result.hypothesis_features("learnt")[rows], result.precisions["learnt"]
    if foreign:
        return FittedCase(
            features,
            np.full(len(rows), np.inf),
            precision,
            np.inf,
            np.full(len(precision.inliers), np.nan),
        )
    targets = scored_targets(case)
    seen = visible_levels(case) & set(targets)
    found = [
        dict.fromkeys(case.model, jax.tree.map(lambda leaf, row=row: leaf[row], hypotheses.pose))
        for row in rows
    ]
    errors = [
        metrics.case_errors(one, case.truth or {}, targets, model=case.model) for one in found
    ]
    errors[0] = result.errors["learnt"]  # with one pose a level, as predictions have it
    by_level = errors[0].by_level
    return FittedCase(
        features,
        np.array([middle_level(one, seen) for one in errors]),
        precision,
        errors[0].tre_mm,
        np.array([by_level[name].tre_mm if name in seen else np.nan for name in case.model]),
    )


def middle_level(errors: CaseErrors, seen: Collection[str]) -> float:
    """The median TRE of the levels that are seen, mm; the TRE of the case where none is."""
    return float(np.median([errors.by_level[name].tre_mm for name in seen] or [errors.tre_mm]))


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


def fitted_cases(
    options: Calibrate, config: TrainingConfig, params: Params
) -> Iterator[FittedCase]:
    """Registers the simulated cases, without an initial pose.

    Args:
      options: of the command line.
      config: the trained network's settings.
      params: the trained network's parameters.
    """
    cases = simulated_cases(options, options.simulation or config.scenes.simulation)
    cases = with_cloths(cases, options.covered_every, options.seed)
    foreign: set[str] = set()

    def noted() -> Iterator[Case]:
        for case, is_foreign in with_foreign_models(cases, options.foreign_every):
            if is_foreign:
                foreign.add(case.id)
            yield case

    with tqdm(total=options.specimens * options.frames, desc="calibrate", unit="case") as bar:
        for result in runner.run(noted(), Model(config, params), job=EvaluationConfig()):
            bar.update()
            if isinstance(result, Registered):
                yield fitted_case(result, foreign=result.case.id in foreign)


def calibrate(options: Calibrate) -> int:
    """Runs the calibration."""
    config, params = load_trained(options.checkpoint)
    outputs.require_file(options.checkpoint / CALIBRATION_FILE)
    cases = list(fitted_cases(options, config, params))
    calibration = fit_calibration(cases, risk=options.risk)
    save_calibration(calibration, options.checkpoint)
    features = np.concatenate([case.features for case in cases])
    print(reliability_table(calibration, features, np.concatenate([c.errors for c in cases])))
    foreign = np.array([np.isinf(case.errors[0]) for case in cases])
    safe = [
        safe_probability(calibration, case.precision, best_probability(calibration, case))
        for case in cases
    ]
    accepted = np.array(safe) >= calibration.threshold
    wrong = np.mean([not case.safe for case, taken in zip(cases, accepted, strict=True) if taken])
    print(
        f"accepted: {accepted[~foreign].mean():.1%} of {(~foreign).sum()} cases, and "
        f"{accepted[foreign].sum()} of {foreign.sum()} with another specimen's model; "
        f"{wrong:.1%} of all those have a wrong level"
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
