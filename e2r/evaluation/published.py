"""Published figures of other methods, shown beside ours: the only place that states them."""

from __future__ import annotations

from typing import NamedTuple


class PublishedFigure(NamedTuple):
    """One figure that a method reached on a data set."""

    method: str
    data: str
    measure: str
    mm: float
    summary_keys: tuple[str, ...]  # where the same measure stands in a job's summary.json


PUBLISHED: dict[str, tuple[PublishedFigure, ...]] = {
    "spinedepth": (
        PublishedFigure(
            "End2Reg, Pettinari et al. 2025",
            "SpineDepth, ex vivo",
            "median TRE",
            1.83,
            ("tre_mm", "median"),
        ),
        PublishedFigure(
            "Liebmann et al.", "SpineDepth, ex vivo", "TRE", 2.73, ("tre_mm", "median")
        ),
    ),
    "pairs": (),
    "spinealign": (
        PublishedFigure(
            "End2Reg, Pettinari et al. 2025", "SpineAlign, in vivo", "mean RMSE", 3.95, ("rmse_mm",)
        ),
    ),
}
"""Data set, as ``experiments.protocol`` names it -> its figures."""

SPINEDEPTH_LABEL_FLOOR_MM = 1.5
"""Mean TRE of SpineDepth's own ground truth (Liebmann et al., J. Imaging 2021, abstract)."""


def all_published() -> list[PublishedFigure]:
    """The figures of all data sets, in order."""
    return [figure for figures in PUBLISHED.values() for figure in figures]
