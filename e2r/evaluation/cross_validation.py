"""Cross-validation over the specimens of a data set: its folds, and figures over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from e2r.evaluation import metrics


class Fold(NamedTuple):
    """One split of a data set into training and evaluation."""

    name: str
    held_out: frozenset[str]  # sources (specimens, sequences) that are evaluated, not trained on


def leave_one_out(sources: Iterable[str]) -> list[Fold]:
    """One fold for each source, in alphabetical order.

    Args:
      sources: specimens or sequences.
    """
    return [Fold(name, frozenset({name})) for name in sorted(sources)]


class PoseLimits(NamedTuple):
    """A case is registered where both errors are below these."""

    translation_mm: float
    rotation_deg: float


def grouped_figures(
    rows: Sequence[Mapping[str, Any]], *, seed: int, limits: PoseLimits
) -> dict[str, Any]:
    """Statistics over all cases, by level and by source.

    Args:
      rows: for each case its ``source`` and its errors, as :meth:`metrics.CaseErrors.to_json`
        writes them.
      seed: of the bootstrap.
      limits: of a registered case.

    Returns:
      ``all``, ``by_level`` and ``by_source``: the statistics of :func:`metrics.summarise` with
      ``registered``, the share of cases within the limits.
    """
    levels: dict[str, list[dict[str, Any]]] = {}
    sources: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        sources.setdefault(row["source"], []).append(row)
        for name, errors in row["by_level"].items():
            levels.setdefault(name, []).append({**errors, "source": row["source"]})

    def figures(group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        errors = [metrics.TargetErrors.from_json(row) for row in group]
        specimens = [str(row["source"]) for row in group]
        found = metrics.summary_to_json(metrics.summarise(errors, specimens, seed=seed))
        registered = [
            error.translation_mm < limits.translation_mm
            and error.rotation_deg < limits.rotation_deg
            for error in errors
        ]
        return found | {"registered": sum(registered) / len(group) if group else None}

    return {
        "all": figures(rows),
        "by_level": {name: figures(levels[name]) for name in sorted(levels)},
        "by_source": {name: figures(sources[name]) for name in sorted(sources)},
    }
