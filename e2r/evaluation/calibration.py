"""Calibration: the probability that a pose is right, and its expected TRE. On the host.

Three features of a hypothesis go in: the share of the mask that agrees with the model, its margin
over the next hypothesis, and the number of points that agree. A logistic model turns them into a
probability. A linear model gives the TRE of a right pose. Both are fitted on simulated specimens
that the training never saw (``experiments.calibrate``), and kept beside the checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from e2r.types import Bool, Float

SUCCESS_THRESHOLD_MM = 5.0
"""A pose is right when its TRE is below this, mm."""
CALIBRATION_FILE = "calibration.json"
DEFAULT_WRONG_MM = 30.0
"""Mean TRE of a wrong pose where the calibration cases have none, mm."""


@dataclass(frozen=True)
class Calibration:
    """The fitted models of one trained network."""

    right: tuple[float, ...]
    """(4,) weights of the log-odds that a hypothesis is right: constant, then the features"""
    error: tuple[float, ...]
    """(4,) weights of the logarithm of a right hypothesis's TRE in mm"""
    wrong_mm: float
    """mean TRE of a wrong hypothesis"""
    threshold: float
    """smallest probability of an accepted pose"""
    cases: int
    """number of simulated cases it was fitted on"""


def inlier_shares(inlier_score: Float[np.ndarray, "k"], mask_points: float) -> np.ndarray:
    """The share of a mask's points that agrees with each hypothesis, 0 to 1.

    Args:
      inlier_score: of each hypothesis, in points.
      mask_points: number of points of the mask.
    """
    return np.asarray(inlier_score, np.float64) / max(mask_points, 1e-6)


def hypothesis_features(
    inlier_score: Float[np.ndarray, "k"], distinct: Bool[np.ndarray, "k"], mask_points: float
) -> Float[np.ndarray, "k 3"]:
    """The features of each hypothesis: inlier share, margin over the best other, log points.

    Args:
      inlier_score: of each hypothesis, in points.
      distinct: False where a hypothesis repeats a better one.
      mask_points: number of points of the mask.
    """
    share = inlier_shares(inlier_score, mask_points)
    others = ~np.eye(len(share), dtype=bool) & np.asarray(distinct, bool)
    best_other = np.max(np.where(others, share, 0.0), axis=1, initial=0.0)
    return np.stack([share, share - best_other, np.log1p(inlier_score)], axis=1)


def success_probability(
    calibration: Calibration, features: Float[np.ndarray, "... 3"]
) -> Float[np.ndarray, "..."]:
    """The probability that a hypothesis is right, of each hypothesis by itself.

    Args:
      calibration: of the trained network.
      features: from :func:`hypothesis_features`.
    """
    probability: np.ndarray = expit(_linear(calibration.right, features))
    return probability


def hypothesis_probabilities(
    calibration: Calibration, features: Float[np.ndarray, "k 3"], distinct: Bool[np.ndarray, "k"]
) -> Float[np.ndarray, "k"]:
    """The probability that each of a case's hypotheses is right; at most one is.

    Args:
      calibration: of the trained network.
      features: from :func:`hypothesis_features`.
      distinct: False where a hypothesis repeats a better one; its probability is 0.
    """
    probability = np.where(distinct, success_probability(calibration, features), 0.0)
    scaled: np.ndarray = probability / max(1.0, float(probability.sum()))
    return scaled


def expected_tre(
    calibration: Calibration, features: Float[np.ndarray, "3"], probability: float
) -> float:
    """The expected TRE of a hypothesis, mm.

    Args:
      calibration: of the trained network.
      features: of the hypothesis.
      probability: that it is right.
    """
    if_right = min(float(np.exp(_linear(calibration.error, features))), calibration.wrong_mm)
    return probability * if_right + (1.0 - probability) * calibration.wrong_mm


