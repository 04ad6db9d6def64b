"""Tells of an exception whether a plug-in of the user raised it: which one, and at which line."""

from __future__ import annotations

import functools
import inspect
import traceback
import types
from typing import Any

from e2r.runtime import code_digest

LONGEST = 300
"""Characters of an exception's text that are repeated; JAX writes pages."""
_code: dict[types.CodeType, str] = {}
_files: dict[str, str] = {}


def remember(function: Any, name: str) -> None:
    """Notes that settings chose a plug-in.

    Args:
      function: a user's function or other callable.
      name: kind and name, such as "kernel mine:cauchy".
    """
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    function = getattr(function, "__func__", function)
    called = function if hasattr(function, "__code__") else type(function).__call__
    code = getattr(called, "__code__", None)
    if isinstance(code, types.CodeType):
        _code[code] = name
        _files.setdefault(code.co_filename, name)


def explain(error: BaseException) -> str | None:
    """A sentence on an exception that a plug-in raised; None for any other.

    A network raises its exceptions in a class, not in the function that builds it. So an exception
    from the file of a plug-in is that plug-in's.

    Args:
      error: that was caught.
    """
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    names = [_code.get(code) or _files.get(code.co_filename) for code, _ in frames]
    first = next((place for place, name in enumerate(names) if name), None)
    if first is None:
        return None
    name = next((_code[code] for code, _ in frames[first:] if code in _code), names[first])
    file, line = next(
        (code.co_filename, line)
        for place, (code, line) in reversed(list(enumerate(frames))[first:])
        if names[place] or _is_users(code.co_filename)
    )
    text = " ".join(str(error).split("\n\n")[0].split())
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return (
        f"{name} raised {type(error).__name__}{': ' * bool(text)}{text.rstrip('.')}, in {file}, "
        f"line {line}; mend it there, or set E2R_DEBUG=1 to see the whole traceback"
    )


def _is_users(file: str) -> bool:
    """Whether a source file is neither e2r's nor an installed package's."""
    inside = file.startswith(str(code_digest.PACKAGE))
    return not (inside or file.startswith("<") or code_digest.is_installed_file(file))
