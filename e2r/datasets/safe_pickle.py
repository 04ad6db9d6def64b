"""Pickles of plain data, read without running anything that stands in them.

A pickle is a program. This reader follows it only where it builds numbers, texts, containers and
numpy arrays of numbers; numpy's own constructors are stood in for by the few lines below, which
make an array of bytes, a checked type and a shape. Any other name ends the reading.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

RECIPE = (
    "load it where you trust it, and write it again as dicts, lists, texts, numbers and numpy "
    "arrays of numbers with pickle.dump"
)


class _Kind:
    """Stands in for ``numpy.dtype``: plain numbers only."""

    def __init__(self, code: str, *_: object) -> None:
        if not re.fullmatch(r"[<>|=]?([biuf][1248]|b1)", code):
            raise pickle.UnpicklingError(f"an array of type {code}")
        self.code, self.order = code.lstrip("<>|="), code[0] if code[0] in "<>" else "="

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.order = state[1]

    def read(self, data: Any, shape: Any, order: Any) -> np.ndarray:
        if not isinstance(data, bytes | bytearray):
            raise pickle.UnpicklingError(f"an array made of a {type(data).__name__}")
        values = np.frombuffer(data, np.dtype(self.order + self.code))
        return values.reshape(shape, order=order)


class _Array:
    """Stands in for ``numpy.ndarray`` while it is read."""

    values = np.zeros(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, data = state
        self.values = kind.read(data, shape, "F" if fortran else "C")


def _empty(kind: object, *_: object) -> _Array:
    if kind != "ndarray":
        raise pickle.UnpicklingError(f"an array of kind {kind}")
    return _Array()


def _scalar(kind: _Kind, data: bytes) -> Any:
    return kind.read(data, (), "C").item()


def _buffer(data: Any, kind: _Kind, shape: Any, order: Any) -> np.ndarray:
    return kind.read(data, shape, order)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"a text in {encoding}")
    return text.encode("latin1")


def _bytes() -> bytes:
    """What old protocols write of empty bytes."""
    return b""


KNOWN: dict[str, Any] = {
    "numpy.ndarray": "ndarray",
    "numpy.dtype": _Kind,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _bytes,
    "__builtin__.set": set,
    "builtins.set": set,
    **{
        f"numpy.{core}.{name}": stand_in
        for core in ("core", "_core")
        for name, stand_in in (
            ("multiarray._reconstruct", _empty),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _buffer),
        )
    },
}
"""What a pickle may name -> what is called in its place."""


class _Reader(pickle.Unpickler):
    """Knows the names of :data:`KNOWN`, and no other."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return KNOWN[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name}") from None


def _plain(value: Any) -> Any:
    """The value with arrays in place of their stand-ins."""
    if isinstance(value, _Array):
        return value.values
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(_plain(item) for item in value)
    if value is None or isinstance(value, bool | int | float | str | bytes | np.ndarray):
        return value
    raise pickle.UnpicklingError(f"a {type(value).__name__}")


def read(path: Path) -> Any:
    """What a pickle of plain data holds.

    Raises:
      ValueError: no such file, not whole, or anything in it but plain data; nothing of it was run.
    """
    try:
        with path.open("rb") as file:
            return _plain(_Reader(file).load())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; download it again") from None
    except pickle.UnpicklingError as error:
        what = " ".join(str(error).split())[:80]
        raise ValueError(f"{path}: is no pickle of plain data ({what}); {RECIPE}") from None
    except Exception as error:  # a broken program can end in any way
        what = f"{type(error).__name__} {error}"[:80]
        raise ValueError(
            f"{path}: is no whole pickle ({' '.join(what.split())}); download it again"
        ) from None
