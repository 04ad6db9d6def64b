"""Runs one call at a time beside the frames, in a thread, or at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Beside(Generic[T]):
    """One call at a time.

    Args:
      thread: call in a thread; otherwise the caller waits for the result.
    """

    def __init__(self, *, thread: bool) -> None:
        self._pool = ThreadPoolExecutor(1) if thread else None
        self._pending: Future[T | None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a result was not taken yet."""
        return self._pending is not None

    def start(self, function: Callable[[], T | None]) -> None:
        """Starts a call, while none is going on.

        Args:
          function: is called; None means that it found nothing. What it raises is raised here, or
            by :meth:`take`, and then forgotten.
        """
        if self._pool is not None:
            self._pending = self._pool.submit(function)
            return
        done: Future[T | None] = Future()
        done.set_result(function())
        self._pending = done

    def take(self) -> T | None:
        """The result, once; None while there is none."""
        pending = self._pending
        if pending is None or not pending.done():
            return None
        self._pending = None
        return pending.result()

    def close(self) -> None:
        """Waits for a call that is still going on."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
