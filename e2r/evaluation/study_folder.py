"""The folder of a study that can be interrupted: it goes on by the same settings and code only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from e2r.runtime import cluster, code_digest
from e2r.runtime.cluster import ClusterConfig
from e2r.runtime.continued_folder import continue_or_begin, refuse_orphan
from e2r.runtime.provenance import code_record

T = TypeVar("T")
U = TypeVar("U")


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


def run_parts(
    run: Callable[[T], U], parts: Sequence[T], *, config: ClusterConfig, name: Callable[[T], str]
) -> list[U]:
    """The results of a study's parts, in their order; each part runs here or on a cluster.

    Args:
      run: computes a part, or goes on with it. It writes into a folder of the part alone, which on
        a cluster every node sees.
      parts: seeds or folds, for example.
      config: where they run.
      name: of a part; unique.

    Raises:
      ValueError: a part was refused, or its worker died again and again.
    """

    def give_up(_: T, sentence: str) -> tuple[str, U]:
        raise ValueError(sentence)

    found = dict(
        cluster.stream(
            partial(_each, run=run, name=name), parts, config=config, name=name, give_up=give_up
        )
    )
    return [found[name(part)] for part in parts]


def _each(
    parts: Iterator[T], *, run: Callable[[T], U], name: Callable[[T], str]
) -> Iterator[tuple[str, tuple[str, U]]]:
    for part in parts:
        yield name(part), (name(part), run(part))


def plain(settings: Mapping[str, Any], *, without: Iterable[str]) -> dict[str, Any]:
    """Settings as JSON values, without those that change no figure."""
    left = {name: value for name, value in settings.items() if name not in set(without)}
    return json.loads(json.dumps(left, default=str))
