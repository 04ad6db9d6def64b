"""A digest of all code and constants that a function can reach: the honest key of its results.

The name of a function says nothing about its figures: a constant may have been edited, or a cell of
a notebook run again. :func:`digest` therefore walks from a function to all it refers to: bytecode,
defaults, closures, global functions, classes and constants, through every module outside the
installed packages. Of an installed package it takes the object's name only.

What is reached by a name that is only known at run time (``getattr``, ``importlib``) is not seen,
unless an object names it by :attr:`CODE_PROTOCOL`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import sys
import sysconfig
import types
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PACKAGE = Path(__file__).resolve().parents[1]
CODE_PROTOCOL = "reached_code"
"""Method by which an object names the functions that it calls by name."""
FIGURELESS_ROOMS = ("cli", "visualisation")
"""Rooms of e2r whose code changes no figure."""
_INSTALLED = tuple(
    {sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_PACKAGE_FOLDERS = frozenset({"site-packages", "dist-packages"})
"""Names of the folders of installed packages. A process may use several: those of its virtual
environment, of the system below it, and of the user."""
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), np.dtype, np.generic)
_CODE = (types.FunctionType, types.MethodType, functools.partial, type)
_UNSEEN = object()


class Snapshot(NamedTuple):
    """The code that a function reached at one time."""

    digest: str
    """twenty hexadecimal digits; the same code has the same in every process of one Python"""
    looked_up: list[tuple[Mapping[Any, Any], Any, Any]]
    """(namespace, name, value) of everything that was looked up"""
    functions: list[tuple[types.FunctionType, tuple[Any, ...]]]
    """each function, with its code and defaults, which can be replaced in place"""
    jitted: list[Any]
    """the functions among them that are jitted by themselves"""

    def is_current(self) -> bool:
        """Whether nothing was replaced since: a quick test, which errs towards False."""
        return all(
            space.get(name, _UNSEEN) is value for space, name, value in self.looked_up
        ) and all(
            function.__code__ is code
            and function.__defaults__ is defaults
            and function.__kwdefaults__ == keywords
            for function, (code, defaults, keywords) in self.functions
        )


def take_snapshot(*roots: Any) -> Snapshot:
    """Walks from functions to all they reach.

    Args:
      *roots: functions, partial functions, classes, settings or plain values.
    """
    walk = _Walk()
    for root in roots:
        walk.visit(root)
    return Snapshot(walk.sha.hexdigest()[:20], walk.looked_up, walk.functions, walk.jitted)


def digest(*roots: Any) -> str:
    """The digest of :func:`take_snapshot`."""
    return take_snapshot(*roots).digest


@functools.cache
def package_digest() -> str:
    """The digest of e2r's own sources, without the rooms that change no figure.

    It is of the first call: later edits of the files are not those that this process runs.
    """
    sha = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        if place.parts[0] not in FIGURELESS_ROOMS:
            sha.update(f"{place} ".encode() + path.read_bytes())
    return sha.hexdigest()[:20]


def is_own(thing: Any) -> bool:
    """Whether a function or class is e2r's own; a partial function is not.

    Args:
      thing: a function, a class, or another callable.
    """
    if isinstance(thing, functools.partial):
        return False
    module = getattr(inspect.unwrap(thing), "__module__", None) or ""
    return module.split(".")[0] == PACKAGE.name


class _Walk:
    """One walk: a hash, and what it has been fed already."""

    def __init__(self) -> None:
        self.sha = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no id is used twice
        self._by_kind: list[tuple[Any, Callable[[Any], None]]] = [
            ((list, tuple), self._visit_sequence),
            (Mapping, self._visit_mapping),
            ((set, frozenset), self._visit_set),
            (types.ModuleType, self._visit_module),
            (types.CodeType, self._visit_code),
            (functools.partial, self._visit_partial),
            (types.MethodType, self._visit_method),
            (type, self._visit_class),
        ]
        self._attributes: set[tuple[int, str]] = set()
        self.looked_up: list[tuple[Mapping[Any, Any], Any, Any]] = []
        self.functions: list[tuple[types.FunctionType, tuple[Any, ...]]] = []
        self.jitted: list[Any] = []

    def _look_up(self, space: Mapping[Any, Any], name: Any) -> Any:
        """A value of a namespace, which is remembered."""
        value = space.get(name, _UNSEEN)
        self.looked_up.append((space, name, value))
        return value

    def _feed(self, *parts: Any) -> None:
        self.sha.update("\0".join(map(str, parts)).encode() + b"\1")

    def visit(self, thing: Any) -> None:
        """Feeds a thing, and all that it reaches."""
        if isinstance(thing, _PLAIN):
            self._feed(type(thing).__name__, repr(thing))
            return
        if id(thing) in self._seen:
            self._feed("seen", self._seen[id(thing)])
            return
        self._seen[id(thing)] = len(self._seen)
        self._kept.append(thing)
        for kinds, visit in self._by_kind:
            if isinstance(thing, kinds):
                visit(thing)
                return
        if hasattr(thing, "__wrapped__") and callable(thing):
            self._visit_wrapper(thing)
        elif isinstance(thing, types.FunctionType):
            self._visit_function(thing)
        elif hasattr(thing, "__array__") and hasattr(thing, "dtype"):
            self._visit_array(thing)
        else:
            self._visit_object(thing)

    def _visit_sequence(self, thing: list[Any] | tuple[Any, ...]) -> None:
        self._feed(type(thing).__qualname__, len(thing))
        for item in thing:
            self.visit(item)

    def _visit_mapping(self, thing: Mapping[Any, Any]) -> None:
        self._feed("mapping", len(thing))
        for key in list(thing):
            self.visit(key)
            self.visit(self._look_up(thing, key))

    def _visit_set(self, thing: set[Any] | frozenset[Any]) -> None:
        self._feed("set", sorted(map(repr, thing)))

    def _visit_module(self, thing: types.ModuleType) -> None:
        self._feed("module", thing.__name__)

    def _visit_partial(self, thing: functools.partial[Any]) -> None:
        self._feed("partial")
        for part in (thing.func, thing.args, thing.keywords):
            self.visit(part)

    def _visit_method(self, thing: types.MethodType) -> None:
        self.visit(thing.__func__)
        self.visit(thing.__self__)

    def _visit_wrapper(self, thing: Any) -> None:
        """A decorated function: the decorator's code counts, too, unless it is installed."""
        inner = thing.__wrapped__
        if hasattr(thing, "clear_cache"):
            self.jitted.append(thing)
        if isinstance(thing, types.FunctionType) and not _is_installed_code(thing):
            self._visit_function(thing)
        else:
            self._feed("wrapped by", type(thing).__qualname__)
        self.visit(inner)

    def _visit_function(self, thing: types.FunctionType) -> None:
        self._feed("function", thing.__module__, thing.__qualname__)
        if _is_installed(thing.__module__):
            return
        self.functions.append(
            (thing, (thing.__code__, thing.__defaults__, _copy(thing.__kwdefaults__)))
        )
        self.visit(thing.__code__)
        self.visit(thing.__defaults__)
        self.visit(thing.__kwdefaults__)
        for cell in thing.__closure__ or ():
            try:
                self.visit(cell.cell_contents)
            except ValueError:
                self._feed("empty cell")
        names = _code_names(thing.__code__)
        for name in names:
            if name in thing.__globals__:
                self._visit_name(thing.__globals__, name, names)
            elif name in sys.modules:  # imported inside the function
                self._visit_name(sys.modules, name, names)

    def _visit_name(self, space: Mapping[str, Any], name: str, names: list[str]) -> None:
        """A name of a namespace; of a module, those of its attributes that the code names."""
        value = self._look_up(space, name)
        self._feed("name", name)
        self.visit(value)
        if isinstance(value, types.ModuleType) and not _is_installed(value.__name__):
            for attribute in names:
                if attribute in vars(value) and (id(value), attribute) not in self._attributes:
                    self._attributes.add((id(value), attribute))
                    self._visit_name(vars(value), attribute, names)

    def _visit_code(self, code: types.CodeType) -> None:
        self._feed("code", code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars)
        for constant in code.co_consts:
            self.visit(constant)

    def _visit_class(self, kind: type) -> None:
        self._feed("class", kind.__module__, kind.__qualname__)
        if _is_installed(kind.__module__):
            return
        for base in kind.__bases__:
            self.visit(base)
        for name in sorted(vars(kind)):
            if name in _CLASS_TRIVIA or name.startswith("_abc_"):
                continue
            self._feed("attribute", name)
            inner = value = self._look_up(vars(kind), name)
            if isinstance(value, (staticmethod, classmethod)):
                inner = value.__func__
            elif isinstance(value, property):
                inner = (value.fget, value.fset)
            elif isinstance(value, functools.cached_property):
                inner = value.func
            self.visit(inner)

    def _visit_array(self, thing: Any) -> None:
        try:
            array = np.asarray(thing)
        except TypeError:  # typed random keys
            self._feed("object", repr(thing))
            return
        self._feed("array", array.dtype, array.shape, hashlib.sha256(array.tobytes()).hexdigest())

    def _visit_object(self, thing: Any) -> None:
        """An instance: its class, its fields, and what it says it calls by name."""
        kind = type(thing)
        self.visit(kind)
        reached = getattr(kind, CODE_PROTOCOL, None)
        if reached is not None:
            self.visit(reached(thing))
        if dataclasses.is_dataclass(thing):
            for field in dataclasses.fields(thing):
                self._feed("field", field.name)
                self.visit(getattr(thing, field.name))
        elif reached is None and hasattr(thing, "__dict__"):
            own = not _is_installed(kind.__module__)
            for name in sorted(vars(thing)):
                value = self._look_up(vars(thing), name)
                self._feed("field", name, type(value).__qualname__)
                if own or isinstance(value, (*_PLAIN, *_CODE, list, tuple)):
                    self.visit(value)
        elif reached is None and not _is_installed(kind.__module__):
            self._feed("opaque", uuid.uuid4())  # nothing is known of it: it is never the same


