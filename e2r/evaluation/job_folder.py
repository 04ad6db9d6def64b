"""A job's folder: what is done, by lines on disk, and who is at work on the rest, by file locks.

A case is done when its line in ``predictions.jsonl`` is whole; its line in ``errors.jsonl`` is
written before. Any number of processes may share a folder: each unit of work is one byte of
``claims``, which the process at work on it has locked. The kernel lets go of the locks of a process
that dies, however it dies, so its unit is taken up by another process, or by the next run.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2r.runtime.atomic_files import check_settings

PREDICTIONS, ERRORS = "predictions.jsonl", "errors.jsonl"

Line = dict[str, Any]


class JobFolder:
    """A job's folder, opened by :func:`open_job`."""

    def __init__(self, folder: Path, locks: int) -> None:
        self.folder = folder
        self._locks = locks
        self._done: set[str] = set()
        self._read = 0  # bytes of predictions.jsonl

    def claim(self, unit: int) -> bool:
        """Takes a unit of work, unless another process has it."""
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1 + unit)
        except (BlockingIOError, PermissionError):
            return False
        return True

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Holds the other processes off; its byte is the first of ``claims``."""
        fcntl.lockf(self._locks, fcntl.LOCK_EX, 1, 0)
        try:
            yield
        finally:
            fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, 0)

    def add(self, line: Line, row: Line | None = None) -> None:
        """Writes what one case came to: a prediction, and before it how far off it is.

        A line that a killed process left half written is cut off first.
        """
        with self.alone():
            if row is not None:
                _append(self.folder / ERRORS, row)
            _append(self.folder / PREDICTIONS, line)

    def done(self) -> set[str]:
        """The cases that are done by now, by all processes; reads what is new of the file."""
        path = self.folder / PREDICTIONS
        if path.exists():
            with path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            new = new[: new.rfind(b"\n") + 1]
            self._read += len(new)
            self._done |= {line["id"] for line in _parsed(path, new)}
        return self._done

    def lines(self) -> list[Line]:
        """The whole lines of ``predictions.jsonl``."""
        return _whole(self.folder / PREDICTIONS)

    def rows(self, lines: Sequence[Line]) -> list[Line]:
        """The lines of ``errors.jsonl`` of these predictions, in their order."""
        found = {row["id"]: row for row in _whole(self.folder / ERRORS)}
        return [found[line["id"]] for line in lines if line["id"] in found]


@contextmanager
def open_job(folder: Path, settings: Mapping[str, Any]) -> Iterator[JobFolder]:
    """Opens a job's folder, or makes it.

    Args:
      folder: of the job.
      settings: what makes the job's figures, as JSON values; written into ``job.json``.

    Raises:
      ValueError: the folder holds a job with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    locks = os.open(folder / "claims", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        ledger = JobFolder(folder, locks)
        with ledger.alone():
            about, before = folder / "job.json", folder / PREDICTIONS
            if not about.exists() and before.exists() and before.stat().st_size:
                raise ValueError(
                    f"{before}: is of a job without job.json, which cannot go on; "
                    "name another output folder, or delete this file"
                )
            check_settings(about, settings, "a job with other settings")
        yield ledger
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


def _whole(path: Path) -> list[Line]:
    """The lines of a file, but for one that is not whole, at its end."""
    if not path.exists():
        return []
    text = path.read_bytes()
    return _parsed(path, text[: text.rfind(b"\n") + 1])


def _parsed(path: Path, text: bytes) -> list[Line]:
    try:
        return [json.loads(line) for line in text.splitlines()]
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: holds a line that is not JSON; delete it") from None
