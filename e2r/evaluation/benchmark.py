"""Median times beside those of peers, and the table of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from e2r.evaluation.text_table import text_table
from e2r.runtime.provenance import versions


class Timing(NamedTuple):
    """Our time of one task, beside that of a peer where there is one."""

    name: str
    ours_ms: float
    peer: str | None = None
    peer_ms: float | None = None
    ours_tre_mm: float | None = None
    peer_tre_mm: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times longer the peer takes."""
        return None if self.peer_ms is None else self.peer_ms / self.ours_ms


def median_times(calls: Mapping[str, Callable[[int], Any]], repeats: int) -> dict[str, float]:
    """Median wall time of each call, in ms; the calls alternate.

    A call that is not timed comes before each timed one. So no call pays for the caches that
    another has emptied, or for threads of another that still wait for work.

    Args:
      calls: name -> function of the number of the run.
      repeats: timed runs of each.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(repeats):
        for name, call in calls.items():
            jax.block_until_ready(call(run))
            began = time.perf_counter()
            jax.block_until_ready(call(run))
            times[name].append(1e3 * (time.perf_counter() - began))
    return {name: float(np.median(values)) for name, values in times.items()}


def write_timings(path: Path, rows: Sequence[Timing], **settings: Any) -> None:
    """Writes the rows as JSON, and prints them as a table.

    Args:
      path: of the file.
      rows: its rows.
      settings: JSON values written beside the rows.
    """
    record = {
        **settings,
        "versions": versions(),
        "rows": [{**row._asdict(), "ratio": row.ratio} for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1))
    columns = ["task", "ours, ms", "peer", "peer, ms", "peer / ours", "our TRE, mm", "peer's"]
    cells = [
        [
            row.name,
            f"{row.ours_ms:.2f}",
            row.peer or "",
            *(
                "" if value is None else format(value, digits)
                for value, digits in (
                    (row.peer_ms, ".2f"),
                    (row.ratio, ".1f"),
                    (row.ours_tre_mm, ".3f"),
                    (row.peer_tre_mm, ".3f"),
                )
            ),
        ]
        for row in rows
    ]
    print(text_table(columns, cells))
    print(path)
