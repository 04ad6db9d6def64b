"""The fields of one camera: names without case and separators, numbers that are checked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from e2r.formats.file_checks import PathLike


class Field(NamedTuple):
    """A name as the file spells it, and its value."""

    label: str
    value: Any


def plain(name: Any) -> str:
    """A name in lower case without separators: ``Camera_Matrix`` is ``cameramatrix``.

    Args:
      name: as the file spells it; ORB-SLAM's ``Camera1.fx`` is ``fx``.
    """
    return re.sub(r"[^a-z0-9]", "", re.sub(r"^cam(era)?\d*\.", "", str(name).lower()))


def shown(value: Any, limit: int = 40) -> str:
    """A name or value for a message: short, and on one line.

    Args:
      value: any.
      limit: largest number of characters.
    """
    return " ".join(str(value).split())[:limit]


class Fields:
    """Fields of one camera, each of which is taken once; ``labels`` are all their names."""

    def __init__(self, given: dict[Any, Any], path: PathLike) -> None:
        self.path = path
        self.labels: set[str] = set()
        self._fields: dict[str, Field] = {}
        self.add(given)

    def add(self, given: dict[Any, Any]) -> None:
        """Adds fields; one that is there already must have the same value.

        Args:
          given: names, as the file spells them, and values; None is no value.

        Raises:
          ValueError: two names are the same but for case and separators, and their values differ.
        """
        for label, value in given.items():
            if value is None:
                continue
            self.labels.add(str(label))
            spelled = shown(label)
            old = self._fields.setdefault(plain(label), Field(spelled, value))
            if old.value is not value and not _same(old.value, value):
                raise ValueError(
                    f"{self.path}: {old.label} and {spelled} differ; leave the wrong one out"
                )

    def take(self, *names: str) -> Field | None:
        """Takes out the one of these fields that is there.

        Args:
          names: plain names of one thing.

        Raises:
          ValueError: two of them are there and differ.
        """
        found = [self._fields.pop(name) for name in names if name in self._fields]
        for other in found[1:]:
            if not _same(found[0].value, other.value):
                raise ValueError(
                    f"{self.path}: {found[0].label} and {other.label} differ; "
                    "leave the wrong one out"
                )
        return found[0] if found else None

    def has(self, *names: str) -> bool:
        """Whether one of these plain names is there.

        Args:
          names: plain names.
        """
        return any(name in self._fields for name in names)

    def left(self) -> Iterator[Field]:
        """The fields that nobody took."""
        return iter(self._fields.values())


def _same(a: Any, b: Any) -> bool:
    try:
        first, second = as_array(a), as_array(b)
        return first.size == second.size and np.allclose(
            first.ravel(), second.ravel(), rtol=1e-6, atol=1e-9
        )
    except (TypeError, ValueError, OverflowError):
        return bool(a == b)


def as_array(value: Any) -> np.ndarray:
    """Numbers of a list, of nested lists, or of a dictionary with rows, cols and data.

    Args:
      value: any.

    Raises:
      ValueError: no such numbers; or TypeError, or OverflowError.
    """
    if isinstance(value, dict) and "data" in value:
        shape = tuple(int(value[name]) for name in ("rows", "cols") if name in value)
        array = np.asarray(value["data"], np.float64)
        return array.reshape(shape) if len(shape) == 2 else array
    if isinstance(value, str | bool | bytes | dict | None):
        raise ValueError("no numbers")
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise ValueError("no numbers")
    return array.astype(np.float64)


def is_numbers(value: Any) -> bool:
    """Whether a value is a list or a matrix of numbers.

    Args:
      value: any.
    """
    try:
        return as_array(value).ndim > 0
    except (TypeError, ValueError, OverflowError):
        return False


def numbers(value: Any, count: int, *, path: PathLike, name: str) -> np.ndarray:
    """Exactly so many finite numbers, in one row.

    Args:
      value: of a field.
      count: of numbers; 0 for a single number.
      path: the file, for the message.
      name: of the field, for the message.

    Raises:
      ValueError: anything else.
    """
    try:
        array = as_array(value)
    except (TypeError, ValueError, OverflowError):
        array = np.full(0, np.nan)
    if array.size != max(count, 1) or (count == 0) != (array.ndim == 0):
        array = np.full(1, np.nan)
    if not np.isfinite(array).all():
        wanted = f"{count} numbers" if count else "a number"
        raise ValueError(f"{path}: {name} must be {wanted}, not {shown(value)}")
    return array.ravel()
