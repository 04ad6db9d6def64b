"""Tables of text: columns as wide as their widest cell."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns of text: the first to the left, the others to the right.

    Args:
      columns: the headings.
      rows: cells, as many in each row as there are columns.

    Raises:
      ValueError: a row has more or fewer cells than there are columns.
    """
    cells = [[str(cell) for cell in row] for row in (columns, *rows)]
    if any(len(row) != len(columns) for row in cells):
        raise ValueError(f"each row of the table needs {len(columns)} cells")
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )


def with_range(median: float, runs: Sequence[float]) -> str:
    """A median in mm, and the range of several runs.

    Args:
      median: mm.
      runs: the runs' figures, mm; none or one has no range.
    """
    spread = f" ({min(runs):.2f} to {max(runs):.2f})" if len(runs) > 1 else ""
    return f"{median:.2f}{spread} mm"
