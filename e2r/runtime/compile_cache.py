"""Compiled programs that remember how they were traced, so that a new process starts at once.

XLA's own cache saves a process the compilation, but Python must first trace the program to know
which it is; here the traced program (StableHLO, by ``jax.export``) is kept beside that cache.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import jax
from jax import export

from e2r.runtime.atomic_files import atomic_write
from e2r.runtime.timing import timed
from e2r.types import Cloud, Hypotheses, LevelPoses, Pose, Pyramid, Registration, Surface


def enable_cache() -> None:
    """Keeps compiled programs between runs, in ``E2R_CACHE`` (``~/.cache/e2r`` by default)."""
    import jax

    cache = Path(os.environ.get("E2R_CACHE", Path.home() / ".cache" / "e2r"))
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a read-only home only costs compile time
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


T = TypeVar("T")
FAST_COMPILE: dict[str, str | bool] = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_backend_optimization_level": "1",
}
"""XLA's options for what runs a few times only: on a CPU it compiles in little more than half the
time. What runs is slower by a third, the registration by half."""


def register_serializable(*kinds: type[NamedTuple]) -> None:
    """Lets programs that take or give these named tuples be kept; once for each."""
    for kind in kinds:
        export.register_namedtuple_serialization(kind, serialized_name=f"e2r.{kind.__name__}")


register_serializable(Pose, Cloud, Surface, Registration, LevelPoses, Hypotheses, Pyramid)


class CachedProgram(Generic[T]):
    """A function under ``jit``, whose traces are kept in the folder of XLA's cache, if it has one.

    What a trace depends on is in its name: e2r's sources, versions, devices, the settings and the
    arguments' shapes. A broken file is made again.

    Args:
      function: pure.
      settings: its name and what it closes over; their ``repr`` says all of it.
      sooner: it runs a few times only: compiled with :data:`FAST_COMPILE`.
    """

    def __init__(
        self, function: Callable[..., T], *settings: Any, fast_compile: bool = False
    ) -> None:
        self._options = FAST_COMPILE if fast_compile else {}
        self._jit = jax.jit(function, compiler_options=self._options)
        self._about = repr(settings)
        self._known: dict[Any, Callable[..., T]] = {}

    def __call__(self, *arguments: Any) -> T:
        """Calls the function."""
        cache = jax.config.values["jax_compilation_cache_dir"]
        if not cache:
            return self._jit(*arguments)
        leaves, tree = jax.tree.flatten(arguments)
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if (shapes, tree) not in self._known:
            what = f"{_surroundings()} {self._about} {shapes} {tree}"
            name = hashlib.sha256(what.encode()).hexdigest()[:32]
            with timed("tracing programs"):
                traced = self._traced(Path(cache) / "traced" / name, arguments)
                lowered = jax.jit(traced.call).lower(*arguments)
            with timed("compiling programs"):
                self._known[shapes, tree] = lowered.compile(self._options)
        return self._known[shapes, tree](*arguments)

    def _traced(self, path: Path, arguments: tuple[Any, ...]) -> export.Exported:
        try:
            return export.deserialize(bytearray(path.read_bytes()))
        except Exception:  # not there, or broken in whatever way
            pass
        traced = export.export(self._jit)(*arguments)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as part:
                part.write_bytes(traced.serialize())
        except OSError:
            pass  # a full or read-only disk only costs the next process's time
        return traced


@lru_cache(maxsize=1)
def _surroundings() -> str:
    """What every trace depends on."""
    here = Path(__file__).resolve().parent
    sums = hashlib.sha256()
    for path in sorted(here.rglob("*.py")):
        sums.update(path.read_bytes())
    platforms = [(device.platform, device.device_kind) for device in jax.devices()]
    return f"{sums.hexdigest()} {jax.__version__} {platforms}"
