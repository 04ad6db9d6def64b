"""Plug-ins: functions that settings choose by name, those of e2r and those of its users.

A setting holds a name: a short one of a registry, or ``module:function``. From Python it may be
given the function itself, which is then named ``module:function``. Each setting also keeps a digest
of every foreign function's code. So two settings are equal only if their code is, and a program
that was compiled for one is never used for the other.

A file's settings import nothing: its plug-ins must be registered, imported, or listed in the
environment variable ``E2R_PLUGINS``.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import inspect
import os
import sys
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Generic, TypeAlias, TypeVar

from e2r.runtime import code_digest, plugin_mistakes

PluginName: TypeAlias = str | Callable[..., Any]
"""A plug-in in settings: its name, or when the settings are made the function itself."""
F = TypeVar("F", bound=Callable[..., Any])
VARIABLE = "E2R_PLUGINS"
"""Environment variable: modules to import before a plug-in is looked up, divided by commas."""
_may_import: ContextVar[bool] = ContextVar("_may_import", default=True)
_registered: dict[str, dict[str, Any]] = {}


class Chosen(str):
    """The name of a function in settings, with the digest of its code; none for e2r's own.

    Two are equal if name and digest are. To a plain string only the name is compared.
    """

    digest: str
    __slots__ = ("digest",)

    def __new__(cls, name: str, digest: str = "") -> Chosen:
        """Joins a name and a digest."""
        self = super().__new__(cls, name)
        self.digest = digest
        return self

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        return str(self), self.digest

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) is True and self.digest == getattr(
            other, "digest", self.digest
        )

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__

    def __repr__(self) -> str:
        return str.__repr__(self) + (f" ({self.digest})" if self.digest else "")


class UnknownPluginError(ValueError):
    """A plug-in is named that is neither registered nor importable."""


class Registry(Mapping[str, F], Generic[F]):
    """The functions of one kind by their short names, and those that ``module:function`` names.

    Args:
      kind: what the functions are, such as "kernel".
      functions: e2r's own, by short name.
      more: further ones, which other registries of this kind do not have.

    Raises:
      ValueError: a user has registered a function by the name of one of e2r's own.
    """

    def __init__(
        self, kind: str, functions: Mapping[str, F], *, more: Mapping[str, F] | None = None
    ) -> None:
        self.kind = kind
        shared = _registered.setdefault(kind, {})
        for name, function in functions.items():
            if not code_digest.is_own(shared.setdefault(name, function)):
                raise ValueError(f"{name!r} is a {kind} of e2r; choose another name")
        self._functions: Mapping[str, F] = ChainMap(dict(more or {}), shared)
        self._settled: dict[tuple[str, str], F] = {}

    def __getitem__(self, name: str) -> F:
        return self._functions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)

    def settle(self, choice: PluginName, *, field: str) -> Chosen:
        """The name of a choice, with the digest of its code.

        Args:
          choice: short name, ``module:function``, or a function of a module.
          field: the setting that holds it, for the error.

        Raises:
          UnknownPluginError: there is no such function.
        """
        name = str(choice) if isinstance(choice, str) else self._name_of(choice, field)
        function = self._look_up(name, field)
        _check_arguments(function, self.kind, f"{field} is {name!r}")
        chosen = Chosen(name, "" if code_digest.is_own(function) else code_digest.digest(function))
        if chosen.digest:
            plugin_mistakes.remember(function, f"{self.kind} {name}")
        self._settled[name, chosen.digest] = function
        return chosen

    def find(self, choice: PluginName) -> F:
        """The function that settings chose.

        Args:
          choice: as :meth:`settle` gave it; of a plain name, today's function.

        Raises:
          UnknownPluginError: there is no such function, or its code is not that of the settings.
        """
        name, digest = str(choice), getattr(choice, "digest", "")
        if (name, digest) not in self._settled:  # the settings come from another process
            today = self.settle(name, field=self.kind).digest
            if digest and today != digest:
                raise UnknownPluginError(
                    f"{self.kind} {name} has other code than when its settings were made; make "
                    "the settings again"
                )
            digest = today
        return self._settled[name, digest]

    def reached_code(self) -> tuple[()]:
        """Nothing: which functions are reached is in the settings."""
        return ()

    def _name_of(self, function: Callable[..., Any], field: str) -> str:
        for name, known in self._functions.items():
            if known is function:
                return name
        module = getattr(function, "__module__", "")
        qualname = getattr(function, "__qualname__", "")
        if module and _attribute(sys.modules.get(module), qualname) is function:
            return f"{module}:{qualname}"
        raise UnknownPluginError(
            f"{field} is a function that no module names; register it first, by "
            f'e2r.plugin("{self.kind}", name="...")(function)'
        )

    def _look_up(self, name: str, field: str) -> F:
        import_listed()
        if name in self._functions:
            return self._functions[name]
        module_name, _, qualname = name.partition(":")
        if qualname:
            function = _attribute(self._import(module_name, name, field), qualname)
            if callable(function):
                return function
            raise UnknownPluginError(
                f"{field} is {name!r}, but {module_name} has no function {qualname!r}"
            )
        near = difflib.get_close_matches(name, self._functions, n=1)
        known = "".join(f"{known}, " for known in self._functions) + "or " * bool(self._functions)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownPluginError(
            f"{field} is {name!r}{hint}; use {known}module:function"
            if _may_import.get()
            else f"{field} is {name!r}{_first(name)}"
        )

    def _import(self, module_name: str, name: str, field: str) -> Any:
        of_python = module_name.partition(".")[0] in sys.stdlib_module_names
        if not _may_import.get() and (of_python or module_name not in sys.modules):
            raise UnknownPluginError(f"{field} is {name!r}{_first(name)}")
        if module_name in sys.modules:
            return sys.modules[module_name]
        return _import_user_module(module_name, f"{field} is {name!r}")


def settle_plugins(settings: Any, section: str, **registries: Registry[Any]) -> None:
    """Replaces the plug-ins in new settings by their names and digests.

    Args:
      settings: a frozen dataclass; call it in ``__post_init__``.
      section: name of the settings, for errors.
      **registries: by the field that chooses from it: a name, or a tuple of names.

    Raises:
      UnknownPluginError: there is no such function.
    """
    for field, registry in registries.items():
        value, place = getattr(settings, field), f"{section}.{field}"
        settled: Any
        if isinstance(getattr(type(settings), field), tuple):  # several, or one for short
            several = value if isinstance(value, (tuple, list)) else (value,)
            settled = tuple(registry.settle(choice, field=place) for choice in several)
        else:
            settled = registry.settle(value, field=place)
        object.__setattr__(settings, field, settled)


def plugin_digests(*settings: Any) -> dict[str, str]:
    """The digests of all foreign functions in settings, by "field name".

    Args:
      *settings: dataclasses.
    """
    return {
        f"{field.name} {choice}": choice.digest
        for one in settings
        for field in dataclasses.fields(one)
        for value in [getattr(one, field.name)]
        for choice in (value if isinstance(value, tuple) else (value,))
        if isinstance(choice, Chosen) and choice.digest
    }


def plugin(kind: str, *, name: str | None = None) -> Callable[[F], F]:
    """A decorator that gives a function a short name, which settings can choose.

    A second function of the same name replaces the first for settings that are made later.

    Args:
      kind: step, kernel, correspondence, estimator, mask_network, coarse_network, loss_term or
        augmentation.
      name: the short name; the function's own name by default.

    Raises:
      ValueError: there is no such kind, or the name is one of e2r's own functions.
    """
    if kind not in KINDS:
        raise ValueError(f"plugin kind is {kind!r}; use one of {', '.join(KINDS)}")

    def register(function: F) -> F:
        short = name if name is not None else str(getattr(function, "__name__", ""))
        functions = _registered.setdefault(kind, {})
        if short in functions and code_digest.is_own(functions[short]):
            raise ValueError(f"{short!r} is a {kind} of e2r; choose another name")
        functions[short] = function
        return function

    return register


ARGUMENTS = {
    "step": ("cloud", "surface", "pose", "scale"),
    "kernel": ("square", "weights", "scale"),
    "correspondence": ("surface", "queries"),
    "estimator": ("key", "logits"),
    "mask_network": ("config",),
    "coarse_network": ("config",),
    "loss_term": ("inputs",),
    "augmentation": ("key", "example"),
}
"""Kind -> the arguments of its functions, by place."""
KINDS = tuple(ARGUMENTS)
"""What can be plugged in; docs/guides/extending.md gives the type of each."""


@contextmanager
def importing_nothing() -> Iterator[None]:
    """Within it, a name of a module that is not imported yet is an error: for settings of files."""
    token = _may_import.set(False)
    try:
        yield
    finally:
        _may_import.reset(token)


def import_listed() -> None:
    """Imports the modules that the environment variable ``E2R_PLUGINS`` lists.

    Raises:
      UnknownPluginError: one of them cannot be imported.
    """
    for module in filter(None, os.environ.get(VARIABLE, "").replace(" ", "").split(",")):
        name = module.partition(":")[0]  # who names a function means its module
        if name not in sys.modules:
            _import_user_module(name, f"{VARIABLE} names {module!r}")


def _import_user_module(module: str, sentence: str) -> Any:
    """Imports a module, from the working directory, too."""
    importlib.invalidate_caches()
    folder = os.getcwd()
    sys.path.append(folder)
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise UnknownPluginError(
            f"{sentence}, but {module} cannot be imported ({type(error).__name__}: {error}); start "
            "in its folder, or add that to PYTHONPATH"
        ) from error
    finally:
        with suppress(ValueError):
            sys.path.remove(folder)


def require_keywords(function: Any, names: Iterable[str], sentence: str) -> None:
    """Raises unless a function takes some keywords.

    Args:
      function: of a plug-in.
      names: of the keywords.
      sentence: which setting names the function, for the error.

    Raises:
      ValueError: it does not take one of them.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return  # a builtin does not say
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return
    for name in names:
        if name not in parameters or parameters[name].kind is inspect.Parameter.POSITIONAL_ONLY:
            raise ValueError(f"{sentence}, which takes no keyword {name}; give it one")


