"""The files of a job: ``Prediction`` (predictions.jsonl) and ``CaseScores`` (errors.jsonl)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from e2r.datasets.case import case_digest
from e2r.evaluation.calibration import (
    Calibration,
    ErrorEstimate,
    hypothesis_probabilities,
    level_errors,
    pose_error,
    safe_probability,
    settled_probability,
)
from e2r.evaluation.metrics import CaseErrors
from e2r.evaluation.results import Failed, Registered, level_poses
from e2r.geometry import poses
from e2r.types import Pose

MIN_INLIERS = 20.0
"""Smallest inlier weight, in points, of an accepted prediction."""
MIN_INLIER_SHARE = 0.55
"""Without a calibration: smallest inlier weight of an accepted prediction, as a share of the mask's
points. All 47 wrong results on 96 simulated cases of seed 5 lie below it."""


@dataclass(frozen=True)
class Hypothesis:
    """A candidate pose of the whole model."""

    pose: Pose
    """camera from model"""
    probability: float | None
    """that it is right; None without a calibration"""

    def to_json(self) -> dict[str, Any]:
        """The hypothesis as JSON values."""
        return {
            "T_camera_model": poses.to_matrix(self.pose).tolist(),
            "probability": self.probability,
        }


@dataclass(frozen=True)
class LevelEstimate:
    """What is known of one level's pose."""

    points: float
    """scene points that hold it"""
    expected_tre_mm: float | None
    """None where the level is not seen, or without a calibration"""
    bound95_mm: float | None
    """a larger TRE has a chance of 5 %; None as before"""


