"""Files that are written completely or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write to, which replaces ``path`` if the block succeeds.

    Each process has a temporary path of its own.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
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


def check_settings(path: Path, settings: Mapping[str, Any], what: str = "other settings") -> None:
    """Writes the settings of a folder's results, or raises if the folder holds different ones.

    Args:
      path: file in an existing folder.
      settings: JSON values.
      what: what the folder holds instead, for the error.

    Raises:
      ValueError: the file holds different settings.
    """
    text = json.dumps(settings, indent=1).encode()
    if path.exists():
        if path.read_bytes() != text:
            raise ValueError(
                f"{path}: holds {what}; name another output folder, or delete this one"
            )
        return
    with atomic_write(path) as part:
        part.write_bytes(text)
