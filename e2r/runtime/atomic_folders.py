"""Folders whose parts are replaced all at once: a reader sees the old ones or the new ones."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

RENAME_EXCHANGE = 2
"""Flag of Linux's ``renameat2``: both names change places in one step."""
AT_FDCWD = -100
HOST = re.sub(r"\W", "-", platform.node())
"""Of this machine, as a part of a file's name: another one may write to the same disk."""


@contextmanager
def replace_parts(
    folder: Path, parts: Collection[str] = (), *, last: str | None = None
) -> Iterator[Path]:
    """Gives an empty folder to write to; its files replace ``parts`` if the block succeeds.

    A folder that a killed process left for the same purpose is removed.

    All other files of ``folder`` stay. Where files are replaced, the folder is exchanged as a
    whole, so that a killed process leaves the old ones or the new ones.

    Args:
      folder: made if it is missing.
      parts: the files to replace, relative to the folder; those that are written anew are, too.
      last: the file that makes the others count. It comes last into a folder without parts.

    Raises:
      ValueError: the folder cannot be exchanged; the message says why.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = not folder.exists() or (
        folder.stat().st_dev == folder.parent.stat().st_dev and os.access(folder.parent, os.W_OK)
    )
    above = folder.parent if beside else folder
    _remove_stale(above, folder.name)
    stage = above / _stage_name(folder.name, os.getpid())
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir()
    try:
        yield stage
        written = _files(stage)
        if not folder.exists():
            stage.rename(folder)
        elif not _any_there(folder, {*parts, *written}):
            _move(stage, folder, [*(name for name in written if name != last), *_only(last)])
        else:
            _check_exchange(folder, beside)
            _carry(folder, stage, without=parts)
            shutil.copymode(folder, stage)
            _exchange(stage, folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def written_since(folder: Path, seconds: float) -> bool:
    """Whether anything in a folder may have been written, moved or copied since a time.

    Args:
      folder: of a data set, for example.
      seconds: the time, since 1970.
    """
    places = [folder.parent]  # it changes where the folder is moved
    for above, _, files in os.walk(folder, followlinks=True):
        places += [Path(above), *(Path(above) / name for name in files)]
    states = [path.stat() for path in places if path.exists()]
    return any(max(state.st_mtime, state.st_ctime) >= seconds for state in states)


def _stage_name(name: str, process: int | str) -> str:
    return f".{name}.{HOST}.{process}.part"


def _remove_stale(above: Path, name: str) -> None:
    """Removes what processes of this machine that are gone have left."""
    pattern = re.compile(re.escape(_stage_name(name, "#")).replace(r"\#", r"(\d+)"))
    for path in list(above.iterdir()):
        match = pattern.fullmatch(path.name)
        if match and not _is_running(int(match[1])):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of another user
        return True
    return True


def _only(name: str | None) -> list[str]:
    return [] if name is None else [name]


def _files(folder: Path) -> list[str]:
    """The files and links below a folder, relative to it."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    )


def _any_there(folder: Path, parts: Collection[str]) -> bool:
    """Whether a part is there, or lies in a folder that is only a link to another one."""
    return any(
        os.path.lexists(folder / part) or (folder / part).parent.resolve() != (folder / part).parent
        for part in parts
    )


def _move(stage: Path, folder: Path, names: Collection[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (stage / name).replace(folder / name)


def _check_exchange(folder: Path, beside: bool) -> None:
    if Path.cwd().is_relative_to(folder):
        raise ValueError(
            f"{folder}: would be replaced while you are in it; run the command from another folder"
        )
    if not beside:
        raise ValueError(
            f"{folder}: cannot be replaced, because nothing can be written beside it; "
            "name another folder"
        )


def _carry(folder: Path, stage: Path, *, without: Collection[str]) -> None:
    """Puts the other files of the old folder into the new one, as second names of the same."""
    for above, folders, files in os.walk(folder):
        here = stage / Path(above).relative_to(folder)
        for name in [*files, *folders]:
            old, new = Path(above) / name, here / name
            if os.path.lexists(new) or old.relative_to(folder).as_posix() in without:
                continue
            if old.is_dir() and not old.is_symlink():
                new.mkdir()
                continue
            try:
                os.link(old, new, follow_symlinks=False)
            except OSError:  # a disk without second names
                shutil.copy2(old, new, follow_symlinks=False)


def _exchange(new: Path, old: Path) -> None:
    """Lets two folders change their names."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        done = False
    else:
        names = os.fsencode(new), os.fsencode(old)
        done = rename(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0
    if done:
        return
    aside = new.with_name(f"{new.name}.old")  # a system or a disk that cannot exchange
    old.rename(aside)
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        raise
    aside.rename(new)