@dataclass(frozen=True)
class Prediction:
    """The answer for one case: a line of ``predictions.jsonl``."""

    id: str
    poses: dict[str, Pose]
    """level -> camera from model; empty where the case failed"""
    accepted: bool
    """whether the pose may be used"""
    expected_tre_mm: float | None
    """median of the TRE that the calibration expects; None without one"""
    hypotheses: tuple[Hypothesis, ...]
    """the best first; their probabilities leave to 1 the chance that none is right"""
    seconds: float
    """of all masks together, without compiling programs"""
    error: str | None = None
    """why the case failed, in one sentence"""
    case_digest: str | None = None
    """of the model and the frame; None where the case failed, or an older e2r wrote the line"""
    bound95_mm: float | None = None
    """a larger TRE has a chance of 5 %; None without a calibration"""
    levels: Mapping[str, LevelEstimate] = field(default_factory=dict)
    """level -> what is known of its pose; empty where the case failed"""

    def to_json(self) -> dict[str, Any]:
        """The prediction as JSON values."""
        return {
            "id": self.id,
            "case_digest": self.case_digest,
            "T_camera_model": {k: poses.to_matrix(p).tolist() for k, p in self.poses.items()},
            "accepted": self.accepted,
            "expected_tre_mm": self.expected_tre_mm,
            "bound95_mm": self.bound95_mm,
            "levels": {name: asdict(level) for name, level in self.levels.items()},
            "hypotheses": [hypothesis.to_json() for hypothesis in self.hypotheses],
            "seconds": self.seconds,
            "error": self.error,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Prediction:
        """The prediction that :meth:`to_json` wrote.

        Args:
          value: a line of the file.

        Raises:
          ValueError: a matrix is not a rigid pose.
        """
        where = f"prediction of {value['id']}"
        return Prediction(
            id=value["id"],
            poses={k: poses.from_matrix(m, where) for k, m in value["T_camera_model"].items()},
            accepted=value["accepted"],
            expected_tre_mm=value["expected_tre_mm"],
            hypotheses=tuple(
                Hypothesis(poses.from_matrix(h["T_camera_model"], where), h["probability"])
                for h in value["hypotheses"]
            ),
            seconds=value["seconds"],
            error=value["error"],
            case_digest=value.get("case_digest"),
            bound95_mm=value.get("bound95_mm"),
            levels={k: LevelEstimate(**level) for k, level in value.get("levels", {}).items()},
        )


def failed_prediction(failed: Failed) -> Prediction:
    """The prediction of a case that could not be read or registered."""
    return Prediction(
        id=failed.id,
        poses={},
        accepted=False,
        expected_tre_mm=None,
        hypotheses=(),
        seconds=0.0,
        error=failed.message,
    )


def make_prediction(
    result: Registered,
    mask: str,
    calibration: Calibration | None = None,
    *,
    digest: str | None = None,
) -> Prediction:
    """The prediction of a registered case under one mask.

    With a calibration, a pose is accepted if it and each level that it shows are right with the
    probability that the calibration asks for. Without one, it is accepted if enough of the mask's
    points agree. It is never accepted where the frame has another size than the model, or where the
    model's mirror image fits better.

    Args:
      result: the registered case.
      mask: name of the mask.
      calibration: of the trained network.
      digest: of the case; it takes a while, and is the same for all masks.
    """
    levels, hypotheses = result.levels[mask], result.hypotheses[mask]
    inliers = float(np.sum(levels.inlier_weight))
    mask_points = result.mask_points(mask)
    probabilities: list[float | None] = [None] * len(hypotheses.inlier_score)
    precision = result.precisions[mask]
    whole: ErrorEstimate | None = None
    each: list[ErrorEstimate | None] = [None] * len(precision.inliers)
    allowed = result.scales[mask].plausible and not result.is_mirrored(mask)
    accepted = allowed and inliers >= max(MIN_INLIERS, MIN_INLIER_SHARE * mask_points)
    if calibration is not None:
        features = result.hypothesis_features(mask)
        probabilities = hypothesis_probabilities(
            calibration, features, np.asarray(hypotheses.distinct)
        ).tolist()
        best = float(probabilities[0] or 0.0)
        safe = safe_probability(calibration, precision, best)
        accepted = allowed and inliers >= MIN_INLIERS and safe >= calibration.threshold
        settled = settled_probability(calibration, best) if accepted else best
        whole = pose_error(calibration, features[0], precision, settled)
        each = level_errors(calibration, precision, settled)
    return Prediction(
        id=result.case.id,
        poses=level_poses(result.case, levels),
        accepted=accepted,
        expected_tre_mm=whole.expected_mm if whole else None,
        hypotheses=tuple(
            Hypothesis(jax.tree.map(lambda leaf, k=k: leaf[k], hypotheses.pose), probabilities[k])
            for k in np.flatnonzero(hypotheses.distinct)
        ),
        seconds=result.seconds,
        case_digest=case_digest(result.case) if digest is None else digest,
        bound95_mm=whole.bound95_mm if whole else None,
        levels={
            name: LevelEstimate(
                float(points), one.expected_mm if one else None, one.bound95_mm if one else None
            )
            for name, points, one in zip(result.case.model, precision.inliers, each, strict=True)
        },
    )


# Errors -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CaseScores:
    """The errors of one registered case under each mask: a line of ``errors.jsonl``."""

    id: str
    source: str
    """its specimen"""
    keep: dict[str, float]
    """mask name -> share of the points that it keeps"""
    errors: dict[str, CaseErrors]
    """mask name -> errors; empty without a truth"""

    @property
    def specimen(self) -> str:
        """The specimen, or the case's id where none is known; statistics are grouped by it."""
        return str(self.source or self.id)

    def to_json(self) -> dict[str, Any]:
        """The scores as JSON values."""
        errors = {mask: one.to_json() for mask, one in self.errors.items()}
        return {"id": self.id, "source": self.source, "keep": self.keep, **errors}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> CaseScores:
        """The scores that :meth:`to_json` wrote."""
        errors = {k: CaseErrors.from_json(value[k]) for k in value["keep"] if k in value}
        return CaseScores(value["id"], value["source"], value["keep"], errors)


def score_case(result: Registered) -> CaseScores:
    """The scores of a registered case."""
    valid = float(result.cloud.valid.sum())
    keep = {mask: float(weights.sum()) / valid for mask, weights in result.weights.items()}
    return CaseScores(result.case.id, result.case.source, keep, result.errors)


class CaseOutcome(NamedTuple):
    """What a job keeps of one case."""

    predictions: dict[str, Prediction]  # mask name -> prediction, also of a failed case
    scores: CaseScores | None  # None: the case failed


def judge_case(
    result: Registered | Failed, masks: Sequence[str], *, calibration: Calibration | None
) -> CaseOutcome:
    """Predictions and scores of a case, registered or not.

    Args:
      result: of the case.
      masks: that the job registers under.
      calibration: of the trained network.
    """
    if isinstance(result, Failed):
        return CaseOutcome(dict.fromkeys(masks, failed_prediction(result)), None)
    digest = case_digest(result.case)
    predictions = {
        mask: make_prediction(result, mask, calibration, digest=digest) for mask in masks
    }
    return CaseOutcome(predictions, score_case(result))
