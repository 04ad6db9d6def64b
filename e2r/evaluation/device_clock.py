"""Starts a batch on the device, and takes the time that the device needs for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax

from e2r.pipeline import CasePredictions
from e2r.runtime.compile_cache import CachedProgram
from e2r.runtime.timing import timed


class Started(NamedTuple):
    """A batch that the device registers."""

    predictions: CasePredictions  # leading axis B; not ready yet
    seconds: Future[float]  # that the device takes, once it is done


def is_compiled(program: Callable[..., Any], *arguments: Any) -> bool:
    """Whether a call runs at once; another program than a :class:`CachedProgram` may not.

    Args:
      program: of the registration.
      *arguments: of the call.
    """
    return not isinstance(program, CachedProgram) or program.is_ready(*arguments)


def start(
    program: Callable[..., CasePredictions], *arguments: Any, clock: ThreadPoolExecutor
) -> Started:
    """Starts a batch and does not wait for it; its seconds do not hold the compilation.

    Args:
      program: of the registration.
      *arguments: of the call.
      clock: thread that notes when the device is done, whatever the others do meanwhile.
    """
    run = program.prepare(*arguments) if isinstance(program, CachedProgram) else program
    began = time.perf_counter()
    with timed("device"):
        predictions = run(*arguments)

    def wait() -> float:
        jax.block_until_ready(predictions)
        return time.perf_counter() - began

    return Started(predictions, clock.submit(wait))
