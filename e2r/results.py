"""What an evaluation came to: one case's result, its prediction on disk, the figures of a job."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from e2r import confidence, configs, metrics
from e2r.datasets import cases
from e2r.geometry import poses
from e2r.jobs import Job
from e2r.types import Cloud, Hypotheses, Levels, Pose, Registration

LEAST_EVIDENCE = 20.0
LEAST_AGREEMENT = 0.55
"""Without a calibration a prediction is accepted when so many points, and such a share of the
mask's points, agree with the model (robust inlier weight at the last step). The share lies above
all of 47 wrong results on 96 simulated cases of seed 5, and below four fifths of the right ones."""


class Result(NamedTuple):
    """What one case came to."""

    case: cases.Case
    cloud: Cloud  # all views in one
    rows: np.ndarray  # (V * N,) row of each point in the case, -1 where padded
    registrations: dict[str, Registration]  # mask name -> result of the whole model
    levels: dict[str, Levels]  # mask name -> one pose a level of the case
    hypotheses: dict[str, Hypotheses]  # mask name -> where the whole model may be
    weights: dict[str, np.ndarray]  # mask name -> (N,)
    errors: dict[str, dict[str, Any]]  # mask name -> metrics.case_errors; empty without truth
    dropped: int  # triangles of the model without area, which were left out
    seconds: float  # its two looks on the host, and its share of the batch's time on the device

    def kept(self, mask: str) -> float:
        """How many points a mask keeps."""
        return float(self.weights[mask].sum())

    def share(self, mask: str) -> float:
        """Which share of a mask's points agrees with the best hypothesis, 0 to 1."""
        return float(confidence.shares(self.hypotheses[mask].agreement, self.kept(mask))[0])


def level_poses(case: cases.Case, levels: Levels) -> dict[str, Pose]:
    """Level name -> camera-from-model pose; a job without poses by level has one for all."""
    last = len(levels.pose.translation) - 1
    return {
        name: jax.tree.map(lambda leaf, i=i: leaf[min(i, last)], levels.pose)
        for i, name in enumerate(case.model)
    }


def scores(result: Result) -> dict[str, Any]:
    """One line of ``errors.jsonl``: of each mask the share of points it keeps, and how far off the
    case is under it, as far as there is a truth."""
    valid = float(result.cloud.valid.sum())
    keep = {mask: float(w.sum()) / valid for mask, w in result.weights.items()}
    case = result.case
    return {"id": case.id, "source": case.source, "keep": keep, **result.errors}