def _check_arguments(function: Any, kind: str, sentence: str) -> None:
    """Raises unless a function can be called as the functions of its kind are."""
    places = ARGUMENTS.get(kind)
    if places is None:
        return
    if isinstance(function, type):
        raise ValueError(
            f"{sentence}, which is a class; give a function of {', '.join(places)}"
            + (" that returns the module" if kind.endswith("network") else "")
        )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # a builtin does not say
    try:
        signature.bind_partial(*places)
        needed = [
            name
            for name, parameter in signature.parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
        alone = [
            name
            for name, parameter in signature.parameters.items()
            if parameter.default is parameter.empty and parameter.kind is parameter.KEYWORD_ONLY
        ]
        takes_them = len(needed) <= len(places) and not (alone and kind == "estimator")
    except TypeError:
        takes_them = False
    if not takes_them:
        raise ValueError(
            f"{sentence}, which takes {signature}; give a function of ({', '.join(places)})"
        )


def _first(name: str) -> str:
    module = name.partition(":")[0] if ":" in name else "the module that registers it"
    return (
        f", which is not known here: register {name} first. Import {module} in Python, or list it "
        f"in the environment variable {VARIABLE}"
    )


def _attribute(module: Any, qualname: str) -> Any:
    """An attribute by its dotted name; None if there is none."""
    return functools.reduce(lambda at, part: getattr(at, part, None), qualname.split("."), module)
