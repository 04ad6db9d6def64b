"""Docutils tables from rows of cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from docutils import nodes

Cell: TypeAlias = str | int | float | Sequence[nodes.Node] | None
"""Text, a number, nothing, or nodes that are parsed already."""


def make_table(
    columns: Sequence[Cell], rows: Iterable[Sequence[Cell]], title: str = ""
) -> nodes.table:
    """A table with one header row.

    Args:
      columns: the header's cells.
      rows: the other rows; each has as many cells as there are columns.
      title: the caption, none if empty.

    Raises:
      ValueError: a row has another number of cells.
    """
    table = nodes.table()
    if title:
        table += nodes.title("", title)
    group = nodes.tgroup(cols=len(columns))
    table += group
    group += [nodes.colspec(colwidth=1) for _ in columns]
    head, body = nodes.thead(), nodes.tbody()
    group += [head, body]
    head += _row(columns)
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"a row has {len(row)} cells, the header {len(columns)}: {row}")
        body += _row(row)
    return table


def _row(cells: Sequence[Cell]) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        paragraph = nodes.paragraph()
        if cell is None:
            pass
        elif isinstance(cell, str | int | float):
            paragraph += nodes.Text(str(cell))
        else:
            paragraph += cell
        row += nodes.entry("", paragraph)
    return row
