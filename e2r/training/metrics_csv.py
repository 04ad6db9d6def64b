"""The log of a training run as a table, ``metrics.csv``: one row a line, one column a figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from e2r.runtime.atomic_files import atomic_write

FILE = "metrics.csv"
"""The table's name in the run's folder."""

Line = Mapping[str, float | int]


def write_table(folder: Path, lines: Sequence[Line]) -> list[str]:
    """Writes the table of some lines, atomically; without lines it removes the table.

    Args:
      folder: of the run.
      lines: of the log; a figure that a line lacks is an empty cell.

    Returns:
      the columns, in the order in which the figures first appear.
    """
    columns = list(dict.fromkeys(name for line in lines for name in line))
    path = folder / FILE
    if not lines:
        path.unlink(missing_ok=True)
        return columns
    header = dict(zip(columns, columns, strict=True))
    with atomic_write(path) as part:
        part.write_text("".join(_row(line, columns) for line in (header, *lines)))
    return columns


def append_row(folder: Path, line: Line, columns: Sequence[str]) -> bool:
    """Appends a row to the table; False where the line has a figure without a column.

    Args:
      folder: of the run.
      line: of the log.
      columns: of the table, as :func:`write_table` returns them.
    """
    if not set(line) <= set(columns):
        return False
    with (folder / FILE).open("a", encoding="utf-8") as file:
        file.write(_row(line, columns))
    return True


def _row(line: Mapping[str, object], columns: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([line.get(name, "") for name in columns])
    return text.getvalue()
