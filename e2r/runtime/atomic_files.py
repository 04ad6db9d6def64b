"""Files that are there whole, or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Where to write what shall become ``path``: it takes its place once the block has ended well.

    Another process that writes the same file has a place of its own.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def check_settings(path: Path, settings: Mapping[str, Any], what: str = "other settings") -> None:
    """Writes what a folder's figures depend on, or sees that it is what was written before.

    Args:
      path: in a folder that is there.
      settings: JSON values.
      what: the sentence's name for what is there.

    Raises:
      ValueError: something else was written.
    """
    text = json.dumps(settings, indent=1).encode()
    if path.exists() and path.read_bytes() != text:
        raise ValueError(f"{path}: holds {what}; name another output folder, or delete this one")
    with atomic_write(path) as part:
        part.write_bytes(text)
