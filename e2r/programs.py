"""Compiled programs that remember how they were traced, so that a new process starts at once.

XLA's own cache saves a process the compilation, but Python must first trace the program to know
which it is; here the traced program (StableHLO, by ``jax.export``) is kept beside that cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import jax
from jax import export

from e2r import files, types
from e2r.timings import spent

T = TypeVar("T")


SOONER: dict[str, str | bool] = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_backend_optimization_level": "1",
}  # fmt: skip
"""XLA's options for what runs a few times only: on a CPU it compiles in little more than half the
time. What runs is slower by a third, the registration by half."""


def may_be_kept(*kinds: type[NamedTuple]) -> None:
    """Lets programs that take or give these named tuples be kept; once for each."""
    for kind in kinds:
        export.register_namedtuple_serialization(kind, serialized_name=f"e2r.{kind.__name__}")


may_be_kept(
    types.Pose, types.Cloud, types.Surface, types.Registration, types.Levels, types.Hypotheses,
    types.Pyramid,
)  # fmt: skip


class Program(Generic[T]):
    """A function under ``jit``, whose traces are kept in the folder of XLA's cache, if it has one.

    What a trace depends on is in its name: e2r's sources, versions, devices, the settings and the
    arguments' shapes. A broken file is made again.

    Args:
      function: pure.
      settings: its name and what it closes over; their ``repr`` says all of it.
      sooner: it runs a few times only: compiled with :data:`SOONER`.
    """

    def __init__(self, function: Callable[..., T], *settings: Any, sooner: bool = False) -> None:
        self._options = SOONER if sooner else {}
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
            with spent("tracing programs"):
                traced = self._traced(Path(cache) / "traced" / name, arguments)
                lowered = jax.jit(traced.call).lower(*arguments)
            with spent("compiling programs"):
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
            with files.whole(path) as part:
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
