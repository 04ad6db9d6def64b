"""The figures of one registration, level by level: of the levels that the camera sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from e2r.datasets import case_folder
from e2r.datasets.case import Case
from e2r.evaluation.predictions import Prediction
from e2r.evaluation.results import Registered
from e2r.evaluation.visible import visible_levels
from e2r.formats import file_checks
from e2r.geometry import poses

MOVED_MM = 0.1
"""Levels moved if their true poses carry the model's centre to places farther apart than this."""


def find_scored_cases(folder: Path) -> list[Path]:
    """The folders of cases with a truth.

    Args:
      folder: that holds them.

    Raises:
      ValueError: it holds none, or one without a truth.
    """
    folders = list(case_folder.find_cases(folder))
    for case in folders:
        if not (case / "truth.json").is_file():
            raise ValueError(f"{case}: has no truth.json to be scored by; leave the case out")
    return folders


def judge(arm: str, result: Registered, prediction: Prediction) -> dict[str, Any]:
    """The figures of one registration.

    Args:
      arm: its name.
      result: of a case with a truth.
      prediction: made of it.
    """
    case, errors = result.case, result.errors["learnt"].by_level
    seen = [name for name in scored_levels(case) if name in errors] or [*errors]
    return {
        "arm": arm,
        "id": case.id,
        "moved": has_moved(case),
        "accepted": prediction.accepted,
        "expected_tre_mm": prediction.expected_tre_mm,
        "levels": {
            name: {
                "tre_mm": errors[name].tre_mm,
                "expected_tre_mm": prediction.levels[name].expected_tre_mm,
                "bound95_mm": prediction.levels[name].bound95_mm,
            }
            for name in seen
        },
        "off_scene_mm": off_scene(case, prediction),
        "seconds": result.seconds,
    }


def scored_levels(case: Case) -> list[str]:
    """The levels that are scored: those of ``truth.json``'s ``visible``, or those seen.

    Args:
      case: with a truth.
    """
    if case.folder is not None:
        listed = file_checks.read_json(case.folder / "truth.json").get("visible")
        if listed:
            return [str(name) for name in listed]
    return sorted(visible_levels(case)) if case.bone is not None else sorted(case.truth or {})


def has_moved(case: Case) -> bool:
    """Whether the levels moved against each other since the scan.

    Args:
      case: with a truth.
    """
    centre = np.mean([mesh.centroid for mesh in case.model.values()], axis=0)[None]
    places = [poses.apply_host(pose, centre)[0] for pose in (case.truth or {}).values()]
    return bool(len(places) > 1 and np.ptp(places, axis=0).max() > MOVED_MM)


def off_scene(case: Case, prediction: Prediction) -> float:
    """Distance from the nearest scene point to the posed model's nearest level centre, mm."""
    tree = cKDTree(case.points)
    return float(
        min(
            tree.query(poses.apply_host(pose, np.asarray(case.model[name].centroid)[None]))[0][0]
            for name, pose in prediction.poses.items()
        )
    )


def percent(hits: Sequence[bool] | np.ndarray) -> float | None:
    """A share in per cent, to one digit; None of nothing.

    Args:
      hits: true or false, or shares from 0 to 1.
    """
    return round(100.0 * float(np.mean(hits)), 1) if len(hits) else None
