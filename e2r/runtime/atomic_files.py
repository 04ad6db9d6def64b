"""Files that are written completely or not at all."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write to, which replaces ``path`` if the block succeeds.

    Each writer has a temporary path of its own; processes of two containers may share an id.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def require_new_folder(folder: Path) -> None:
    """Raises unless the folder is missing or empty.

    Args:
      folder: for results.

    Raises:
      ValueError: the folder holds something.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: is not empty; name another folder, or delete this one")
