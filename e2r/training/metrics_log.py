"""The log of a training run, ``metrics.jsonl``."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from tqdm import tqdm

from e2r.runtime import sharding
from e2r.runtime.atomic_files import atomic_write
from e2r.training.objective import StepMetrics

FILE = "metrics.jsonl"
"""The log's name in the run's folder."""
SHOWN = ("tre_mm", "keep", "coarse_mm", "waited")
"""Figures beside the progress bar."""


class MetricsLog:
    """Collects the metrics of steps and writes their means, one line for several steps.

    Metrics stay on the device until a line is due, so steps need not wait for each other.
    """

    def __init__(self, file: TextIO, bar: tqdm) -> None:
        self._file, self._bar = file, bar
        self._pending: list[StepMetrics] = []
        self._began, self._waited = time.perf_counter(), 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the block's seconds as spent waiting for data."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def add(self, metrics: StepMetrics) -> None:
        """Notes the metrics of the next step."""
        self._pending.append(metrics)

    def first_skipped(self, step: int) -> int | None:
        """The first step that was not finite since the last line; None if all were finite.

        Args:
          step: the step noted last.
        """
        first = step - len(self._pending) + 1
        skipped = [bool(metrics.skipped) for metrics in self._pending]
        return first + skipped.index(True) if any(skipped) else None

    def write(self, step: int, probe_figures: Any = None) -> None:
        """Writes a line about the steps since the last line.

        Args:
          step: the step noted last.
          probe_figures: a named tuple of figures (), for the same line.
        """
        found = [jax.tree.map(float, metrics) for metrics in self._pending]
        self._pending = []
        finite = [metrics for metrics in found if not metrics.skipped]
        seconds = time.perf_counter() - self._began
        line: dict[str, float] = {
            "step": step,
            "seconds": seconds,
            "waited": self._waited / seconds,
        }
        if finite:
            mean = jax.tree.map(lambda *values: float(np.mean(values)), *finite)
            line |= mean.batch._asdict() | {"gradient": mean.gradient}
        line["skipped"] = len(found) - len(finite)
        self._file.write(json.dumps(line | _finite_probe_figures(probe_figures)) + "\n")
        self._file.flush()
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix({name: f"{line[name]:.2f}" for name in SHOWN if name in line})


@contextmanager
def open_log(
    output: Path, settings: dict[str, Any], *, done: int, end: int
) -> Iterator[MetricsLog]:
    """The log of a run, to append to; ``config.json`` is written first.

    Processes but the primary one write nothing.

    Args:
      output: folder of the run.
      settings: for ``config.json``.
      done: steps done; later lines, of a killed run, are dropped.
      end: the step at which the run ends.
    """
    writes = sharding.is_primary()
    if writes:
        output.mkdir(parents=True, exist_ok=True)
        (output / "config.json").write_text(json.dumps(settings, indent=1))
        _drop_lines_after(output, done)
    path = output / FILE if writes else Path(os.devnull)
    bar = tqdm(total=end, initial=done, desc="train", unit="step", disable=not writes)
    with path.open("a", encoding="utf-8") as file, bar:
        yield MetricsLog(file, bar)


def read_log(folder: Path) -> list[dict[str, int | float]]:
    """The whole lines of a run's log; empty where there is none."""
    path = folder / FILE
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def _drop_lines_after(folder: Path, step: int) -> None:
    """Drops the lines that a killed run wrote after its last checkpoint."""
    path = folder / FILE
    kept = [json.dumps(line) for line in read_log(folder) if line["step"] <= step]
    if path.exists():
        with atomic_write(path) as part:
            part.write_text("".join(line + "\n" for line in kept))


def _finite_probe_figures(figures: Any) -> dict[str, float]:
    """A probe's figures by their names in the log, but for those that are not finite."""
    found = {} if figures is None else figures._asdict()
    plain = {f"probe_{name}": float(value) for name, value in found.items()}
    return {name: value for name, value in plain.items() if math.isfinite(value)}
