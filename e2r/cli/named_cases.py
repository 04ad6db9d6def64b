"""The cases that a command line names: folders, data sets, and patterns such as ``'cases/*'``."""

from __future__ import annotations

import glob
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from e2r.cli.errors import sentence
from e2r.datasets import case_folder
from e2r.formats import file_checks, meshes
from e2r.runtime.system_errors import REFUSALS


def find_named(words: Sequence[Path]) -> list[Path]:
    """The paths that words of a command line name, each once.

    Args:
      words: paths, or patterns that the shell did not expand.

    Returns:
      The paths. A word that names nothing stays as it is, for its reader to refuse.
    """
    found: dict[Path, Path] = {}
    for word in words:
        matches = [word]
        if not os.path.lexists(word) and glob.has_magic(str(word)):
            paths = map(Path, glob.glob(str(word), recursive=True))
            matches = file_checks.visible(paths) or [word]
        for path in matches:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def shortest_names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of some paths that tell them apart.

    Args:
      folders: of one kind.

    Raises:
      ValueError: one is named twice.
    """
    places = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise ValueError(f"{folder}: is named twice; name each folder once")
    names = [place.name for place in places]
    parts = 1
    while len(set(names)) < len(names):
        parts += 1
        names = [Path(*place.parts[-parts:]).as_posix() for place in places]
    return names


def find_named_cases(words: Sequence[Path]) -> list[Path]:
    """The case folders that words of a command line name, each once.

    Args:
      words: case folders, data sets, or patterns that the shell did not expand.

    Returns:
      The folders. A word that names no case stays as it is, for its reader to refuse.
    """
    found: dict[Path, Path] = {}
    for word in words:
        cases: list[Path] = []
        for path in find_named([word]):
            try:
                cases += case_folder.find_cases(path)
            except (ValueError, OSError):
                cases += [path] if path.is_dir() else []  # not a file beside the cases
        for case in cases or [word]:
            found.setdefault(case.resolve(), case)
    return list(found.values())


def for_each(folders: Sequence[Path], work: Callable[[Path], None]) -> int:
    """Does the work on each folder; where there are several, a broken one does not stop the rest.

    Args:
      folders: of the cases.
      work: on one of them.

    Returns:
      The exit code: 0, or 2 if a case of several was refused.

    Raises:
      ValueError: the only case was refused.
    """
    if len(folders) == 1:
        work(folders[0])
        return 0
    failed = 0
    for number, folder in enumerate(folders):
        meshes.collect_meshes(number)
        try:
            work(folder)
        except REFUSALS as error:
            failed += 1
            text = sentence(error)
            place = "" if str(folder) in text else f"{folder}: "
            print(f"e2r: {place}{text}", file=sys.stderr)
    if failed:
        print(f"e2r: {failed} of {len(folders)} cases were refused", file=sys.stderr)
    return 2 if failed else 0


def folders_below(output: Path, folders: Sequence[Path]) -> dict[Path, Path]:
    """A folder for the results of each case: the output itself, or where there are several below.

    Args:
      output: for all results.
      folders: of the cases.

    Returns:
      case folder -> folder of its results, named as the case lies beside the others.
    """
    if len(folders) == 1:
        return {folders[0]: output}
    return {folder: output / name for folder, name in _names_apart(folders).items()}


def case_folders_below(output: Path, sources: Sequence[Path]) -> dict[Path, Path]:
    """The case folder of each source: the output itself, or where there are several one below.

    Args:
      output: a case folder, or a folder for several.
      sources: files or folders of frames.

    Returns:
      source -> case folder.

    Raises:
      ValueError: the output holds something else than cases, or two cases would have one name.
    """
    if len(sources) == 1:
        return {sources[0]: output}
    inside = file_checks.visible(output.iterdir()) if output.is_dir() else []
    if inside and ((output / "case.json").exists() or not any(output.glob("*/case.json"))):
        raise ValueError(
            f"{output}: is the last path and so the folder for the cases, but it holds other "
            "files; name a new folder, or one of cases, last"
        )
    names = {
        source: "_".join((name.parent / (name.name if source.is_dir() else name.stem)).parts)
        for source, name in _names_apart(sources).items()
    }
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise ValueError(f"{output / twice[0]}: two frames have this name; convert them apart")
    return {source: output / name for source, name in names.items()}


def _names_apart(paths: Sequence[Path]) -> dict[Path, Path]:
    """The paths as they lie below the folder that holds all of them."""
    places = [path.resolve() for path in paths]
    above = os.path.commonpath([place.parent for place in places])
    return {path: place.relative_to(above) for path, place in zip(paths, places, strict=True)}
