"""Folds over specimens, and figures over all of them."""

import pytest

from e2r.evaluation.cross_validation import Fold, PoseLimits, grouped_figures, leave_one_out


def errors(mm, degrees=1.0):
    return {
        "tre_mm": mm,
        "tre_surface_mm": mm,
        "tre_deep_mm": None,
        "rmse_mm": mm,
        "rotation_deg": degrees,
        "translation_mm": mm,
    }


def row(source, **levels):
    mean = sum(levels.values()) / len(levels)
    by_level = {name: errors(mm) for name, mm in levels.items()}
    return {"source": source, **errors(mean), "by_level": by_level}


def test_each_source_is_left_out_once():
    assert leave_one_out(["b", "a"]) == [Fold("a", frozenset("a")), Fold("b", frozenset("b"))]


def test_figures_are_grouped_by_level_and_by_source():
    rows = [row("b", L1=1.0, L2=3.0), row("b", L2=5.0), row("a", L2=9.0)]
    found = grouped_figures(rows, seed=0, limits=PoseLimits(4.0, 5.0))
    assert found["all"]["count"] == 3
    assert found["all"]["registered"] == pytest.approx(1 / 3)
    assert list(found["by_level"]) == ["L1", "L2"]
    assert found["by_level"]["L2"]["tre_mm"]["median"] == 5.0
    assert found["by_level"]["L1"]["registered"] == 1.0
    assert list(found["by_source"]) == ["a", "b"]
    assert found["by_source"]["b"]["count"] == 2


def test_a_large_rotation_is_not_registered():
    far = row("a", L1=1.0) | {"rotation_deg": 6.0}
    found = grouped_figures([far], seed=0, limits=PoseLimits(4.0, 5.0))
    assert found["all"]["registered"] == 0.0


def test_without_cases_there_is_no_share():
    found = grouped_figures([], seed=0, limits=PoseLimits(4.0, 5.0))
    assert found["all"] == {"count": 0, "registered": None}
