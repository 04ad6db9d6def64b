"""The folder of a study that can be interrupted: it goes on by the same settings and code only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from e2r.runtime import code_digest
from e2r.runtime.continued_folder import continue_or_begin, refuse_orphan
from e2r.runtime.provenance import code_record


def open_study(
    path: Path,
    settings: Mapping[str, Any],
    *,
    study: Any,
    again: bool,
    results: Iterable[Path],
    first: Iterable[Path],
    plugins: Iterable[Any] = (),
) -> dict[str, str]:
    """Begins a study's folder, or goes on with it; returns what computes its figures.

    Args:
      path: file of the settings; its folder is made.
      settings: everything that the figures depend on but code, as JSON values.
      study: the functions that compute them; their code is recorded with that of e2r.
      again: delete figures by other code, and begin anew.
      results: files and folders of figures.
      first: the files among them that a study writes first; without settings they are unknown.
      plugins: settings that name plug-ins.

    Raises:
      ValueError: the folder holds figures by other settings, by other code, or by unknown ones.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for figures in first:
        refuse_orphan(figures, path, what="study")
    code = {**code_record(*plugins), "study": code_digest.digest(study)}
    return continue_or_begin(path, settings, code=code, again=again, results=results, what="study")


def plain(settings: Mapping[str, Any], *, without: Iterable[str]) -> dict[str, Any]:
    """Settings as JSON values, without those that change no figure."""
    left = {name: value for name, value in settings.items() if name not in set(without)}
    return json.loads(json.dumps(left, default=str))
