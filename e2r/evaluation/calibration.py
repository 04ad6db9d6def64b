"""Calibration: the probability that a pose is right, and how far off it may be. On the host.

A logistic model turns the features of a hypothesis into the probability that it is right. The error
of a right pose is log-normal, and so is that of a wrong one: a pose's error is a mixture of both.
All is fitted on simulated specimens that the training never saw, some of them with another
patient's model (``experiments.calibrate``), and kept beside the checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, logit, ndtr

from e2r.evaluation.precision import LevelPrecision
from e2r.formats import file_checks
from e2r.runtime.atomic_files import atomic_write
from e2r.types import Bool, Float

SUCCESS_THRESHOLD_MM = 5.0
"""A pose is right when the middle one of the levels it shows is less far off than this, mm; a level
is right when it is itself."""
CALIBRATION_FILE = "calibration.json"
MIN_LEVEL_INLIERS = 15.0
"""A level that fewer points hold is not seen: no error is expected of it."""
FEATURES = 4
"""Number of a hypothesis's features."""
LEVEL_FEATURES = 4
"""Number of a level's features."""
DEFAULT_WRONG = (float(np.log(30.0)), 0.7)
"""Mean and spread of a wrong pose's log error in mm, where the calibration cases have none."""
OLDER_SPREAD = 0.8
"""Spread of a right pose's log error where the file of an older version has none."""
LOG_UNSEEN = float(np.log(10.0))
"""Log error in mm that counts for a pose of which no level is seen."""
GRID_MM = np.exp(np.linspace(np.log(0.01), np.log(1000.0), 1200))
"""Errors at which a mixture's distribution is looked up."""


@dataclass(frozen=True)
class Calibration:
    """The fitted models of one trained network. Errors are in mm, and their logarithms natural."""

    right: tuple[float, ...]
    """(5,) weights of the log-odds that a hypothesis is right: constant, then the features"""
    error: tuple[float, ...]
    """(6,) weights of a right pose's log error: constant, features, then the log precision"""
    error_spread: float
    """standard deviation of that logarithm"""
    wrong: tuple[float, float]
    """mean and standard deviation of the log error of a level of a wrong pose"""
    threshold: float
    """smallest probability of an accepted pose that each level it shows is right"""
    cases: int
    """number of simulated cases it was fitted on"""
    level: tuple[float, ...] = ()
    """(5,) weights of a level's log error in a right pose; empty in files of an older version"""
    level_spread: float = 0.0
    """standard deviation of that logarithm"""
    safe: tuple[float, ...] = ()
    """(3,) weights of the log-odds that each level shown is right: constant, log-odds that the pose
    is right, log error of the least known level; empty in files of an older version"""
    accepted_wrong: float = 1.0
    """share of accepted poses that shows a wrong level, as expected of new ones; 1 in files of an
    older version, which did not count them"""


class ErrorEstimate(NamedTuple):
    """What error of a pose is to be expected."""

    expected_mm: float  # the median
    bound95_mm: float  # larger errors have a chance of 5 %


def inlier_shares(inlier_score: Float[np.ndarray, "k"], mask_points: float) -> np.ndarray:
    """The share of a mask's points that agrees with each hypothesis, 0 to 1.

    Args:
      inlier_score: of each hypothesis, in points.
      mask_points: number of points of the mask.
    """
    return np.asarray(inlier_score, np.float64) / max(mask_points, 1e-6)


def hypothesis_features(
    inlier_score: Float[np.ndarray, "k"],
    distinct: Bool[np.ndarray, "k"],
    mask_points: float,
    out: Float[np.ndarray, "k"],
) -> Float[np.ndarray, "k 4"]:
    """The features of each hypothesis.

    They are the inlier share, its margin over the best other, the log of the points that agree, and
    the share that sticks out.

    Args:
      inlier_score: of each hypothesis, in points.
      distinct: False where a hypothesis repeats a better one.
      mask_points: number of points of the mask.
      out: see :func:`e2r.evaluation.free_space.sticking_out`.
    """
    share = inlier_shares(inlier_score, mask_points)
    others = ~np.eye(len(share), dtype=bool) & np.asarray(distinct, bool)
    best_other = np.max(np.where(others, share, 0.0), axis=1, initial=0.0)
    points = np.log1p(np.asarray(inlier_score, np.float64))
    return np.stack([share, share - best_other, points, out], axis=1)


def level_features(precision: LevelPrecision) -> Float[np.ndarray, "l 4"]:
    """The features of each level: log dilution, log noise, inlier share, log inliers.

    Args:
      precision: of the levels' poses.
    """
    return np.stack(
        [
            np.log(precision.dilution),
            np.log(precision.noise),
            precision.share,
            np.log1p(precision.inliers),
        ],
        axis=1,
    )


def log_precision(precision: LevelPrecision) -> float:
    """The log of the error that noise makes in a pose, averaged over the levels."""
    return float(np.log(np.mean(precision.dilution * precision.noise)))


def success_probability(
    calibration: Calibration, features: Float[np.ndarray, "... 4"]
) -> Float[np.ndarray, "..."]:
    """The probability that a hypothesis is right, of each hypothesis by itself.

    Args:
      calibration: of the trained network.
      features: from :func:`hypothesis_features`.
    """
    probability: np.ndarray = expit(linear(calibration.right, features))
    return probability