def fit_calibration(
    features: Float[np.ndarray, "r 3"],
    tre: Float[np.ndarray, "r"],
    best: Bool[np.ndarray, "r"],
    *,
    risk: float = 0.005,
) -> Calibration:
    """Fits a calibration to the distinct hypotheses of all cases.

    Args:
      features: from :func:`hypothesis_features`.
      tre: error of each hypothesis, mm.
      best: whether it is the best hypothesis of its case; only those may be accepted.
      risk: largest share of the accepted hypotheses that is wrong on these cases.

    Raises:
      ValueError: no hypothesis is right, or there is none.
    """
    right = tre < SUCCESS_THRESHOLD_MM
    if not (right & best).any():
        raise ValueError("no hypothesis of the calibration cases is right; train the network first")
    weights = _fit_logistic(features, right)
    good = right & best
    wrong = tre[best & ~right]
    probability = expit(_linear(weights, features[best]))
    return Calibration(
        right=weights,
        error=_fit_log_tre(features[good], tre[good]),
        wrong_mm=float(wrong.mean()) if len(wrong) else DEFAULT_WRONG_MM,
        threshold=_threshold(probability, right[best], risk),
        cases=int(best.sum()),
    )


def _fit_logistic(features: np.ndarray, right: np.ndarray) -> tuple[float, ...]:
    """Weights (4,) of a logistic regression with a ridge on the standardised features."""
    mean, spread = features.mean(0), features.std(0) + 1e-9
    standardised = (features - mean) / spread

    def loss(w: np.ndarray) -> float:
        odds = _linear(w, standardised)
        misfit = np.logaddexp(0.0, np.where(right, -odds, odds)).sum()
        return float(misfit + 0.5 * np.sum(w[1:] ** 2))

    from scipy.optimize import minimize  # noqa: PLC0415 - half a second, for calibration alone

    w = minimize(loss, np.zeros(4)).x
    weights = (w[0] - np.sum(w[1:] * mean / spread), *(w[1:] / spread))
    return tuple(float(weight) for weight in weights)


def _fit_log_tre(features: np.ndarray, tre: np.ndarray) -> tuple[float, ...]:
    """Weights (4,) of a ridge regression of the logarithm of the TRE."""
    design = np.column_stack([np.ones(len(features)), features])
    log_tre = np.log(np.maximum(tre, 1e-3))
    penalty = np.diag([0.0, 1.0, 1.0, 1.0])
    weights = np.linalg.solve(design.T @ design + penalty, design.T @ log_tre)
    weights[0] += 0.5 * np.var(log_tre - design @ weights)  # a log-normal's mean, not its median
    return tuple(float(weight) for weight in weights)


def _linear(weights: np.ndarray | Sequence[float], features: np.ndarray) -> np.ndarray | np.float64:
    total: np.ndarray | np.float64 = weights[0] + features @ np.asarray(weights[1:])
    return total


def _threshold(probability: np.ndarray, right: np.ndarray, risk: float) -> float:
    """The smallest probability above which at most a share ``risk`` is wrong."""
    order = np.argsort(-probability)
    wrong = np.cumsum(~right[order]) / np.arange(1, len(order) + 1)
    safe = np.flatnonzero(wrong <= risk)
    return float(probability[order[safe[-1]]]) if len(safe) else 1.0


def save_calibration(calibration: Calibration, folder: Path) -> None:
    """Writes ``calibration.json`` beside a checkpoint.

    Args:
      calibration: of the checkpoint.
      folder: of the checkpoint.
    """
    (folder / CALIBRATION_FILE).write_text(
        json.dumps(dataclasses.asdict(calibration), indent=1) + "\n"
    )


def load_calibration(folder: Path) -> Calibration | None:
    """The calibration beside a checkpoint, or None where there is none.

    Args:
      folder: of the checkpoint.

    Raises:
      ValueError: the file is broken.
    """
    path = folder / CALIBRATION_FILE
    if not path.is_file():
        return None
    try:
        value: dict[str, Any] = json.loads(path.read_text())
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in value.items()
        }
        calibration = Calibration(**fields)
        numbers = [
            *calibration.right,
            *calibration.error,
            calibration.wrong_mm,
            calibration.threshold,
        ]
        if len(numbers) != 10 or not np.isfinite(numbers).all():
            raise ValueError
    except (ValueError, TypeError, AttributeError):
        raise ValueError(
            f"{path}: is no calibration; delete it, or write it again with experiments.calibrate"
        ) from None
    return calibration