def prediction(
    result: Result, mask: str, calibration: confidence.Calibration | None = None
) -> dict[str, Any]:
    """One line of ``predictions.jsonl``.

    ``accepted`` says that the pose is right as probably as the calibration asks; without one, that
    enough points agree. ``hypotheses`` are the poses of the whole model that the search ended with,
    each with the probability that it is right; what they leave to 1 is that none is.
    """
    found = level_poses(result.case, result.levels[mask])
    evidence = float(np.sum(result.levels[mask].evidence))
    kept = result.kept(mask)
    several = result.hypotheses[mask]
    chances: list[float | None] = [None] * len(several.agreement)
    expected = None
    accepted = evidence >= max(LEAST_EVIDENCE, LEAST_AGREEMENT * kept)
    if calibration is not None:
        told = (np.asarray(several.agreement), np.asarray(several.distinct), kept)
        chances = confidence.probabilities(calibration, *told).tolist()
        first = float(chances[0] or 0.0)
        expected = confidence.expected_tre(calibration, confidence.features(*told)[0], first)
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
    """The last prediction of a case in a file of :func:`prediction` lines: level -> pose.

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


def failure(identity: str, message: str) -> dict[str, Any]:
    """The line of a case that could not be registered."""
    return {
        "id": identity, "T_camera_model": {}, "accepted": False, "expected_tre_mm": None,
        "hypotheses": [], "seconds": 0.0, "error": message,
    }  # fmt: skip


def summary(
    lines: Sequence[dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    job: Job,
    config: configs.Config,
    origin: dict[str, Any],
) -> dict[str, Any]:
    """All figures of a job; those at the top level are of the learnt mask if it ran.

    Args:
      lines: :func:`prediction` of each registered case, :func:`failure` of each other one.
      rows: :func:`scores` of each registered case.
      job, config: the settings.
      origin: where the cases and the checkpoint come from.
    """
    head = job.head
    good = [line for line in lines if line["error"] is None]
    seconds = np.array([line["seconds"] for line in good] or [0.0])
    warm = seconds[job.batch :] if len(seconds) > job.batch else seconds
    scored = [row for row in rows if head in row]
    by_id = {line["id"]: line for line in good}

    def group(row: dict[str, Any]) -> str:
        return str(row["source"] or row["id"])

    def keep(mask: str) -> float | None:
        return float(np.mean([row["keep"][mask] for row in rows])) if rows else None

    def figures(some: Sequence[dict[str, Any]], groups: Sequence[str]) -> dict[str, Any]:
        return metrics.summarise(some, groups, seed=job.seed)

    groups = [group(row) for row in scored]
    by_level, by_specimen = {}, {}
    for level in sorted({name for row in scored for name in row[head]["by_level"]}):
        here = [row for row in scored if level in row[head]["by_level"]]
        by_level[level] = figures(
            [row[head]["by_level"][level] for row in here], [group(row) for row in here]
        )
    for name in sorted(set(groups)):
        here = [row for row in scored if group(row) == name]
        by_specimen[name] = figures([row[head] for row in here], [row["id"] for row in here])
    by_mask = {
        mask: {**figures([row[mask] for row in scored], groups), "keep": keep(mask)}
        for mask in job.masks
    }
    top = {k: v for k, v in by_mask[head].items() if k not in ("count", "keep")}
    return {
        "cases": len(lines),
        "predicted": len(good),
        "failed": len(lines) - len(good),
        "accepted": sum(line["accepted"] for line in good),
        "mask": head,
        **top,
        "seconds_per_frame": {
            "median": float(np.median(warm)),
            "p95": float(np.quantile(warm, 0.95)),
            "first": float(seconds[0] * min(job.batch, max(1, len(good)))),
        },
        "trust": trust(
            [by_id[row["id"]] for row in scored], np.array([row[head]["tre_mm"] for row in scored])
        ),
        "masks": by_mask,
        "by_level": by_level,
        "by_specimen": by_specimen,
        "settings": {
            **origin,
            "job": json.loads(json.dumps(dataclasses.asdict(job), default=str)),
            "config": configs.to_settings(config),
        },
        "seed": job.seed,
        "versions": configs.versions(),
        "device": str(jax.devices()[0].device_kind),
    }


def trust(lines: Sequence[dict[str, Any]], tre: np.ndarray) -> dict[str, Any] | None:
    """What the predictions' own words are worth, where the truth is known.

    Args:
      lines: :func:`prediction` of each case.
      tre: (n,) mm, of each.

    Returns:
      ``coverage`` (share accepted), ``wrong`` (share of the accepted that is 5 mm off or more),
      and, with a calibration, the risk-coverage ``curve``: of the cases from the least expected TRE
      on, the share that is 5 mm off or more. None without cases.
    """
    if not lines:
        return None
    accepted = np.array([line["accepted"] for line in lines])
    wrong = tre >= confidence.RIGHT_MM
    curve = None
    if all(line["expected_tre_mm"] is not None for line in lines):
        expected = np.array([line["expected_tre_mm"] for line in lines])
        order = np.argsort(expected, kind="stable")
        count = np.arange(1, len(order) + 1)
        curve = {
            "coverage": (count / len(order)).round(5).tolist(),
            "wrong": (np.cumsum(wrong[order]) / count).round(5).tolist(),
            "expected_tre_mm": expected[order].round(4).tolist(),
        }
    return {
        "coverage": float(accepted.mean()),
        "wrong": float(wrong[accepted].mean()) if accepted.any() else None,
        "curve": curve,
    }


def table(figures: dict[str, Any]) -> str:
    """The masks' figures as a table of text."""
    lines = [
        f"{'mask':8s} {'cases':>5s} {'keep':>6s}   {'median TRE [95 % interval]':>28s} "
        f"{'mean':>8s} {'p95':>8s}   {'<2 mm':>6s} {'<3 mm':>6s} {'<5 mm':>6s}"
    ]
    for name, value in figures["masks"].items():
        if not value.get("count"):
            lines.append(f"{name:8s}     0   no case has a truth to compare with")
            continue
        tre, hit = value["tre_mm"], value["success"]
        low, high = tre["interval95"]["median"]
        middle = f"{tre['median']:.2f} mm [{low:.2f}, {high:.2f}]"
        lines.append(
            f"{name:8s} {value['count']:5d} {value['keep']:6.1%}   {middle:>28s} "
            f"{tre['mean']:8.2f} {tre['p95']:8.2f}   "
            + " ".join(f"{hit[k]:6.1%}" for k in ("2mm", "3mm", "5mm"))
        )
    told = figures["trust"]
    if told is not None and told["wrong"] is not None:
        lines.append(
            f"accepted: {told['coverage']:.1%} of the cases, of which {told['wrong']:.1%} are 5 mm "
            "off or more"
        )
    return "\n".join(lines)
