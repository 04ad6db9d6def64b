"""Registration errors of one case over its targets, and statistics over many. On the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import trimesh

from e2r.geometry import poses
from e2r.geometry.closest_points import distance_to_mesh
from e2r.types import Bool, Float, Pose

SUCCESS_MM = (2, 3, 5)
"""TRE thresholds of the success rates, mm."""
DEEP_MM = 1.0
"""A target is deep when it lies farther than this from its level's surface, mm."""


@dataclass(frozen=True)
class TargetErrors:
    """The errors of a pose over the targets of one level, or of all levels."""

    tre_mm: float
    """mean over the targets"""
    tre_surface_mm: float | None
    """mean over the targets on the surface; None where there are none"""
    tre_deep_mm: float | None
    """mean over the deep targets; None where there are none"""
    rmse_mm: float
    """root mean square over the targets"""
    rotation_deg: float
    """angle between the predicted and the true rotation, averaged over levels"""
    translation_mm: float
    """error at the level's centroid, averaged over levels"""

    def to_json(self) -> dict[str, Any]:
        """The errors as JSON values."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> TargetErrors:
        """The errors that :meth:`to_json` wrote; other keys are ignored."""
        return TargetErrors(*(value[field.name] for field in dataclasses.fields(TargetErrors)))


@dataclass(frozen=True)
class CaseErrors(TargetErrors):
    """The errors over all targets of a case, and those of each level."""

    by_level: dict[str, TargetErrors]

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> CaseErrors:
        """The errors that :meth:`to_json` wrote; other keys are ignored."""
        return CaseErrors(
            **TargetErrors.from_json(value).to_json(),
            by_level={k: TargetErrors.from_json(v) for k, v in value["by_level"].items()},
        )


def is_deep(mesh: trimesh.Trimesh, targets: Float[np.ndarray, "t 3"]) -> Bool[np.ndarray, "t"]:
    """Which targets lie off the surface, inside the bone.

    Args:
      mesh: the level's surface, mm.
      targets: mm, in the frame of the mesh.
    """
    distances, _ = distance_to_mesh(targets, mesh.vertices, mesh.faces)
    return distances > DEEP_MM


def deep_targets(
    model: Mapping[str, trimesh.Trimesh], targets: Mapping[str, Float[np.ndarray, "_ 3"]]
) -> dict[str, Bool[np.ndarray, "_"]]:
    """Level -> which of its targets are deep, by :func:`is_deep`.

    Args:
      model: level -> surface, mm, model frame.
      targets: level -> targets, mm, model frame.
    """
    return {name: is_deep(model[name], points) for name, points in targets.items()}


def case_errors(
    predicted: Mapping[str, Pose],
    truth: Mapping[str, Pose],
    targets: Mapping[str, Float[np.ndarray, "_ 3"]],
    *,
    model: Mapping[str, trimesh.Trimesh],
    deep: Mapping[str, Bool[np.ndarray, "_"]] | None = None,
) -> CaseErrors:
    """The errors of one case.

    Args:
      predicted: level -> predicted pose, camera from model.
      truth: level -> true pose, camera from model.
      targets: level -> targets, mm, model frame; only these levels are scored.
      model: level -> surface, mm, model frame.
      deep: level -> :func:`is_deep` of its targets, where it is known already.
    """
    if deep is None:
        deep = deep_targets(model, targets)
    distances: list[np.ndarray] = []
    by_level = {}
    for name, points in targets.items():
        found, true = predicted[name], truth[name]
        apart = distances_apart(found, true, points)
        centroid = np.asarray(model[name].centroid)[None]
        relative = np.asarray(found.rotation, np.float64) @ np.asarray(true.rotation, np.float64).T
        by_level[name] = _target_errors(
            apart,
            deep[name],
            rotation_deg=float(np.rad2deg(poses.rotation_angle(relative))),
            translation_mm=float(distances_apart(found, true, centroid)[0]),
        )
        distances.append(apart)
    levels = by_level.values()
    whole = _target_errors(
        np.concatenate(distances),
        np.concatenate([deep[name] for name in targets]),
        rotation_deg=float(np.mean([level.rotation_deg for level in levels])),
        translation_mm=float(np.mean([level.translation_mm for level in levels])),
    )
    return CaseErrors(**whole.to_json(), by_level=by_level)


def distances_apart(a: Pose, b: Pose, points: np.ndarray) -> np.ndarray:
    """Distance between the places where two poses put each point, mm.

    Args:
      a: a pose.
      b: another one.
      points: mm, in the frame that both map from.
    """
    return np.linalg.norm(poses.apply_host(a, points) - poses.apply_host(b, points), axis=1)


def _target_errors(
    distances: np.ndarray, deep: np.ndarray, *, rotation_deg: float, translation_mm: float
) -> TargetErrors:
    """The errors over targets whose distances (mm) from their true places are given."""
    return TargetErrors(
        tre_mm=float(distances.mean()),
        tre_surface_mm=float(distances[~deep].mean()) if (~deep).any() else None,
        tre_deep_mm=float(distances[deep].mean()) if deep.any() else None,
        rmse_mm=float(np.sqrt(np.mean(distances**2))),
        rotation_deg=rotation_deg,
        translation_mm=translation_mm,
    )


# Statistics ---------------------------------------------------------------------------------------

Interval = tuple[float, float]
"""Lower and upper end."""
Statistic = Callable[[Float[np.ndarray, "*draws n"]], Any]
"""A figure of n values, or of each of many draws of them."""
STATISTICS: dict[str, Statistic] = {
    "median": partial(np.median, axis=-1),
    "mean": partial(np.mean, axis=-1),
    "p95": partial(np.quantile, q=0.95, axis=-1),
}
"""The statistics of the TRE that have an interval."""


@dataclass(frozen=True)
class ErrorSummary:
    """Statistics of the errors of one case or more."""

    count: int
    tre_mm: dict[str, float]
    """the :data:`STATISTICS`"""
    tre_interval95: dict[str, Interval]
    """their 95 % bootstrap intervals, mm"""
    tre_surface_mm: float | None
    """median; None where no case has such targets"""
    tre_deep_mm: float | None
    """median; None where no case has such targets"""
    rmse_mm: float
    """mean"""
    rotation_deg: float
    """median"""
    translation_mm: float
    """median"""
    success: dict[str, float]
    """share of the cases below each of :data:`SUCCESS_MM`, by ``"2mm"`` and so on"""


def bootstrap(
    values: Float[np.ndarray, "n"],
    groups: Sequence[str],
    statistic: Statistic,
    *,
    seed: int,
    draws: int = 1000,
) -> Interval:
    """95 % bootstrap interval of a statistic; draws specimens, since frames of one are alike.

    Args:
      values: one of each frame.
      groups: specimen of each value. With one specimen alone, its frames are drawn.
      statistic: of the drawn values.
      seed: seed of the draws.
      draws: number of draws.
    """
    rng = np.random.default_rng(seed)
    rows: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        rows.setdefault(group, []).append(i)
    blocks = [*rows.values()] if len(rows) > 1 else [[i] for i in range(len(values))]
    picks = rng.integers(0, len(blocks), (draws, len(blocks)))
    sizes = np.array([len(block) for block in blocks])
    counts = sizes[picks]
    # All draws in one row: where each drawn block begins in the blocks' order, and its values.
    begins = np.repeat((np.cumsum(sizes) - sizes)[picks], counts.ravel())
    places = np.arange(len(begins)) - np.repeat(np.cumsum(counts) - counts.ravel(), counts.ravel())
    drawn = values[np.concatenate(blocks)][begins + places]
    totals = counts.sum(axis=1)
    ends = np.cumsum(totals)
    found = np.empty(draws)
    for total in np.unique(totals):  # draws of as many values are one array
        chosen = totals == total
        found[chosen] = statistic(drawn[(ends[chosen] - total)[:, None] + np.arange(total)])
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def summarise(
    errors: Sequence[TargetErrors], groups: Sequence[str], *, seed: int
) -> ErrorSummary | None:
    """Statistics over cases, or over levels; None without any.

    Args:
      errors: of each case or level.
      groups: specimen of each.
      seed: seed of the bootstrap.
    """
    if not errors:
        return None
    tre = np.array([one.tre_mm for one in errors])

    def median(name: str) -> float | None:
        known = [value for one in errors if (value := getattr(one, name)) is not None]
        return float(np.median(known)) if known else None

    return ErrorSummary(
        count=len(errors),
        tre_mm={name: float(statistic(tre)) for name, statistic in STATISTICS.items()},
        tre_interval95={
            name: bootstrap(tre, groups, statistic, seed=seed)
            for name, statistic in STATISTICS.items()
        },
        tre_surface_mm=median("tre_surface_mm"),
        tre_deep_mm=median("tre_deep_mm"),
        rmse_mm=float(np.mean([one.rmse_mm for one in errors])),
        rotation_deg=float(np.median([one.rotation_deg for one in errors])),
        translation_mm=float(np.median([one.translation_mm for one in errors])),
        success={f"{mm}mm": float(np.mean(tre < mm)) for mm in SUCCESS_MM},
    )


def summary_to_json(summary: ErrorSummary | None) -> dict[str, Any]:
    """The statistics as JSON values; ``{"count": 0}`` without any case."""
    if summary is None:
        return {"count": 0}
    intervals = {name: list(interval) for name, interval in summary.tre_interval95.items()}
    return {
        "count": summary.count,
        "tre_mm": {**summary.tre_mm, "interval95": intervals},
        "tre_surface_mm": {"median": summary.tre_surface_mm},
        "tre_deep_mm": {"median": summary.tre_deep_mm},
        "rmse_mm": summary.rmse_mm,
        "rotation_deg": summary.rotation_deg,
        "translation_mm": summary.translation_mm,
        "success": summary.success,
    }