def hypothesis_probabilities(
    calibration: Calibration, features: Float[np.ndarray, "k 4"], distinct: Bool[np.ndarray, "k"]
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


def pose_error(
    calibration: Calibration,
    features: Float[np.ndarray, "4"],
    precision: LevelPrecision,
    probability: float,
) -> ErrorEstimate:
    """The error to be expected of a case's pose.

    Args:
      calibration: of the trained network.
      features: of the hypothesis.
      precision: of the levels' poses.
      probability: that the hypothesis is right.
    """
    whole = np.array([*features, log_precision(precision)])
    if_right = float(linear(calibration.error, whole))
    return _mixture(calibration, if_right, calibration.error_spread, probability)


def level_errors(
    calibration: Calibration, precision: LevelPrecision, probability: float
) -> list[ErrorEstimate | None]:
    """The error to be expected of each level; None where it is not seen, or nothing was fitted.

    Args:
      calibration: of the trained network.
      precision: of the levels' poses.
      probability: that the hypothesis is right.
    """
    if not calibration.level:
        return [None] * len(precision.inliers)
    if_right = np.atleast_1d(linear(calibration.level, level_features(precision)))
    return [
        _mixture(calibration, float(mean), calibration.level_spread, probability)
        if inliers >= MIN_LEVEL_INLIERS
        else None
        for mean, inliers in zip(if_right, precision.inliers, strict=True)
    ]


def safe_probability(
    calibration: Calibration, precision: LevelPrecision, probability: float
) -> float:
    """The probability that a pose is right, and so is each level it shows.

    Args:
      calibration: of the trained network; one of an older version knows no levels.
      precision: of the levels' poses.
      probability: that the hypothesis is right.
    """
    if not calibration.safe:
        return probability
    features = safe_features(calibration, precision, probability)
    return float(expit(linear(calibration.safe, features)))


def safe_features(
    calibration: Calibration, precision: LevelPrecision, probability: float
) -> Float[np.ndarray, "2"]:
    """Log-odds that a pose is right, and the log error expected of its least known level.

    Args:
      calibration: one that knows levels.
      precision: of the levels' poses.
      probability: that the hypothesis is right.
    """
    odds = logit(np.clip(probability, 1e-4, 1.0 - 1e-4))
    logs = np.atleast_1d(linear(calibration.level, level_features(precision)))
    seen = precision.inliers >= MIN_LEVEL_INLIERS
    return np.array([odds, logs[seen].max() if seen.any() else LOG_UNSEEN])


def settled_probability(calibration: Calibration, probability: float) -> float:
    """The probability that an accepted pose is right, for its expected errors.

    Acceptance says more than the fitted probability: of the accepted poses, few are wrong.

    Args:
      calibration: of the trained network.
      probability: that the hypothesis is right, before it was accepted.
    """
    return max(probability, 1.0 - calibration.accepted_wrong)


def _mixture(
    calibration: Calibration, mean: float, spread: float, probability: float
) -> ErrorEstimate:
    """Median and 95 % quantile of the error: right with a probability, else wrong."""
    logs = np.log(GRID_MM)
    wrong_mean, wrong_spread = calibration.wrong
    below = probability * ndtr((logs - mean) / spread)
    below = below + (1.0 - probability) * ndtr((logs - wrong_mean) / wrong_spread)
    expected, bound = np.exp(np.interp([0.5, 0.95], below, logs)).tolist()
    return ErrorEstimate(expected, bound)


def linear(weights: np.ndarray | Sequence[float], features: np.ndarray) -> np.ndarray | np.float64:
    """The constant, and the weighted features: the value of a linear model.

    Args:
      weights: the constant first.
      features: in the last axis.
    """
    total: np.ndarray | np.float64 = weights[0] + features @ np.asarray(weights[1:])
    return total


# Files --------------------------------------------------------------------------------------------


def save_calibration(calibration: Calibration, folder: Path) -> None:
    """Writes ``calibration.json`` beside a checkpoint.

    Args:
      calibration: of the checkpoint.
      folder: of the checkpoint.
    """
    with atomic_write(folder / CALIBRATION_FILE) as part:
        part.write_text(json.dumps(dataclasses.asdict(calibration), indent=1) + "\n")


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
        value = _migrate(file_checks.parse_json(path.read_text()))
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in value.items()
        }
        calibration = Calibration(**fields)
        weights = [calibration.right, calibration.error, calibration.wrong]
        weights += [calibration.level, calibration.safe]
        sizes = {FEATURES + 1}, {FEATURES + 2}, {2}, {0, LEVEL_FEATURES + 1}, {0, 3}
        spreads = [calibration.error_spread, calibration.wrong[-1]]
        spreads += [calibration.level_spread] if calibration.level else []
        shares = [calibration.threshold, calibration.accepted_wrong]
        numbers = [*np.concatenate(weights), *spreads, *shares]
        known = all(len(w) in size for w, size in zip(weights, sizes, strict=True))
        known &= bool(calibration.level) or not calibration.safe
        if not known or not np.isfinite(numbers).all() or min(spreads) <= 0:
            raise ValueError
    except (ValueError, TypeError, AttributeError, KeyError, IndexError):
        raise ValueError(
            f"{path}: is no calibration; delete it, or write it again with experiments.calibrate"
        ) from None
    return calibration


def _migrate(value: dict[str, Any]) -> dict[str, Any]:
    """The fields of today from those of a version that knew three features and no levels."""
    if "wrong_mm" not in value:
        return value
    value = dict(value)
    value["wrong"] = [float(np.log(value.pop("wrong_mm"))), DEFAULT_WRONG[1]]
    value["right"] = [*value["right"], *[0.0] * (FEATURES - 3)]
    value["error"] = [*value["error"], *[0.0] * (FEATURES - 2)]
    return {"error_spread": OLDER_SPREAD} | value
