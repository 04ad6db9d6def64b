"""What a reader says without refusing: through the logger ``e2r``, one sentence each."""

from __future__ import annotations

import logging

from e2r.formats.file_checks import PathLike

LOGGER = logging.getLogger("e2r")


def say(path: PathLike, sentence: str) -> None:
    """Tells the user what was decided about a file; the command line prints it as a note.

    Args:
      path: the file.
      sentence: continues the path: ``is y up; it was turned about x``.
    """
    LOGGER.warning("%s: %s", path, sentence)


def doubt(path: PathLike, sentence: str, *, remedy: str, unchecked: bool | None) -> None:
    """Refuses a file that is probably wrong; only says so where the user insists.

    Args:
      path: the file.
      sentence: continues the path: ``could not be checked``.
      remedy: what to do about it, as an order.
      unchecked: whether the user insists; None where no option lets him.

    Raises:
      ValueError: he does not.
    """
    if not unchecked:
        way_out = "" if unchecked is None else ", or use it as it is with --unchecked"
        raise ValueError(f"{path}: {sentence}; {remedy}{way_out}")
    say(path, f"{sentence}; it was used, for --unchecked says so")
