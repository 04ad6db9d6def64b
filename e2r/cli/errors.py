"""Bad input ends a command with one sentence and exit code 2."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Options = TypeVar("Options")
REFUSALS = (ValueError, FloatingPointError, OSError)
"""What a command raises for input that it refuses, or for a place that the system refuses."""


def run_command(command: Callable[[], int]) -> int:
    """Runs a command with the compile cache on.

    Args:
      command: parses the options and does the work; returns the exit code.

    Returns:
      The command's exit code; 2 if the input was refused, 130 if the user interrupted. With
      ``E2R_DEBUG`` set, errors keep their traceback.
    """
    from e2r.runtime.compile_cache import enable_cache

    enable_cache()
    try:
        with _printed_notices():
            return command()
    except REFUSALS as error:
        if os.environ.get("E2R_DEBUG"):
            raise
        print(f"e2r: {sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "e2r: interrupted. Run the same command again: training and evaluation resume, other "
            "commands start over",
            file=sys.stderr,
        )
        return 130


def sentence(error: BaseException) -> str:
    """What is printed of an error: its text, or for one of the system a sentence with a remedy.

    Args:
      error: one of :data:`REFUSALS`.
    """
    from e2r.runtime.system_errors import explain

    text = explain(error) if isinstance(error, OSError) else str(error)
    return " ".join(text.split())


@contextlib.contextmanager
def _printed_notices() -> Iterator[None]:
    """Prints what readers say on stderr, and nowhere else."""
    from e2r.formats.notices import LOGGER

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("e2r: note: %(message)s"))
    LOGGER.addHandler(handler)
    passed_on, LOGGER.propagate = LOGGER.propagate, False
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.propagate = passed_on


def parse_options(
    options: type[Options],
    arguments: Sequence[str] | None,
    *,
    prog: str,
    description: str | None = None,
) -> Options:
    """Parses a command line into a dataclass.

    Args:
      options: the dataclass; its fields are the options, its docstring the help.
      arguments: the words of the command line; those of the process by default.
      prog: name of the command in the help.
      description: opens the help; the docstring by default.

    Raises:
      ValueError: a settings class refused its values; tyro would print a box in place of the
        sentence.
      SystemExit: help was asked for, or the words cannot be parsed.
    """
    import tyro

    from e2r.cli.option_types import OPTION_TYPES

    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                options, args=arguments, prog=prog, description=description, registry=OPTION_TYPES
            )
    except SystemExit as stop:
        refusal = _refusal_of_settings(stop)
        if refusal is not None:
            raise refusal from None
        print(printed.getvalue(), end="", file=sys.stderr)
        raise


def _refusal_of_settings(stop: SystemExit) -> ValueError | None:
    """The ValueError of a settings class that made tyro exit; None if it exited otherwise."""
    error = stop.__context__
    if isinstance(getattr(error, "arg", None), str):  # a nested class; for a word it is a record
        error = error.__context__ if error is not None else None
    return error if isinstance(error, ValueError) else None
