"""The file of a table of results."""

import json

import pytest

from e2r.evaluation.result_table import write_result

TEXTS = {"title": "Limits", "command": "python -m limits", "note": "15–16 s"}


def test_a_table_has_its_origin_and_a_line_a_row(tmp_path):
    path = tmp_path / "new" / "limits.json"
    write_result(path, **TEXTS, columns=["part", "ms"], rows=[["one", 1.5], ["two", None]])
    table = json.loads(path.read_text())
    assert {"title", "command", "commit", "machine", "note", "columns", "rows"} == set(table)
    assert table["rows"] == [["one", 1.5], ["two", None]] and table["note"] == "15–16 s"
    assert '  ["one", 1.5],\n' in path.read_text()


def test_a_row_of_another_length_is_refused(tmp_path):
    with pytest.raises(ValueError, match="each row of 'Limits' needs 2 cells"):
        write_result(tmp_path / "limits.json", **TEXTS, columns=["part", "ms"], rows=[["one"]])
    assert not [*tmp_path.iterdir()]
