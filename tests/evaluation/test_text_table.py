"""Tables of text have straight columns, and every cell has one."""

import pytest

from e2r.evaluation.text_table import text_table, with_range


def test_the_first_column_is_left_and_the_others_right():
    table = text_table(["name", "value"], [["a", "1.0"], ["longer", 12]])
    assert table.splitlines() == ["name    value", "a         1.0", "longer     12"]


def test_a_table_without_rows_is_its_heading():
    assert text_table(["name", "value"], []) == "name  value"


@pytest.mark.parametrize("row", [["a"], ["a", 1, 2]])
def test_a_row_with_other_cells_than_columns_is_refused(row):
    with pytest.raises(ValueError, match="needs 2 cells"):
        text_table(["name", "value"], [row])


def test_several_runs_show_their_range():
    assert with_range(1.234, [1.5, 1.0, 1.234]) == "1.23 (1.00 to 1.50) mm"
    assert with_range(1.234, [1.234]) == "1.23 mm"
