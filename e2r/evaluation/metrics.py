"""How far off a registration is: errors of one case, statistics over many. On the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import igl
import numpy as np
import trimesh

from e2r.types import Pose

SUCCESS_MM = (2, 3, 5)
DEEP_MM = 1.0
"""A target farther than this from its level's surface is a deep one."""


def is_deep(mesh: trimesh.Trimesh, targets: np.ndarray) -> np.ndarray:
    """Which targets (T, 3) lie off the surface (in the bone), (T,) bool."""
    squared = igl.point_mesh_squared_distance(
        np.ascontiguousarray(targets, np.float64),
        np.ascontiguousarray(mesh.vertices, np.float64),
        np.ascontiguousarray(mesh.faces, np.int64),
    )[0]
    return np.asarray(squared) > DEEP_MM**2


def case_errors(
    predicted: Mapping[str, Pose],
    truth: Mapping[str, Pose],
    targets: Mapping[str, np.ndarray],
    model: Mapping[str, trimesh.Trimesh],
) -> dict[str, Any]:
    """Errors of one case over its targets, and the same by level.

    Args:
      predicted, truth: level -> camera-from-model pose.
      targets: level -> (T, 3) mm, model frame; only these levels are scored.
      model: level -> surface, mm, model frame.

    Returns:
      ``tre_mm`` (mean over targets), ``tre_surface_mm`` and ``tre_deep_mm`` (null where a level
      has none), ``rmse_mm``, ``rotation_deg``, ``translation_mm`` (at the level's centroid,
      averaged over levels) and ``by_level`` with the same of each.
    """
    every: list[np.ndarray] = []
    deep: list[np.ndarray] = []
    by_level = {}
    for name, points in targets.items():
        a, b = predicted[name], truth[name]
        errors = np.linalg.norm(_move(a, points) - _move(b, points), axis=1)
        inside = is_deep(model[name], points)
        middle = np.asarray(model[name].centroid)[None]
        relative = np.asarray(a.rotation, np.float64) @ np.asarray(b.rotation, np.float64).T
        by_level[name] = {
            **_target_figures(errors, inside),
            "rotation_deg": _angle(relative),
            "translation_mm": float(np.linalg.norm(_move(a, middle) - _move(b, middle))),
        }
        every.append(errors)
        deep.append(inside)
    errors, inside = np.concatenate(every), np.concatenate(deep)
    return {
        **_target_figures(errors, inside),
        "rotation_deg": float(np.mean([level["rotation_deg"] for level in by_level.values()])),
        "translation_mm": float(np.mean([v["translation_mm"] for v in by_level.values()])),
        "by_level": by_level,
    }


def _move(pose: Pose, points: np.ndarray) -> np.ndarray:
    rotation = np.asarray(pose.rotation, np.float64)
    moved: np.ndarray = points @ rotation.T + np.asarray(pose.translation, np.float64)
    return moved


def _angle(rotation: np.ndarray) -> float:
    skew = rotation - rotation.T
    sine = 0.5 * np.linalg.norm([skew[2, 1], skew[0, 2], skew[1, 0]])
    return float(np.rad2deg(np.arctan2(sine, 0.5 * (np.trace(rotation) - 1.0))))


def _target_figures(errors: np.ndarray, deep: np.ndarray) -> dict[str, float | None]:
    return {
        "tre_mm": float(errors.mean()),
        "tre_surface_mm": float(errors[~deep].mean()) if (~deep).any() else None,
        "tre_deep_mm": float(errors[deep].mean()) if deep.any() else None,
        "rmse_mm": float(np.sqrt(np.mean(errors**2))),
    }


def bootstrap(
    values: np.ndarray,
    groups: Sequence[str],
    statistic: Callable[[np.ndarray], float],
    *,
    seed: int,
    draws: int = 1000,
) -> list[float]:
    """95 % interval of a statistic, by redrawing whole specimens (frames of one are related).

    Args:
      values: (n,).
      groups: specimen of each value.
      statistic: of a vector.
      seed: of the redraws.
      draws: number of redraws.
    """
    rng = np.random.default_rng(seed)
    rows: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        rows.setdefault(group, []).append(i)
    blocks = [np.array(block) for block in rows.values()]
    if len(blocks) == 1:  # one specimen alone says nothing of others: redraw its frames
        blocks = [np.array([i]) for i in range(len(values))]
    found = []
    for _ in range(draws):
        pick = rng.integers(0, len(blocks), len(blocks))
        found.append(statistic(values[np.concatenate([blocks[i] for i in pick])]))
    low, high = np.quantile(found, [0.025, 0.975])
    return [float(low), float(high)]


def summarise(errors: Sequence[Mapping[str, Any]], groups: Sequence[str], *, seed: int) -> dict:
    """Figures over cases: TRE with intervals, RMSE, rotation, translation, success rates.

    Args:
      errors: one of :func:`case_errors` a case (or a level), none empty.
      groups: specimen of each.
      seed: of the bootstrap.
    """
    if not errors:
        return {"count": 0}
    tre = np.array([e["tre_mm"] for e in errors])
    statistics: dict[str, Callable[[np.ndarray], float]] = {
        "median": lambda v: float(np.median(v)),
        "mean": lambda v: float(np.mean(v)),
        "p95": lambda v: float(np.quantile(v, 0.95)),
    }
    figures: dict[str, Any] = {name: f(tre) for name, f in statistics.items()}
    figures["interval95"] = {
        name: bootstrap(tre, groups, f, seed=seed) for name, f in statistics.items()
    }

    def median(name: str) -> float | None:
        found = [e[name] for e in errors if e[name] is not None]
        return float(np.median(found)) if found else None

    return {
        "count": len(errors),
        "tre_mm": figures,
        "tre_surface_mm": {"median": median("tre_surface_mm")},
        "tre_deep_mm": {"median": median("tre_deep_mm")},
        "rmse_mm": float(np.mean([e["rmse_mm"] for e in errors])),
        "rotation_deg": median("rotation_deg"),
        "translation_mm": median("translation_mm"),
        "success": {f"{mm}mm": float(np.mean(tre < mm)) for mm in SUCCESS_MM},
    }
