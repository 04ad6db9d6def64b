"""The folder of a study that can be interrupted: it goes on by the same settings and code only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from e2r.runtime import cluster, code_digest
from e2r.runtime.cluster import ClusterConfig
from e2r.runtime.continued_folder import continue_or_begin, refuse_orphan
from e2r.runtime.provenance import code_record
from e2r.runtime.single_writer import single_writer

T = TypeVar("T")
U = TypeVar("U")


@contextmanager
def open_study(
    path: Path,
    settings: Mapping[str, Any],
    *,
    study: Any,
    again: bool,
    results: Iterable[Path],
    first: Iterable[Path],
    plugins: Iterable[Any] = (),
) -> Iterator[dict[str, str]]:
    """Begins a study's folder, or goes on with it, as its only writer.

    Args:
      path: file of the settings; its folder is made.
      settings: everything that the figures depend on but code, as JSON values.
      study: the functions that compute them; their code is recorded with that of e2r.
      again: delete figures by other code, and begin anew.
      results: files and folders of figures.
      first: the files among them that a study writes first; without settings they are unknown.
      plugins: settings that name plug-ins.

    Yields:
      what computes the figures.

    Raises:
      ValueError: the folder holds figures by other settings, by other code, or by unknown ones; or
        another process writes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with single_writer(path.parent, "study"):
        for figures in first:
            refuse_orphan(figures, path, what="study")
        code = {**code_record(*plugins), "study": code_digest.digest(study)}
        yield continue_or_begin(
            path, settings, code=code, again=again, results=results, what="study"
        )


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
      ValueError: a part was refused, or its worker died again and again. That is said after all
        other parts are done.
    """
    lost: list[str] = []

    def give_up(part: T, sentence: str) -> tuple[str, U | None]:
        lost.append(sentence)
        return name(part), None

    if config.cluster is not None:  # a part is a worker's only item: more of them would only wait
        config = replace(config, workers=min(config.workers or len(parts), len(parts)) or 1)
    found: dict[str, Any] = {}
    with tqdm(total=len(parts), unit="part", disable=config.cluster is None) as bar:
        for key, result in cluster.stream(
            partial(_each, run=run, name=name),
            parts,
            config=config,
            name=name,
            give_up=give_up,
            notice=partial(bar.set_postfix_str, refresh=False),
        ):
            found[key] = result
            bar.update()
    if lost:
        raise ValueError("; ".join(lost))
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
