"""The figures of a job: summary, risk and coverage, table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from e2r.config import EvaluationConfig, TrainingConfig, config_to_json
from e2r.evaluation import metrics
from e2r.evaluation.calibration import SUCCESS_THRESHOLD_MM
from e2r.runtime.provenance import versions


def summarise_job(
    lines: Sequence[dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    job: EvaluationConfig,
    config: TrainingConfig,
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
        "trust": risk_coverage(
            [by_id[row["id"]] for row in scored], np.array([row[head]["tre_mm"] for row in scored])
        ),
        "masks": by_mask,
        "by_level": by_level,
        "by_specimen": by_specimen,
        "settings": {
            **origin,
            "job": json.loads(json.dumps(dataclasses.asdict(job), default=str)),
            "config": config_to_json(config),
        },
        "seed": job.seed,
        "versions": versions(),
        "device": str(jax.devices()[0].device_kind),
    }


def risk_coverage(lines: Sequence[dict[str, Any]], tre: np.ndarray) -> dict[str, Any] | None:
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
    wrong = tre >= SUCCESS_THRESHOLD_MM
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


def summary_table(figures: dict[str, Any]) -> str:
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
