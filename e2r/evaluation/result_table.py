"""A table of results as a JSON file, in the form that the documentation shows."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from e2r.runtime.provenance import versions


def write_result(
    path: Path,
    *,
    title: str,
    command: str,
    note: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
) -> None:
    """Writes a table with its origin; the directive ``results`` of the documentation reads it.

    Args:
      path: of the file.
      title: of the table.
      command: that made it.
      note: what a reader must know beside the figures.
      columns: the headings.
      rows: cells (text, numbers or None), as many in each row as there are columns.

    Raises:
      ValueError: a row has more or fewer cells than there are columns.
    """
    if any(len(row) != len(columns) for row in rows):
        raise ValueError(f"each row of {title!r} needs {len(columns)} cells")
    head = {
        "title": title,
        "command": command,
        "commit": versions()["commit"],
        "machine": f"{os.cpu_count()} CPU cores",
        "note": note,
        "columns": [*columns],
    }
    lines = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in rows)
    text = json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{text},\n "rows": [\n{lines}\n ]\n}}\n', encoding="utf-8")
