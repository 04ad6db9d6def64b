"""Prefetching: results are computed by threads shortly before they are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def prefetch(make: Callable[[T], U], items: Iterable[T], *, workers: int = 1) -> Generator[U]:
    """``map(make, items)`` by threads, which are at most ``workers`` items ahead.

    Args:
      make: computes a result; called by several threads.
      items: their results come in the same order.
      workers: number of threads.
    """
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[U]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(make, item))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
