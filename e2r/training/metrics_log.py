"""The log of a training run: ``metrics.jsonl``, beside it ``metrics.csv``, and TensorBoard."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from e2r.runtime import sharding
from e2r.runtime.atomic_files import atomic_write
from e2r.training import metrics_csv
from e2r.training.objective import ExampleMetrics, StepMetrics
from e2r.training.tensorboard_log import TensorBoardLog

FILE = "metrics.jsonl"
"""The log's name in the run's folder."""
SHOWN = ("tre_mm", "keep", "coarse_mm", "held_out_tre_mm", "waited")
"""Figures beside the progress bar."""
Line = dict[str, float | int]
"""A line of the log: figure -> value."""


class TimeSpent(NamedTuple):
    """What a run has spent before it was resumed."""

    seconds: float = 0.0
    waited: float = 0.0  # seconds of them, for data


class MetricsLog:
    """Collects the metrics of steps and writes their means, one line for several steps.

    Metrics stay on the device until a line is due, so steps need not wait for each other.
    """

    def __init__(self, folder: Path | None, bar: tqdm, *, board: TensorBoardLog | None) -> None:
        """Takes over the open files.

        Args:
          folder: of the run, to whose log lines are appended; None: nothing is written.
          bar: of the progress.
          board: where the lines are written too.
        """
        self._folder, self._bar, self._board = folder, bar, board
        lines = [] if folder is None else read_log(folder)
        self._columns = [] if folder is None else metrics_csv.write_table(folder, lines)
        before = time_spent(lines)
        self._pending: list[StepMetrics] = []
        self._began, self._waited = time.perf_counter() - before.seconds, before.waited

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

    def write(self, step: int, figures: Mapping[str, float]) -> Line:
        """Writes a line about the steps since the last line, and returns it.

        Args:
          step: the step noted last.
          figures: more of them, for the same line.
        """
        found = [jax.tree.map(float, metrics) for metrics in self._pending]
        self._pending = []
        finite = [metrics for metrics in found if not metrics.skipped]
        seconds = time.perf_counter() - self._began
        line: Line = {"step": step, "seconds": seconds, "waited": self._waited / seconds}
        if finite:
            mean = jax.tree.map(lambda *values: float(np.mean(values)), *finite)
            line |= _batch_figures(mean.batch) | {"gradient": mean.gradient}
        line["skipped"] = len(found) - len(finite)
        line |= figures
        self._save(line)
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix({name: f"{line[name]:.2f}" for name in SHOWN if name in line})
        return line

    def _save(self, line: Line) -> None:
        """Appends a line to the log, and to its copies."""
        if self._folder is None:
            return
        with (self._folder / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if not metrics_csv.append_row(self._folder, line, self._columns):
            self._columns = metrics_csv.write_table(self._folder, read_log(self._folder))
        if self._board is not None:
            self._board.write(line)


@contextmanager
def open_log(
    output: Path, settings: dict[str, Any], *, done: int, end: int, tensorboard: bool = False
) -> Iterator[MetricsLog]:
    """The log of a run, to append to; ``config.json`` is written first.

    Processes but the primary one write nothing.

    Args:
      output: folder of the run.
      settings: for ``config.json``.
      done: steps done; later lines, of a killed run, are dropped.
      end: the step at which the run ends.
      tensorboard: write the lines for TensorBoard, too.

    Raises:
      ValueError: the package that writes for TensorBoard is not installed.
    """
    writes = sharding.is_primary()
    if writes:
        output.mkdir(parents=True, exist_ok=True)
        (output / "config.json").write_text(json.dumps(settings, indent=1))
        _drop_lines_after(output, done)
    board = TensorBoardLog(output, done=done) if writes and tensorboard else None
    with tqdm(total=end, initial=done, desc="train", unit="step", disable=not writes) as bar:
        try:
            yield MetricsLog(output if writes else None, bar, board=board)
        finally:
            if board is not None:
                board.close()


def time_spent(lines: Sequence[Line]) -> TimeSpent:
    """The time that a run had taken at its last line, over all its resumptions.

    A run of an earlier version counted anew after each resumption; its parts are added up.

    Args:
      lines: of its log.
    """
    ends = [
        line
        for number, line in enumerate(lines, 1)
        if number == len(lines) or lines[number]["seconds"] < line["seconds"]
    ]
    return TimeSpent(
        sum(line["seconds"] for line in ends),
        sum(line["seconds"] * line.get("waited", 0.0) for line in ends),
    )


def read_log(folder: Path) -> list[Line]:
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


def finite_figures(prefix: str, figures: Any) -> dict[str, float]:
    """Figures by their names in the log, but for those that are not finite.

    Args:
      prefix: of the names, which says where the figures come from.
      figures: a named tuple of figures ().
    """
    plain = {f"{prefix}_{name}": float(value) for name, value in figures._asdict().items()}
    return {name: value for name, value in plain.items() if math.isfinite(value)}


def _batch_figures(batch: ExampleMetrics) -> dict[str, float]:
    """The figures of a batch by their names in the log; each term of the loss is one."""
    figures: dict[str, float] = batch._asdict()
    terms = jax.tree_util.tree_flatten_with_path(figures.pop("terms"))[0]
    named = {jax.tree_util.keystr(path[-1:], simple=True): term for path, term in terms}
    return figures | {f"loss_{name}": term for name, term in named.items()}
