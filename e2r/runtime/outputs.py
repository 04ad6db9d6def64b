"""Places for results. They are tried before the work, and nothing is left there."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from e2r.runtime.system_errors import explain


def require_folder(folder: Path) -> None:
    """Refuses a folder that cannot be made or written to.

    Args:
      folder: for results; it need not be there.

    Raises:
      ValueError: a file is in the way, or the system lets nothing be written there.
    """
    place = _nearest(folder)
    if not place.is_dir():
        raise ValueError(
            f"{place}: is a file where a folder is needed; name another output, or move this file"
        )
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(4096))  # a full disk takes names, but no content
    except OSError as error:
        error.filename = str(place)
        raise _refusal(folder, error) from None


def require_file(path: Path) -> None:
    """Refuses a file that cannot be made, or be written to at its end.

    Args:
      path: for results; it need not be there.

    Raises:
      ValueError: it is a folder, or the system lets nothing be written there.
    """
    if _nearest(path) != path:
        require_folder(path.parent)
        return
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; name a file in it")
    try:
        path.open("ab").close()
    except OSError as error:
        raise _refusal(path, error) from None


def _nearest(path: Path) -> Path:
    """The path itself if it is there, or else the nearest place above it that is."""
    for place in (path, *path.parents):
        try:
            place.lstat()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                raise _refusal(place, error) from None
        else:
            return place
    return Path(os.curdir)


def _refusal(path: Path, error: OSError) -> ValueError:
    return ValueError(f"{path}: cannot be written: {explain(error)}")
