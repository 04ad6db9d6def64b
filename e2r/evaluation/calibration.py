"""Knowing when it fails: how probably a pose is right, and how far off it should be. On the host.

Three figures of a hypothesis tell: the share of the mask that agrees with the model, how much more
that is than at the next hypothesis, and how many points agree. A logistic model makes them a
probability, a linear one the error of what is right. Both are fitted on held-out simulated
specimens (``experiments.calibrate``), once a trained network, and kept beside its checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

SUCCESS_THRESHOLD_MM = 5.0
"""A pose is right whose TRE is below this."""
CALIBRATION_FILE = "calibration.json"


@dataclass(frozen=True)
class Calibration:
    """What turns figures into probabilities and millimetres."""

    right: tuple[float, ...]
    """(4,) of the log-odds that a hypothesis is right: of 1 and the three :func:`hypothesis_features`"""
    error: tuple[float, ...]
    """(4,) of the logarithm of a right one's TRE in mm"""
    wrong_mm: float
    """mean TRE of a wrong one"""
    threshold: float
    """probability from which a pose is accepted"""
    cases: int
    """simulated cases it was fitted on"""


def inlier_shares(agreement: np.ndarray, kept: float) -> np.ndarray:
    """Which share of a mask's ``kept`` points agrees with each hypothesis, (K,), 0 to 1."""
    return np.asarray(agreement, np.float64) / max(kept, 1e-6)


def hypothesis_features(agreement: np.ndarray, distinct: np.ndarray, kept: float) -> np.ndarray:
    """Figures of each hypothesis (K, 3): share, margin over the best of the others, log points.

    Args:
      agreement, distinct: (K,) of :class:`e2r.types.Hypotheses`.
      kept: points of the mask.
    """
    share = inlier_shares(agreement, kept)
    apart = ~np.eye(len(share), dtype=bool) & np.asarray(distinct, bool)
    other = np.max(np.where(apart, share, 0.0), axis=1, initial=0.0)
    return np.stack([share, share - other, np.log1p(agreement)], axis=1)


def success_probability(calibration: Calibration, figures: np.ndarray) -> np.ndarray:
    """How probably hypotheses with these :func:`hypothesis_features` (..., 3) are right, each by itself."""
    chance: np.ndarray = expit(_linear(calibration.right, figures))
    return chance


def hypothesis_probabilities(
    calibration: Calibration, agreement: np.ndarray, distinct: np.ndarray, kept: float
) -> np.ndarray:
    """How probably each hypothesis (K,) is right; one that repeats another has none of its own."""
    figures = hypothesis_features(agreement, distinct, kept)
    chance = np.where(distinct, success_probability(calibration, figures), 0.0)
    scaled: np.ndarray = chance / max(1.0, float(chance.sum()))
    return scaled


def expected_tre(calibration: Calibration, figures: np.ndarray, probability: float) -> float:
    """Expected TRE in mm of a hypothesis with these :func:`hypothesis_features` (3,) and probability."""
    near = min(float(np.exp(_linear(calibration.error, figures))), calibration.wrong_mm)
    return probability * near + (1.0 - probability) * calibration.wrong_mm


def fit_calibration(
    figures: np.ndarray, tre: np.ndarray, best: np.ndarray, *, risk: float = 0.005
) -> Calibration:
    """Fits a calibration.

    Args:
      figures: (R, 3) :func:`hypothesis_features` of the distinct hypotheses of all cases.
      tre: (R,) mm, of each.
      best: (R,) bool, the first of its case; those alone are accepted or not.
      risk: share of accepted ones that may be wrong on these cases.

    Raises:
      ValueError: nothing was right, or nothing at all was given.
    """
    right = tre < SUCCESS_THRESHOLD_MM
    if not (right & best).any():
        raise ValueError("no hypothesis of the calibration cases is right; train the network first")
    centre, spread = figures.mean(0), figures.std(0) + 1e-9
    plain = (figures - centre) / spread

    def loss(w: np.ndarray) -> float:
        odds = _linear(w, plain)
        fits = np.logaddexp(0.0, np.where(right, -odds, odds)).sum()
        return float(fits + 0.5 * np.sum(w[1:] ** 2))

    from scipy.optimize import minimize  # noqa: PLC0415 - half a second, for calibration alone

    weights = minimize(loss, np.zeros(4)).x
    odds = (weights[0] - np.sum(weights[1:] * centre / spread), *(weights[1:] / spread))
    good = right & best
    design = np.column_stack([np.ones(good.sum()), figures[good]])
    log_tre = np.log(np.maximum(tre[good], 1e-3))
    penalty = np.diag([0.0, 1.0, 1.0, 1.0])
    error = np.linalg.solve(design.T @ design + penalty, design.T @ log_tre)
    error[0] += 0.5 * np.var(log_tre - design @ error)  # the mean of a log-normal, not its median
    wrong = tre[best & ~right]
    chance = expit(_linear(odds, figures[best]))
    return Calibration(
        right=tuple(float(v) for v in odds),
        error=tuple(float(v) for v in error),
        wrong_mm=float(wrong.mean()) if len(wrong) else 30.0,
        threshold=_threshold(chance, right[best], risk),
        cases=int(best.sum()),
    )


def _linear(weights: np.ndarray | tuple[float, ...], figures: np.ndarray) -> np.ndarray:
    total: np.ndarray = weights[0] + figures @ np.asarray(weights[1:])
    return total


def _threshold(chance: np.ndarray, right: np.ndarray, risk: float) -> float:
    """The lowest probability from which on at most a share ``risk`` is wrong."""
    order = np.argsort(-chance)
    wrong = np.cumsum(~right[order]) / np.arange(1, len(order) + 1)
    fine = np.flatnonzero(wrong <= risk)
    return float(chance[order[fine[-1]]]) if len(fine) else 1.0


def save_calibration(calibration: Calibration, folder: Path) -> None:
    """Writes ``calibration.json`` beside a checkpoint."""
    (folder / CALIBRATION_FILE).write_text(
        json.dumps(dataclasses.asdict(calibration), indent=1) + "\n"
    )


def load_calibration(folder: Path) -> Calibration | None:
    """The calibration beside a checkpoint, or None where there is none.

    Raises:
      ValueError: it is broken.
    """
    path = folder / CALIBRATION_FILE
    if not path.is_file():
        return None
    try:
        value: dict[str, Any] = json.loads(path.read_text())
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in value.items()
        }
        found = Calibration(**plain)
        flat = [*found.right, *found.error, found.wrong_mm, found.threshold]
        if len(flat) != 10 or not np.isfinite(flat).all():
            raise ValueError
    except (ValueError, TypeError, AttributeError):
        raise ValueError(
            f"{path}: is no calibration; delete it, or make it anew with experiments.calibrate"
        ) from None
    return found
