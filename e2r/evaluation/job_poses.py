"""Whether two jobs found the same poses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from e2r.evaluation.job_folder import PREDICTIONS


def read_poses(folder: Path) -> list[tuple[str, Any]]:
    """The id and the poses of each line of a job's predictions, in order.

    Args:
      folder: of the job.
    """
    lines = (folder / PREDICTIONS).read_text().splitlines()
    return [(line["id"], line["T_camera_model"]) for line in map(json.loads, lines)]


def pose_difference(expected: list[tuple[str, Any]], found: list[tuple[str, Any]]) -> float:
    """Largest difference of the entries of two jobs' poses.

    Args:
      expected: poses of one job.
      found: poses of another.

    Returns:
      Infinity unless both hold the same cases and levels, once each; 0 where no case has a pose.
    """
    a, b = dict(expected), dict(found)
    if not len(a) == len(b) == len(expected) == len(found) or a.keys() != b.keys():
        return float("inf")
    if any(a[name].keys() != b[name].keys() for name in a):
        return float("inf")
    differences = (
        float(np.abs(np.subtract(a[name][level], b[name][level])).max())
        for name in a
        for level in a[name]
    )
    return max(differences, default=0.0)