_CLASS_TRIVIA = frozenset(
    {
        *("__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__annotations__"),
        *("__annotate__", "__annotate_func__", "__annotations_cache__", "__firstlineno__"),
        *("__static_attributes__", "__abstractmethods__", "__parameters__", "__orig_bases__"),
        *("__match_args__", "__dataclass_fields__", "__dataclass_params__"),
    }
)
"""Attributes of a class that change no figure, or repeat others."""


def _code_names(code: types.CodeType) -> list[str]:
    """The global and attribute names that a function's code uses, with those of inner functions."""
    names = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names += _code_names(constant)
    return list(dict.fromkeys(names))


def _copy(defaults: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if defaults is None else dict(defaults)


@functools.cache
def _is_installed(name: str | None) -> bool:
    """Whether a module is not walked: of Python, of an installed package, or a tool of e2r."""
    if name is None or name in ("builtins", "typing"):
        return True
    if name.startswith(f"{PACKAGE.name}.runtime."):
        return True  # it runs programs and is not in them
    if name.split(".")[0] == PACKAGE.name or name == "__main__":
        return False
    module = sys.modules.get(name)
    if module is None:
        return False
    file = getattr(module, "__file__", None)
    return file is None or is_installed_file(file)


def _is_installed_code(function: types.FunctionType) -> bool:
    """Whether a function's code comes from an installed package, whatever its module says."""
    file = function.__code__.co_filename
    return file.startswith("<@beartype") or is_installed_file(file)


def is_installed_file(file: str) -> bool:
    """Whether a source file belongs to Python or an installed package.

    Args:
      file: its path, as a code object names it.
    """
    path = Path(file).resolve()
    return str(path).startswith(_INSTALLED) or not _PACKAGE_FOLDERS.isdisjoint(path.parts)
