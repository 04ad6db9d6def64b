"""What an evaluation came to: one case's result, its prediction on disk, the figures of a job."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import trimesh

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
    seconds: float  # sampling and neighbours, then its share of the batch, all masks together


def level_poses(case: cases.Case, levels: Levels) -> dict[str, Pose]:
    """Level name -> camera-from-model pose; a job without poses by level has one for all."""
    last = len(levels.pose.translation) - 1
    return {
        name: jax.tree.map(lambda leaf, i=i: leaf[min(i, last)], levels.pose)
        for i, name in enumerate(case.model)
    }


def slim(result: Result) -> Result:
    """A result without scene, model and pictures: enough for :func:`summary`, and small."""
    case, none = result.case, np.zeros((0, 3), np.float32)
    bare = dataclasses.replace(
        case, points=none, colors=none, normals=None, picture=None, targets=None, bone=None,
        model={name: trimesh.Trimesh() for name in case.model},
    )  # fmt: skip
    return result._replace(
        case=bare, cloud=Cloud(none, none, none, result.cloud.valid), registrations={}
    )


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
    kept = float(result.weights[mask].sum())
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
    results: Sequence[Result],
    failed: int,
    job: Job,
    config: configs.Config,
    origin: dict[str, Any],
    calibration: confidence.Calibration | None = None,
) -> dict[str, Any]:
    """All figures of a job; those at the top level are of the learnt mask if it ran.

    Args:
      results: one a registered case.
      failed: number of cases that were not.
      job, config: the settings.
      origin: where the cases and the checkpoint come from.
      calibration: of the checkpoint, if it has one.
    """
    head = job.head
    lines = [prediction(r, head, calibration) for r in results]
    seconds = np.array([r.seconds for r in results]) if results else np.zeros(1)
    warm = seconds[job.batch :] if len(seconds) > job.batch else seconds
    scored = [r for r in results if r.errors]
    groups = [r.case.source or r.case.id for r in scored]

    def figures(mask: str) -> dict[str, Any]:
        return metrics.summarise([r.errors[mask] for r in scored], groups, seed=job.seed)

    levels = sorted({name for r in scored for name in r.errors[head]["by_level"]})
    by_level, by_specimen = {}, {}
    for level in levels:
        rows = [r for r in scored if level in r.errors[head]["by_level"]]
        by_level[level] = metrics.summarise(
            [r.errors[head]["by_level"][level] for r in rows],
            [r.case.source or r.case.id for r in rows],
            seed=job.seed,
        )
    for group in sorted(set(groups)):
        rows = [r for r, g in zip(scored, groups, strict=True) if g == group]
        by_specimen[group] = metrics.summarise(
            [r.errors[head] for r in rows], [r.case.id for r in rows], seed=job.seed
        )
    by_mask = {mask: figures(mask) for mask in job.masks}
    for mask in job.masks:
        by_mask[mask]["keep"] = (
            float(np.mean([r.weights[mask].sum() / r.cloud.valid.sum() for r in results]))
            if results
            else None
        )
    top = {k: v for k, v in by_mask[head].items() if k not in ("count", "keep")}
    return {
        "cases": len(results) + failed,
        "predicted": len(results),
        "failed": failed,
        "accepted": sum(line["accepted"] for line in lines),
        "mask": head,
        **top,
        "seconds_per_frame": {
            "median": float(np.median(warm)),
            "p95": float(np.quantile(warm, 0.95)),
            "first": float(seconds[0] * min(job.batch, max(1, len(results)))),
        },
        "trust": trust(
            [line for line, r in zip(lines, results, strict=True) if r.errors],
            np.array([r.errors[head]["tre_mm"] for r in scored]),
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
