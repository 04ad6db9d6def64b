"""A folder whose figures are continued: by the same settings and the same code, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from e2r.runtime.atomic_files import atomic_write
from e2r.runtime.provenance import code_differences


def continue_or_begin(
    path: Path,
    settings: Mapping[str, Any],
    *,
    code: Mapping[str, str],
    again: bool,
    results: Iterable[Path],
    what: str = "job",
) -> dict[str, str]:
    """Begins a folder of figures, or goes on with one that the same settings and code began.

    Args:
      path: file of the settings and the code, in an existing folder.
      settings: everything that the figures depend on but code, as JSON values.
      code: what computes the figures, by :func:`e2r.runtime.provenance.code_record`.
      again: where the folder's figures were computed by other code, delete them and begin anew.
      results: files and folders of figures, which need not be there.
      what: the folder holds, for errors.

    Returns:
      the code that the file records.

    Raises:
      ValueError: the folder holds figures by other settings, or by other code.
    """
    if path.exists():
        try:
            found = dict(json.loads(path.read_text()))
        except (ValueError, RecursionError):
            found = {}
        recorded = found.pop("code", {})
        if found != json.loads(json.dumps(settings)):
            raise ValueError(
                f"{path}: holds a {what} with other settings; name another output folder, or "
                "delete this one"
            )
        changed = code_differences(recorded, code)
        if not changed:
            return dict(recorded)
        if not again:
            raise ValueError(
                f"{path}: the figures of this {what} were computed by other code "
                f"({'; '.join(changed)}); give --again to compute all of them anew, or name "
                "another output folder"
            )
        for result in results:
            delete(result)
        path.unlink()
    with atomic_write(path) as part:
        part.write_text(json.dumps({**settings, "code": dict(code)}, indent=1))
    return dict(code)


def refuse_orphan(figures: Path, settings: Path, *, what: str = "job") -> None:
    """Raises where a folder holds figures, but not the settings that they were made by.

    Args:
      figures: a file of the folder.
      settings: the file of :func:`continue_or_begin`.
      what: the folder holds, for the error.

    Raises:
      ValueError: it does.
    """
    if not settings.exists() and figures.exists() and figures.stat().st_size:
        raise ValueError(
            f"{figures}: belongs to a {what} without {settings.name}, which cannot be continued; "
            "name another output folder, or delete this file"
        )


def delete(path: Path) -> None:
    """Deletes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
