"""Caches of compiled and of traced programs, so that a new process starts fast.

XLA's own cache saves the compilation. Python must still trace a program before it can look it up
there. :class:`CachedProgram` therefore keeps the traced program (StableHLO, by ``jax.export``)
beside that cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import flax
import jax
import numpy as np
from jax import export

from e2r.runtime import code_digest
from e2r.runtime.atomic_files import atomic_write
from e2r.runtime.timing import timed

T = TypeVar("T")
code_digest.package_digest()  # of the sources as this process reads them, not as edited later
FAST_COMPILE: dict[str, str | bool] = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_backend_optimization_level": "1",
}
"""XLA's options for a program that runs a few times only: half the compile time on a CPU, but a
slower program."""


def enable_cache() -> None:
    """Keeps compiled programs between processes, in ``E2R_CACHE`` (``~/.cache/e2r`` by default)."""
    cache = Path(os.environ.get("E2R_CACHE", Path.home() / ".cache" / "e2r"))
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a read-only home only costs compile time
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


class HonestJit(Generic[T]):
    """``jax.jit`` that compiles anew when code or constants were replaced in this process.

    ``jax.jit`` knows a function by its identity: it would go on with what a constant, a plug-in or
    a notebook's function was at the first call.

    Args:
      function: pure.
      **options: of ``jax.jit``.
    """

    def __init__(self, function: Callable[..., T], **options: Any) -> None:
        self._function, self._options = function, options
        self._current: tuple[str, Any] | None = None
        self._snapshot: code_digest.Snapshot | None = None

    def __call__(self, *arguments: Any, **keywords: Any) -> T:
        """Calls the function."""
        return self.current()(*arguments, **keywords)

    def current(self) -> Any:
        """The jitted function of today's code."""
        code = self.code()
        if self._current is None or self._current[0] != code:
            self._current = code, jax.jit(partial(self._function), **self._options)
        return self._current[1]

    def compilations(self) -> int:
        """The number of compiled programs: one for all arguments of the same shapes."""
        size: int = 0 if self._current is None else self._current[1]._cache_size()
        return size

    def code(self) -> str:
        """The digest of all code that the function reaches now."""
        if self._snapshot is None or not self._snapshot.is_current():
            before, self._snapshot = self._snapshot, code_digest.take_snapshot(self._function)
            if before is not None and before.digest != self._snapshot.digest:
                for inside in self._snapshot.jitted:
                    inside.clear_cache()  # it would go on with the old code
        return self._snapshot.digest


class CachedProgram(Generic[T]):
    """A function under ``jit`` whose traces are kept in the folder of XLA's cache, if there is one.

    The name of a trace covers all it depends on: e2r's sources, every function and constant that it
    reaches, versions, devices, and the shapes of the arguments. A broken file is replaced.

    Args:
      function: pure; takes and returns pytrees of tuples, named tuples, lists and dictionaries. Its
        settings are bound with ``functools.partial``.
      fast_compile: it runs a few times only; compile it with :data:`FAST_COMPILE`.
    """

    def __init__(self, function: Callable[..., T], *, fast_compile: bool = False) -> None:
        self._function = function
        self._options = FAST_COMPILE if fast_compile else {}
        self._jit = HonestJit(function, compiler_options=self._options)
        self._compiled: dict[Any, Callable[..., T]] = {}
        self._preparing = threading.Lock()

    def __call__(self, *arguments: Any) -> T:
        """Calls the function."""
        return self.prepare(*arguments)(*arguments)

    def is_ready(self, *arguments: Any) -> bool:
        """Whether the program for arguments of these shapes is compiled."""
        return self._key(arguments) in self._compiled

    def _key(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        leaves, tree = jax.tree.flatten(arguments)
        return self._jit.code(), tuple((leaf.shape, leaf.dtype) for leaf in leaves), tree

    def prepare(self, *arguments: Any) -> Callable[..., T]:
        """The compiled program for arguments of these shapes; it is not run."""
        key = self._key(arguments)
        found = self._compiled.get(key)
        if found is None:
            with self._preparing:  # threads that ask together wait for one compilation
                found = self._prepare(key, arguments)
        return found

    def _prepare(self, key: tuple[Any, ...], arguments: tuple[Any, ...]) -> Callable[..., T]:
        cache = jax.config.values["jax_compilation_cache_dir"]
        if key not in self._compiled:
            # A program holds thousands of memory mappings, and a process may have 65,530.
            self._compiled = {k: v for k, v in self._compiled.items() if k[0] == key[0]}
        if key not in self._compiled and not cache:
            with timed("compiling programs"):
                self._compiled[key] = self._jit.current().lower(*arguments).compile()
        elif key not in self._compiled:
            identity = f"{_environment()} {key}"
            name = hashlib.sha256(identity.encode()).hexdigest()[:32]
            with timed("tracing programs"):
                traced = self._load_or_trace(Path(cache) / "traced" / name, arguments)
                lowered = jax.jit(traced.call).lower(*arguments)
            with timed("compiling programs"):
                self._compiled[key] = lowered.compile(self._options)
        return self._compiled[key]

    def _load_or_trace(self, path: Path, arguments: tuple[Any, ...]) -> export.Exported:
        try:
            return _read_trace(path)
        except Exception:  # it is missing, or broken in whatever way
            pass
        types = _named_tuples(arguments)

        def function(*arguments: Any) -> T:
            result = self._function(*arguments)
            types.update(_named_tuples(result))
            return result

        traced = export.export(jax.jit(function, compiler_options=self._options))(*arguments)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_trace(path, traced, types)
        except OSError:
            pass  # a full or read-only disk only costs the next process's time
        return traced


def _write_trace(path: Path, traced: export.Exported, types: set[type[tuple]]) -> None:
    """Writes the named tuples of a trace, one JSON line, and then the trace."""
    _register(types)
    header = sorted((kind.__module__, kind.__qualname__) for kind in types)
    with atomic_write(path) as part:
        part.write_bytes(json.dumps(header).encode() + b"\n" + traced.serialize())


def _read_trace(path: Path) -> export.Exported:
    """Reads what :func:`_write_trace` wrote. It imports nothing that a file names."""
    header, trace = path.read_bytes().split(b"\n", 1)
    _register(getattr(sys.modules[module], name) for module, name in json.loads(header))
    return export.deserialize(bytearray(trace))


def _named_tuples(tree: Any) -> set[type[tuple]]:
    """The types of the named tuples in a pytree."""
    if not isinstance(tree, (tuple, list, dict)):
        return set()
    children = tree.values() if isinstance(tree, dict) else tree
    found: set[type[tuple]] = set().union(*map(_named_tuples, children))
    kind: Any = type(tree)
    return found | {kind} if hasattr(tree, "_fields") else found


_registered: set[type[tuple]] = set()
_registering = threading.Lock()


def _register(types: Iterable[type[tuple]]) -> None:
    """Lets ``jax.export`` serialise named tuples, each once in a process."""
    with _registering:
        for kind in types:
            if kind not in _registered:
                name = f"{kind.__module__}.{kind.__qualname__}"
                export.register_namedtuple_serialization(kind, serialized_name=name)
                _registered.add(kind)


@lru_cache(maxsize=1)
def _environment() -> str:
    """What every trace depends on: e2r's sources, the versions below it and the devices."""
    devices = [(device.platform, device.device_kind) for device in jax.devices()]
    versions = (sys.version_info[:2], jax.__version__, flax.__version__, np.__version__)
    return f"{code_digest.package_digest()} {versions} {devices}"
