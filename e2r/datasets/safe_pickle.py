"""Reads pickles of plain data, and runs no code that they contain.

A pickle is a program. This reader follows it only where it builds numbers, texts, containers and
numpy arrays of numbers. The functions below stand in for numpy's constructors. They make an array
from bytes, a checked type and a shape. Any other name ends the reading.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from e2r.formats.file_checks import PathLike, one_line

REMEDY = (
    "load it where you trust it, and write it again as dicts, lists, texts, numbers and numpy "
    "arrays of numbers with pickle.dump"
)


def read(path: PathLike) -> Any:
    """Reads a pickle of plain data.

    Args:
      path: the file.

    Raises:
      ValueError: the file is missing or cut short, or holds anything but plain data.
    """
    try:
        with Path(path).open("rb") as file:
            return _to_plain(_Unpickler(file).load())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; download it again") from None
    except pickle.UnpicklingError as error:
        reason = one_line(error, 80)
        raise ValueError(f"{path}: is no pickle of plain data ({reason}); {REMEDY}") from None
    except Exception as error:  # a broken program can end in any way
        reason = f"{type(error).__name__} {one_line(error)}"[:80]
        raise ValueError(f"{path}: is no whole pickle ({reason}); download it again") from None


class _DtypeStandIn:
    """Stands in for ``numpy.dtype``: plain numbers only."""

    def __init__(self, code: str, *_: object) -> None:
        if not re.fullmatch(r"[<>|=]?([biuf][1248]|b1)", code):
            raise pickle.UnpicklingError(f"an array of type {code}")
        self.code, self.byte_order = code.lstrip("<>|="), code[0] if code[0] in "<>" else "="

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.byte_order = state[1]

    def decode(self, content: Any, shape: Any, order: Any) -> np.ndarray:
        """The array that these bytes hold, in C or Fortran order."""
        if not isinstance(content, bytes | bytearray):
            raise pickle.UnpicklingError(f"an array made of a {type(content).__name__}")
        values = np.frombuffer(content, np.dtype(self.byte_order + self.code))
        return values.reshape(shape, order=order)


class _ArrayStandIn:
    """Stands in for ``numpy.ndarray`` while it is read."""

    values = np.zeros(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, content = state
        self.values = dtype.decode(content, shape, "F" if fortran else "C")


def _reconstruct(kind: object, *_: object) -> _ArrayStandIn:
    if kind != "ndarray":
        raise pickle.UnpicklingError(f"an array of kind {kind}")
    return _ArrayStandIn()


def _scalar(dtype: _DtypeStandIn, content: bytes) -> Any:
    return dtype.decode(content, (), "C").item()


def _from_buffer(content: Any, dtype: _DtypeStandIn, shape: Any, order: Any) -> np.ndarray:
    return dtype.decode(content, shape, order)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"a text in {encoding}")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    """Old protocols write empty bytes as a call."""
    return b""


STAND_INS: dict[str, Any] = {
    "numpy.ndarray": "ndarray",
    "numpy.dtype": _DtypeStandIn,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _empty_bytes,
    "__builtin__.set": set,
    "builtins.set": set,
    **{
        f"numpy.{core}.{name}": stand_in
        for core in ("core", "_core")
        for name, stand_in in (
            ("multiarray._reconstruct", _reconstruct),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _from_buffer),
        )
    },
}
"""The names that a pickle may use -> what is called in their place."""


class _Unpickler(pickle.Unpickler):
    """Knows the names of :data:`STAND_INS`, and no other."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return STAND_INS[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name}") from None


def _to_plain(value: Any) -> Any:
    """The value, with arrays in place of their stand-ins."""
    if isinstance(value, _ArrayStandIn):
        return value.values
    if isinstance(value, dict):
        return {_to_plain(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(_to_plain(item) for item in value)
    if value is None or isinstance(value, bool | int | float | str | bytes | np.ndarray):
        return value
    raise pickle.UnpicklingError(f"a {type(value).__name__}")
