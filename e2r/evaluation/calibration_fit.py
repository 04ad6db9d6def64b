"""Fits a calibration to registered cases whose truth is known. On the host.

See :mod:`e2r.evaluation.calibration` for the models that are fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from e2r.evaluation.calibration import (
    DEFAULT_WRONG,
    MIN_LEVEL_INLIERS,
    OLDER_SPREAD,
    SUCCESS_THRESHOLD_MM,
    Calibration,
    hypothesis_probabilities,
    level_features,
    linear,
    log_precision,
    safe_features,
)
from e2r.evaluation.precision import LevelPrecision
from e2r.types import Float


class FittedCase(NamedTuple):
    """What a calibration case tells: of H distinct hypotheses, the best first, and of L levels."""

    features: Float[np.ndarray, "h 4"]
    errors: Float[np.ndarray, "h"]  # mm, of the middle level that is seen; infinite: foreign model
    precision: LevelPrecision  # of the best hypothesis
    tre: float  # mm, of the best hypothesis over all targets; infinite: foreign model
    level_tre: Float[np.ndarray, "l"]  # mm, of the best hypothesis; NaN where it is not seen

    @property
    def safe(self) -> bool:
        """Whether the best hypothesis is right, and so is each level that it shows."""
        seen = self.level_tre[np.isfinite(self.level_tre)]
        return bool(max(self.errors[0], np.max(seen, initial=0.0)) < SUCCESS_THRESHOLD_MM)


def fit_calibration(cases: Sequence[FittedCase], *, risk: float = 0.005) -> Calibration:
    """Fits a calibration to the hypotheses of all cases.

    The threshold is the smallest from which on at most a share ``risk`` of these cases has a wrong
    level: as counted, or as the fitted probabilities expect it. A count alone fails where one sure
    case among too few is wrong; probabilities alone where too few cases make them cautious.

    Args:
      cases: at least one of them right.
      risk: largest share of the accepted cases that has a wrong level.

    Raises:
      ValueError: no hypothesis is right, or there is none; or no case has a wrong level.
    """
    best = np.array([case.errors[0] < SUCCESS_THRESHOLD_MM for case in cases])
    if not best.any():
        raise ValueError("no hypothesis of the calibration cases is right; train the network first")
    if all(case.safe for case in cases):
        raise ValueError(
            "no calibration case has a wrong level, so none shows what is to be refused; give more "
            "cases, some with another specimen's model"
        )
    weights = _fit_logistic(
        np.concatenate([case.features for case in cases]),
        np.concatenate([case.errors for case in cases]) < SUCCESS_THRESHOLD_MM,
    )
    right = [case for case, good in zip(cases, best, strict=True) if good]
    wrong = [case.level_tre for case, good in zip(cases, best, strict=True) if not good]
    whole = np.array([[*case.features[0], log_precision(case.precision)] for case in right])
    error, error_spread = _fit_log_error(whole, np.array([case.tre for case in right]))
    levels = np.concatenate([level_features(case.precision) for case in right])
    level_tre = np.concatenate([case.level_tre for case in right])
    inliers = np.concatenate([case.precision.inliers for case in right])
    seen = np.isfinite(level_tre) & (inliers >= MIN_LEVEL_INLIERS)
    level, level_spread = _fit_log_error(levels[seen], level_tre[seen])
    hypotheses = Calibration(
        right=weights,
        error=error,
        error_spread=error_spread,
        wrong=_fit_wrong(np.concatenate([*wrong, np.zeros(0)])),
        threshold=1.0,
        cases=len(cases),
        level=level,
        level_spread=level_spread,
    )
    evidence = np.array(
        [
            safe_features(hypotheses, case.precision, best_probability(hypotheses, case))
            for case in cases
        ]
    )
    is_safe = np.array([case.safe for case in cases])
    safe = _fit_logistic(evidence, is_safe)
    probability = expit(linear(safe, evidence))
    threshold = _threshold(probability, is_safe, risk)
    accepted = is_safe[probability >= threshold]
    wrong = (np.sum(~accepted) + 1) / (len(accepted) + 2)  # Laplace's rule of succession
    return replace(hypotheses, safe=safe, threshold=threshold, accepted_wrong=float(wrong))


def best_probability(calibration: Calibration, case: FittedCase) -> float:
    """The probability that the best hypothesis of a case is right.

    Args:
      calibration: of the trained network.
      case: with its distinct hypotheses.
    """
    distinct = np.ones(len(case.features), bool)
    return float(hypothesis_probabilities(calibration, case.features, distinct)[0])


def _fit_logistic(features: np.ndarray, right: np.ndarray) -> tuple[float, ...]:
    """Weights of a logistic regression with a ridge on the standardised features."""
    mean, spread = features.mean(0), features.std(0) + 1e-9
    standardised = (features - mean) / spread

    def loss(w: np.ndarray) -> float:
        odds = linear(w, standardised)
        misfit = np.logaddexp(0.0, np.where(right, -odds, odds)).sum()
        return float(misfit + 0.5 * np.sum(w[1:] ** 2))

    from scipy.optimize import minimize  # noqa: PLC0415 - half a second, for calibration alone

    w = minimize(loss, np.zeros(features.shape[1] + 1)).x
    weights = (w[0] - np.sum(w[1:] * mean / spread), *(w[1:] / spread))
    return tuple(float(weight) for weight in weights)


def _fit_log_error(features: np.ndarray, errors: np.ndarray) -> tuple[tuple[float, ...], float]:
    """Weights of a ridge regression of the log error, and the spread about it."""
    mean = features.mean(0) if len(features) else np.zeros(features.shape[1])
    design = np.column_stack([np.ones(len(features)), features - mean])
    logs = np.log(np.maximum(errors, 1e-3))
    penalty = np.diag([1e-6] + [1.0] * features.shape[1])
    weights = np.linalg.solve(design.T @ design + penalty, design.T @ logs)
    spread = np.std(logs - design @ weights) if len(logs) > 1 else OLDER_SPREAD
    weights[0] -= weights[1:] @ mean
    return tuple(float(weight) for weight in weights), max(float(spread), 0.05)


def _fit_wrong(errors: np.ndarray) -> tuple[float, float]:
    """Mean and spread of the log error of the levels of wrong poses; NaN: a level without one."""
    errors = errors[np.isfinite(errors)]
    if len(errors) < 2:
        return DEFAULT_WRONG
    logs = np.log(errors)
    return float(logs.mean()), max(float(logs.std()), 0.1)


def _threshold(probability: np.ndarray, safe: np.ndarray, risk: float) -> float:
    """The smallest probability above which a share ``risk`` is wrong, at most; 1 where none is."""
    order = np.argsort(-probability)
    number = np.arange(1, len(order) + 1)
    counted = np.cumsum(~safe[order]) / number
    expected = np.cumsum(1.0 - probability[order]) / number
    tolerable = np.flatnonzero(np.minimum(counted, expected) <= risk)
    return float(probability[order[tolerable[-1]]]) if len(tolerable) else 1.0
