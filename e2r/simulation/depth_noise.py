"""Noise in the depth of a case's points, added to that of its sensor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from e2r.datasets.case import Case


def add_noise(case: Case, mm: float, rng: np.random.Generator) -> Case:
    """Moves each point along its ray, by Gaussian noise in its depth.

    Args:
      case: the case.
      mm: standard deviation of the noise.
      rng: draws the noise.
    """
    shift = mm * rng.standard_normal((len(case.points), 1))
    points = case.points * (1.0 + shift / case.points[:, 2:])
    return replace(case, points=points, normals=None, image=None) if mm else case
