"""What an evaluation came to: one case's result, its prediction on disk, the figures of a job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from e2r.datasets.case import Case
from e2r.evaluation.calibration import (
    Calibration,
    expected_tre,
    hypothesis_features,
    hypothesis_probabilities,
    inlier_shares,
)
from e2r.geometry import poses
from e2r.types import Cloud, Hypotheses, LevelPoses, Pose, Registration

LEAST_EVIDENCE = 20.0
LEAST_AGREEMENT = 0.55
"""Without a calibration a prediction is accepted when so many points, and such a share of the
mask's points, agree with the model (robust inlier weight at the last step). The share lies above
all of 47 wrong results on 96 simulated cases of seed 5, and below four fifths of the right ones."""


class Registered(NamedTuple):
    """What one case came to."""

    case: Case
    cloud: Cloud  # all views in one
    rows: np.ndarray  # (V * N,) row of each point in the case, -1 where padded
    registrations: dict[str, Registration]  # mask name -> result of the whole model
    levels: dict[str, LevelPoses]  # mask name -> one pose a level of the case
    hypotheses: dict[str, Hypotheses]  # mask name -> where the whole model may be
    weights: dict[str, np.ndarray]  # mask name -> (N,)
    errors: dict[str, dict[str, Any]]  # mask name -> metrics.case_errors; empty without truth
    num_degenerate: int  # triangles of the model without area, which were left out
    seconds: float  # its two looks on the host, and its share of the batch's time on the device

    def kept(self, mask: str) -> float:
        """How many points a mask keeps."""
        return float(self.weights[mask].sum())

    def share(self, mask: str) -> float:
        """Which share of a mask's points agrees with the best hypothesis, 0 to 1."""
        return float(inlier_shares(self.hypotheses[mask].inlier_score, self.kept(mask))[0])


def level_poses(case: Case, levels: LevelPoses) -> dict[str, Pose]:
    """Level name -> camera-from-model pose; a job without poses by level has one for all."""
    last = len(levels.pose.translation) - 1
    return {
        name: jax.tree.map(lambda leaf, i=i: leaf[min(i, last)], levels.pose)
        for i, name in enumerate(case.model)
    }


def error_line(result: Registered) -> dict[str, Any]:
    """One line of ``errors.jsonl``: of each mask the share of points it keeps, and how far off the
    case is under it, as far as there is a truth."""
    valid = float(result.cloud.valid.sum())
    keep = {mask: float(w.sum()) / valid for mask, w in result.weights.items()}
    case = result.case
    return {"id": case.id, "source": case.source, "keep": keep, **result.errors}


def prediction_line(
    result: Registered, mask: str, calibration: Calibration | None = None
) -> dict[str, Any]:
    """One line of ``predictions.jsonl``.

    ``accepted`` says that the pose is right as probably as the calibration asks; without one, that
    enough points agree. ``hypotheses`` are the poses of the whole model that the search ended with,
    each with the probability that it is right; what they leave to 1 is that none is.
    """
    found = level_poses(result.case, result.levels[mask])
    evidence = float(np.sum(result.levels[mask].inlier_weight))
    kept = result.kept(mask)
    several = result.hypotheses[mask]
    chances: list[float | None] = [None] * len(several.inlier_score)
    expected = None
    accepted = evidence >= max(LEAST_EVIDENCE, LEAST_AGREEMENT * kept)
    if calibration is not None:
        told = (np.asarray(several.inlier_score), np.asarray(several.distinct), kept)
        chances = hypothesis_probabilities(calibration, *told).tolist()
        first = float(chances[0] or 0.0)
        expected = expected_tre(calibration, hypothesis_features(*told)[0], first)
        accepted = evidence >= LEAST_EVIDENCE and first >= calibration.threshold
    return {
        "id": result.case.id,
        "T_camera_model": {name: poses.to_matrix(p).tolist() for name, p in found.items()},
        "accepted": accepted,
        "expected_tre_mm": expected,
        "hypotheses": [
            {
                "T_camera_model": poses.to_matrix(
                    jax.tree.map(lambda leaf, k=k: leaf[k], several.pose)
                ).tolist(),
                "probability": chances[k],
            }
            for k in np.flatnonzero(several.distinct)
        ],
        "seconds": result.seconds,
        "error": None,
    }


def read_prediction(path: Path, identity: str) -> dict[str, Pose]:
    """The last prediction of a case in a file of :func:`prediction_line` lines: level -> pose.

    Raises:
      ValueError: no such file, a broken line, or no prediction of this case.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run python -m e2r register first")
    found = None
    for number, line in enumerate(
        path.read_text(encoding="utf-8", errors="replace").splitlines(), 1
    ):
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            raise ValueError(f"{path}: line {number} is not JSON; delete it") from None
        if isinstance(value, dict) and value.get("id") == identity:
            found = value
    if found is None:
        raise ValueError(f"{path}: has no prediction of {identity}; register it first")
    matrices = found.get("T_camera_model")
    if not isinstance(matrices, dict) or not matrices:
        raise ValueError(
            f"{path}: {identity} has no poses ({found.get('error')}); register it again"
        )
    return {
        str(name): poses.from_matrix(matrix, f"{path}: {identity}: {name}")
        for name, matrix in matrices.items()
    }


def failure_line(identity: str, message: str) -> dict[str, Any]:
    """The line of a case that could not be registered."""
    return {
        "id": identity,
        "T_camera_model": {},
        "accepted": False,
        "expected_tre_mm": None,
        "hypotheses": [],
        "seconds": 0.0,
        "error": message,
    }
