"""Let a trained network know when it fails: fit what makes agreement a probability.

Command:  python -m experiments.calibrate --checkpoint runs/base
Time:     about six minutes on two cores for 384 cases
Expect:   a table whose two columns agree; then predictions say how far off they should be

Simulated specimens of their own, which neither training nor evaluation sees. Writes
calibration.json into the checkpoint's folder, where register and evaluate look for it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tyro
from tqdm import tqdm

from e2r.cli.errors import run_command
from e2r.config import EvaluationConfig
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
from e2r.evaluation.predictions import Registered
from e2r.simulation import simulator
from e2r.training.trained_model import load_trained


@dataclass(frozen=True)
class Calibrate:
    """Fit what makes agreement a probability."""

    checkpoint: Path
    """output folder of experiments.train"""
    specimens: int = 192
    """simulated specimens"""
    frames: int = 2
    """scenes of each"""
    simulation: simulator.SimulationConfig | None = None
    """how they are photographed; as the checkpoint's own scenes were without it"""
    risk: float = 0.005
    """share of the accepted cases that may be 5 mm off or more"""
    seed: int = 0
    """of the specimens"""

    def __post_init__(self) -> None:
        if self.specimens < 1 or self.frames < 1:
            raise ValueError("--specimens and --frames must be 1 or more")
        if not 0 <= self.risk < 1:
            raise ValueError(f"--risk is {self.risk}; use a share, 0 to 1")


def rows(result: Registered) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Figures (R, 3), TRE in mm (R,) and whether it is the best (R,) of distinct hypotheses."""
    case, several = result.case, result.hypotheses["learnt"]
    kept = result.kept("learnt")
    pick = np.flatnonzero(several.distinct)
    figures = hypothesis_features(several.inlier_score, several.distinct, kept)[pick]
    targets, errors = scored_targets(case), []
    for k in pick:
        pose = jax.tree.map(lambda leaf, k=k: leaf[k], several.pose)
        every = metrics.case_errors(
            dict.fromkeys(case.model, pose),
            case.truth,  # type: ignore[arg-type]
            targets,
            case.model,
        )
        errors.append(every["tre_mm"])
    errors[0] = result.errors["learnt"]["tre_mm"]  # with one pose a level, as it will be used
    return figures, np.array(errors), pick == 0


def reliability(calibration: Calibration, figures: np.ndarray, tre: np.ndarray) -> str:
    """How often hypotheses were right, by the probability they were given."""
    chance = success_probability(calibration, figures)
    lines = ["said      hypotheses   right"]
    for low, high in ((0.0, 0.1), (0.1, 0.5), (0.5, 0.9), (0.9, 0.99), (0.99, 1.01)):
        inside = (chance >= low) & (chance < high)
        if inside.any():
            right = np.mean(tre[inside] < SUCCESS_THRESHOLD_MM)
            lines.append(f"{chance[inside].mean():7.1%}   {inside.sum():10d}   {right:6.1%}")
    return "\n".join(lines)


def calibrate(options: Calibrate) -> int:
    """Runs the calibration."""
    config, params = load_trained(options.checkpoint)
    source = simulator.held_out_cases(
        options.simulation or config.scenes.simulation,
        specimens=options.specimens,
        frames=options.frames,
        seed=options.seed,
        kind=simulator.CALIBRATION,
    )
    found = []
    with tqdm(total=options.specimens * options.frames, desc="calibrate", unit="case") as bar:
        for item in runner.run(source, config, params, EvaluationConfig()):
            bar.update()
            if isinstance(item, Registered):
                found.append(rows(item))
    figures, tre, best = (np.concatenate(column) for column in zip(*found, strict=True))
    calibration = fit_calibration(figures, tre, best, risk=options.risk)
    save_calibration(calibration, options.checkpoint)
    print(reliability(calibration, figures, tre))
    accepted = success_probability(calibration, figures[best]) >= calibration.threshold
    wrong = np.mean(tre[best][accepted] >= SUCCESS_THRESHOLD_MM) if accepted.any() else 0.0
    print(f"accepted: {accepted.mean():.1%} of {best.sum()} cases, of which {wrong:.1%} are wrong")
    print(options.checkpoint / CALIBRATION_FILE)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and calibrates."""
    options = tyro.cli(
        Calibrate, args=arguments, prog="python -m experiments.calibrate", description=__doc__
    )
    return run_command(lambda: calibrate(options))


if __name__ == "__main__":
    sys.exit(main())
