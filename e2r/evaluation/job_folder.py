"""A job's folder: lines on disk say which cases are done, and one process writes them.

A case is done when its line in ``predictions.jsonl`` is complete. Its lines in ``errors.jsonl`` and
in the files of the other masks' predictions are written first. The next run goes on from there, and
tries the failed cases again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from e2r.formats import file_checks
from e2r.runtime.atomic_files import atomic_write
from e2r.runtime.continued_folder import continue_or_begin, refuse_orphan
from e2r.runtime.single_writer import single_writer

PREDICTIONS, ERRORS, SETTINGS = "predictions.jsonl", "errors.jsonl", "job.json"
RESULTS = (PREDICTIONS, ERRORS, "errors.csv", "summary.json", "report.html", "views")
"""What a job writes into its folder, beside the other masks' predictions."""

Line: TypeAlias = dict[str, Any]
"""A line of a file, as JSON values."""


def count_predictions(folder: Path) -> int:
    """Number of cases that a job has written so far.

    Args:
      folder: of the job; it may not be there yet.
    """
    path = folder / PREDICTIONS
    return path.read_bytes().count(b"\n") if path.exists() else 0


class JobFolder:
    """A job's folder, opened by :func:`open_job`."""

    def __init__(self, folder: Path, code: Mapping[str, str]) -> None:
        """Takes over an open folder.

        Args:
          folder: of the job.
          code: what computes the job's figures, as recorded when it began.
        """
        self.folder, self.code = folder, dict(code)
        self._done: set[str] | None = None

    @property
    def began(self) -> float:
        """When the job began: time of ``job.json``, in seconds since 1970."""
        return (self.folder / SETTINGS).stat().st_mtime

    def add(
        self,
        line: Line,
        row: Line | None = None,
        *,
        others: Mapping[str, Line] = MappingProxyType({}),
    ) -> None:
        """Writes the lines of one case, after removing any line that a killed process left half.

        Args:
          line: of ``predictions.jsonl``.
          row: of ``errors.jsonl``; a failed case has none.
          others: mask name -> line of its own file of predictions.
        """
        for mask, other in others.items():
            _append(self.folder / predictions_file(mask), other)
        if row is not None:
            _append(self.folder / ERRORS, row)
        _append(self.folder / PREDICTIONS, line)
        self.done().add(line["id"])

    def done(self) -> set[str]:
        """The ids of the cases that are done."""
        if self._done is None:
            self._done = {line["id"] for line in self.lines()}
        return self._done

    def lines(self) -> list[Line]:
        """The complete lines of ``predictions.jsonl``."""
        return _complete_lines(self.folder / PREDICTIONS)

    def lines_of(self, mask: str) -> list[Line]:
        """The last complete line of each case in a mask's own file of predictions.

        A case whose process died before its line in ``predictions.jsonl`` has two lines here.

        Args:
          mask: one of the others of :meth:`add`.
        """
        path = self.folder / predictions_file(mask)
        return list({line["id"]: line for line in _complete_lines(path)}.values())

    def rows(self, lines: Sequence[Line]) -> list[Line]:
        """The lines of ``errors.jsonl`` of these predictions, in their order.

        Args:
          lines: of ``predictions.jsonl``.
        """
        found = {row["id"]: row for row in _complete_lines(self.folder / ERRORS)}
        return [found[line["id"]] for line in lines if line["id"] in found]


def predictions_file(mask: str) -> str:
    """The file of the predictions under a mask that is not the job's primary one."""
    return f"predictions_{mask}.jsonl"


@contextmanager
def open_job(
    folder: Path,
    settings: Mapping[str, Any],
    *,
    code: Mapping[str, str] | None = None,
    again: bool = False,
) -> Iterator[JobFolder]:
    """Opens or creates a job's folder. Cases that failed, or lack a row of errors, are done again.

    Args:
      folder: of the job.
      settings: everything that the job's figures depend on but code, as JSON values; for
        ``job.json``.
      code: what computes the figures, by :func:`e2r.runtime.provenance.code_record`.
      again: where the folder's figures were computed by other code, delete them and begin anew.

    Raises:
      ValueError: another process writes the job, or the folder holds a job with other settings or
        with figures of other code.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with single_writer(folder, "job"):
        refuse_orphan(folder / PREDICTIONS, folder / SETTINGS)
        recorded = continue_or_begin(
            folder / SETTINGS,
            settings,
            code=code or {},
            again=again,
            results=[*folder.glob(predictions_file("*")), *map(folder.joinpath, RESULTS)],
        )
        _forget_unfinished(folder)
        yield JobFolder(folder, recorded)


def _forget_unfinished(folder: Path) -> None:
    """Takes failed cases, and those without a row of errors, out, so that they are done again."""
    path = folder / PREDICTIONS
    lines = _complete_lines(path)
    scored = {row["id"] for row in _complete_lines(folder / ERRORS)}
    kept = [line for line in lines if line.get("error") is None and line["id"] in scored]
    if len(kept) < len(lines):
        with atomic_write(path) as part:
            part.write_bytes(b"".join(_encoded(line) for line in kept))


def _append(path: Path, line: Line) -> None:
    with path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(_encoded(line))


def _encoded(line: Line) -> bytes:
    return json.dumps(line).encode() + b"\n"


def _complete_lines(path: Path) -> list[Line]:
    """The lines of a file without an incomplete one at its end."""
    if not path.exists():
        return []
    text = path.read_bytes()
    try:
        lines = [file_checks.parse_json(row) for row in text[: text.rfind(b"\n") + 1].splitlines()]
    except ValueError:
        raise ValueError(f"{path}: holds a line that is not JSON; delete it") from None
    if not all(isinstance(line, dict) and isinstance(line.get("id"), str) for line in lines):
        raise ValueError(f"{path}: holds a line without a case's id; delete it")
    return lines
