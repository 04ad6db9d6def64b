"""The log of a training run, ``metrics.jsonl``."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, TextIO

from e2r.runtime import sharding
from e2r.runtime.atomic_files import atomic_write


def open_log(output: Path, done: int, about: dict[str, Any]) -> TextIO:
    """``metrics.jsonl`` to append to, after ``config.json`` is written; nowhere, for a process that
    does not write."""
    if not sharding.is_primary():
        return open(os.devnull, "a", encoding="utf-8")
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.json").write_text(json.dumps(about, indent=1))
    drop_after(output / "metrics.jsonl", done)
    return (output / "metrics.jsonl").open("a")


def probe_figures(figures: Any) -> dict[str, float]:
    """A probe's figures for ``metrics.jsonl``, as far as they are finite."""
    found = figures._asdict() if figures else {}
    plain = {f"probe_{name}": float(value) for name, value in found.items()}
    return {name: value for name, value in plain.items() if math.isfinite(value)}


def read_log(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's ``metrics.jsonl``, as far as it is there and whole."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def drop_after(path: Path, step: int) -> None:
    """Drops the lines of ``metrics.jsonl`` that a killed run wrote after its last checkpoint."""
    kept = [json.dumps(line) for line in read_log(path.parent) if line["step"] <= step]
    if path.exists():
        with atomic_write(path) as part:
            part.write_text("".join(line + "\n" for line in kept))
