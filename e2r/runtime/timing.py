"""Timing: how many seconds each kind of work takes, and how many without compiling.

Each second counts once, for the innermost :func:`timed` block that it belongs to. The seconds go
through ``jax.monitoring``, as JAX's own do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from jax import monitoring

_PREFIX = "/e2r/seconds/"
_inner = threading.local()
_COMPILING = (
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)
"""What JAX calls the parts of a compilation, none of which lies within another."""
_compiled = threading.local()


class Stopwatch:
    """Seconds of this thread since it began, without those that JAX spends on compiling."""

    def __init__(self) -> None:
        self._began = time.perf_counter() - _compiling_so_far()

    def seconds(self) -> float:
        """The seconds so far; only the thread that began may ask."""
        return time.perf_counter() - _compiling_so_far() - self._began


def _compiling_so_far() -> float:
    """Seconds that this thread has spent on compiling."""
    return getattr(_compiled, "seconds", 0.0)


def _record_compiling(event: str, duration_secs: float, **_: str | int) -> None:
    if event in _COMPILING:
        _compiled.seconds = _compiling_so_far() + duration_secs


monitoring.register_event_duration_secs_listener(_record_compiling)  # here, so once: each counts


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Records the block's seconds under a name, without those of timed blocks inside it."""
    before = getattr(_inner, "seconds", 0.0)
    _inner.seconds = 0.0
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - began
        monitoring.record_event_duration_secs(_PREFIX + name, seconds - _inner.seconds)
        _inner.seconds = before + seconds


@contextmanager
def collect_timings() -> Iterator[dict[str, float]]:
    """Collects the seconds that all threads record during the block: name -> seconds so far."""
    found: dict[str, float] = {}
    lock = threading.Lock()

    def record(event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith(_PREFIX):
            with lock:
                name = event.removeprefix(_PREFIX)
                found[name] = found.get(name, 0.0) + duration_secs

    monitoring.register_event_duration_secs_listener(record)
    try:
        yield found
    finally:
        monitoring.unregister_event_duration_listener(record)


def timing_table(seconds_by_name: dict[str, float]) -> str:
    """A table with one line for each name, in the order in which they first ended, and the sum."""
    rows = [*seconds_by_name.items(), ("in all", sum(seconds_by_name.values()))]
    return "\n".join(f"{name:28s} {seconds:7.2f} s" for name, seconds in rows)
