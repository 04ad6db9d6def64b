"""The measured results: every table is whole, and those that can be recomputed are."""

import json
from pathlib import Path

import pytest

from e2r.evaluation.comparison import pooled_figures
from e2r.evaluation.published import all_published

RESULTS = Path(__file__).resolve().parents[2] / "experiments" / "results"
TABLES = sorted(RESULTS.glob("*.json"))


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_table_has_its_origin_and_cells_for_every_column(path):
    table = json.loads(path.read_text(encoding="utf-8"))
    assert {"title", "command", "commit", "machine", "note", "columns", "rows"} == set(table)
    assert table["title"] and table["rows"]
    for row in table["rows"]:
        assert len(row) == len(table["columns"])
        assert all(cell is None or isinstance(cell, str | int | float) for cell in row)


def test_the_ablation_is_that_of_the_stored_errors():
    seeds = [
        json.loads(path.read_text()) for path in sorted(RESULTS.glob("ablation/*/errors.json"))
    ]
    table = json.loads((RESULTS / "ablation.json").read_text(encoding="utf-8"))
    found = []
    for arm in seeds[0]:
        figures = pooled_figures([errors[arm] for errors in seeds])
        low, high = figures["interval95"]
        rates = (round(100 * figures[key], 1) for key in ("below_2mm", "below_5mm"))
        found.append((round(figures["median"], 2), f"{low:.2f}–{high:.2f}", *rates))
    columns = ["median TRE (mm)", "95 % interval (mm)", "< 2 mm (%)", "< 5 mm (%)"]
    places = [table["columns"].index(name) for name in columns]
    told = [tuple(row[place] for place in places) for row in table["rows"]]
    assert sorted(found) == sorted(told)


def test_the_published_figures_are_those_of_the_package():
    table = json.loads((RESULTS / "published.json").read_text(encoding="utf-8"))
    assert table["rows"] == [[f.method, f.data, f.measure, f.mm] for f in all_published()]
