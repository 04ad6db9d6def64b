"""Bad input ends a command with one sentence and exit code 2."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from e2r.runtime.system_errors import REFUSALS, explain

Options = TypeVar("Options")


def run_command(command: Callable[[], int]) -> int:
    """Runs a command with the compile cache on.

    Args:
      command: parses the options and does the work; returns the exit code.

    Returns:
      The command's exit code; 2 if the input was refused or a plug-in raised an exception, 130 if
      the user interrupted. With ``E2R_DEBUG`` set, errors keep their traceback.
    """
    from e2r.runtime import plugin_mistakes
    from e2r.runtime.compile_cache import enable_cache

    enable_cache()
    try:
        with _printed_notices():
            return command()
    except Exception as error:
        mistake = plugin_mistakes.explain(error)
        if os.environ.get("E2R_DEBUG") or not (mistake or isinstance(error, REFUSALS)):
            raise
        print(f"e2r: {mistake or sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "e2r: interrupted. Run the same command again: training, adaptation, evaluation and "
            "long studies resume; other commands start over, in another --output if theirs is not "
            "empty",
            file=sys.stderr,
        )
        return 130


def sentence(error: BaseException) -> str:
    """What is printed of an error: its text, or for one of the system a sentence with a remedy.

    Args:
      error: one of ``REFUSALS``.
    """
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
      ValueError: a settings class refused its values, or the words cannot be parsed; tyro would
        print a box in place of the sentence.
      SystemExit: help was asked for.
    """
    import tyro

    from e2r.cli.option_types import OPTION_TYPES

    def parse(words: Sequence[str]) -> Options:
        return tyro.cli(
            options, args=words, prog=prog, description=description, registry=OPTION_TYPES
        )

    given = sys.argv[1:] if arguments is None else arguments
    first = itertools.takewhile(lambda word: not word.startswith("-"), given)
    chosen = [word for word in given if re.fullmatch(r"[\w.-]+:[\w-]+", word)]
    return _parse(parse, given, commands=list(dict.fromkeys([*first, *chosen])))


def parse_named(
    named: Mapping[str, tuple[str, Options]],
    arguments: Sequence[str] | None,
    *,
    prog: str,
    description: str | None = None,
) -> Options:
    """Parses a command line that begins with the name of some options, and changes them.

    Args:
      named: name -> what they are for, and the options.
      arguments: the words of the command line; those of the process by default.
      prog: name of the command in the help.
      description: opens the help.

    Raises:
      ValueError: a settings class refused its values, or the words cannot be parsed.
      SystemExit: help was asked for.
    """
    import tyro

    from e2r.cli.option_types import OPTION_TYPES

    def parse(words: Sequence[str]) -> Options:
        return tyro.extras.overridable_config_cli(
            dict(named), args=words, prog=prog, description=description, registry=OPTION_TYPES
        )

    given = sys.argv[1:] if arguments is None else arguments
    name = next((word for word in given if not word.startswith("-")), None)
    if given and name != given[0]:
        name = None  # no name, or options before it
    if name is not None and name not in named:
        raise ValueError(f"{name!r} is no named configuration; use one of {', '.join(named)}")
    return _parse(parse, given, commands=[name] if name else [])


def _parse(
    parse: Callable[[Sequence[str]], Options], given: Sequence[str], *, commands: Sequence[str]
) -> Options:
    """Parses words by tyro; ``commands`` are those of them that say which options there are."""
    from e2r.cli import words

    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return parse(given)
    except ValueError as refusal:  # of settings whose options have no section
        options = words.options_in(_help_text(parse, commands))
        raise ValueError(words.as_typed(str(refusal), options)) from refusal
    except SystemExit as stop:
        if not stop.code:
            raise
        refused = _refusal_of_settings(stop)
        options = words.options_in(_help_text(parse, commands))
        sentence = str(refused) if refused else None
        sentence = sentence or words.explain_words(given, options, printed.getvalue())
        if sentence is None:
            print(printed.getvalue(), end="", file=sys.stderr)
            raise
        raise ValueError(words.as_typed(sentence, options)) from None


def _help_text(parse: Callable[[Sequence[str]], Options], commands: Sequence[str]) -> str:
    printed = io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.suppress(SystemExit),
    ):
        parse([*commands, "--help"])
    return printed.getvalue()


def _refusal_of_settings(stop: SystemExit) -> ValueError | None:
    """The ValueError of a settings class that made tyro exit; None if it exited otherwise."""
    error = stop.__context__
    if isinstance(getattr(error, "arg", None), str):  # a nested class; for a word it is a record
        error = error.__context__ if error is not None else None
    return error if isinstance(error, ValueError) else None
