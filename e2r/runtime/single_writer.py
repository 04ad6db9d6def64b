"""A folder with one writer: another process that would write it is refused."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "writer.lock"
"""Empty file that the writer of a folder locks."""


@contextmanager
def single_writer(folder: Path, what: str) -> Iterator[None]:
    """Holds a folder until the block, or the process, ends in any way.

    Args:
      folder: is there.
      what: it holds, for errors.

    Raises:
      ValueError: another process holds it.
    """
    with (folder / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder}: another process writes this {what}; wait for its end, or name "
                "another output folder"
            ) from None
        except OSError:
            pass  # a network disk without locks: the user alone sees to it that one process writes
        yield
