"""A job's folder: lines on disk say which cases are done, file locks which units are claimed.

A case is done when its line in ``predictions.jsonl`` is complete. Its lines in ``errors.jsonl`` and
in the files of the other masks' predictions are written first. Any number of processes may share a
folder. Each unit of work is one byte of the file ``claims``, which is locked by the process that
works on the unit. The kernel releases the locks of a process that dies. Another process, or the
next run, then claims its unit.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from e2r.runtime.continued_folder import continue_or_begin, refuse_orphan

PREDICTIONS, ERRORS, SETTINGS = "predictions.jsonl", "errors.jsonl", "job.json"
RESULTS = (PREDICTIONS, ERRORS, "errors.csv", "summary.json", "report.html", "views")
"""What a job writes into its folder, beside the other masks' predictions."""

Line: TypeAlias = dict[str, Any]
"""A line of a file, as JSON values."""


class JobFolder:
    """A job's folder, opened by :func:`open_job`."""

    def __init__(self, folder: Path, locks: int, code: Mapping[str, str]) -> None:
        """Takes over an open folder.

        Args:
          folder: of the job.
          locks: file descriptor of ``claims``.
          code: what computes the job's figures, as recorded when it began.
        """
        self.folder, self.code = folder, dict(code)
        self._locks = locks
        self._done: set[str] = set()
        self._bytes_read = 0  # of predictions.jsonl

    def claim(self, unit: int) -> bool:
        """Claims a unit of work; False if another process has claimed it.

        Args:
          unit: its number in the job.
        """
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1 + unit)
        except (BlockingIOError, PermissionError):
            return False
        return True

    @property
    def began(self) -> float:
        """When the job began: time of ``job.json``, in seconds since 1970."""
        return (self.folder / SETTINGS).stat().st_mtime

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Excludes the other processes, by the first byte of ``claims``."""
        fcntl.lockf(self._locks, fcntl.LOCK_EX, 1, 0)
        try:
            yield
        finally:
            fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, 0)

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
        with self.alone():
            for mask, other in others.items():
                _append(self.folder / predictions_file(mask), other)
            if row is not None:
                _append(self.folder / ERRORS, row)
            _append(self.folder / PREDICTIONS, line)

    def done(self) -> set[str]:
        """The ids of the cases that are done, by all processes; reads only new lines."""
        path = self.folder / PREDICTIONS
        if path.exists():
            with path.open("rb") as file:
                file.seek(self._bytes_read)
                new = file.read()
            new = new[: new.rfind(b"\n") + 1]
            self._bytes_read += len(new)
            self._done |= {line["id"] for line in _parsed(path, new)}
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
    """Opens or creates a job's folder.

    Args:
      folder: of the job.
      settings: everything that the job's figures depend on but code, as JSON values; for
        ``job.json``.
      code: what computes the figures, by :func:`e2r.runtime.provenance.code_record`.
      again: where the folder's figures were computed by other code, delete them and begin anew.

    Raises:
      ValueError: the folder holds a job with other settings, or with figures of other code.
    """
    folder.mkdir(parents=True, exist_ok=True)
    locks = os.open(folder / "claims", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        job_folder = JobFolder(folder, locks, code or {})
        with job_folder.alone():
            refuse_orphan(folder / PREDICTIONS, folder / SETTINGS)
            job_folder.code = continue_or_begin(
                folder / SETTINGS,
                settings,
                code=code or {},
                again=again,
                results=[*folder.glob(predictions_file("*")), *map(folder.joinpath, RESULTS)],
            )
        yield job_folder
    finally:
        os.close(locks)


def _append(path: Path, line: Line) -> None:
    with path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(line).encode() + b"\n")


def _complete_lines(path: Path) -> list[Line]:
    """The lines of a file without an incomplete one at its end."""
    if not path.exists():
        return []
    text = path.read_bytes()
    return _parsed(path, text[: text.rfind(b"\n") + 1])


def _parsed(path: Path, text: bytes) -> list[Line]:
    try:
        return [json.loads(line) for line in text.splitlines()]
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: holds a line that is not JSON; delete it") from None
