"""Where the seconds go: pieces of work say what they are, and whoever asks is told.

Each second counts once, in the innermost piece it belongs to. The figures go through
``jax.monitoring``, as JAX's own do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from jax import monitoring

_PREFIX = "/e2r/seconds/"
_inner = threading.local()


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Says that the block's seconds, but for those of blocks in it, were spent on this."""
    before = getattr(_inner, "seconds", 0.0)
    _inner.seconds = 0.0
    began = time.perf_counter()
    try:
        yield
    finally:
        took = time.perf_counter() - began
        monitoring.record_event_duration_secs(_PREFIX + what, took - _inner.seconds)
        _inner.seconds = before + took


@contextmanager
def collect_timings() -> Iterator[dict[str, float]]:
    """What the block's seconds are spent on: name -> seconds so far, of all threads."""
    found: dict[str, float] = {}
    lock = threading.Lock()

    def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event.startswith(_PREFIX):
            with lock:
                name = event.removeprefix(_PREFIX)
                found[name] = found.get(name, 0.0) + duration_secs

    monitoring.register_event_duration_secs_listener(note)
    try:
        yield found
    finally:
        monitoring.unregister_event_duration_listener(note)


def timing_table(found: dict[str, float]) -> str:
    """One line a name, in the order in which they first ended, and the sum."""
    rows = [*found.items(), ("in all", sum(found.values()))]
    return "\n".join(f"{name:28s} {seconds:7.2f} s" for name, seconds in rows)
