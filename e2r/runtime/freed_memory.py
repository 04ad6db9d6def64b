"""Keeps the memory that a program frees, for its next run.

XLA takes the arrays of a program anew from ``malloc`` at each run. For large ones glibc asks the
system, which then clears each page at its first touch: a quarter of a training step on a CPU.

One arena serves all threads, so that no thread keeps memory that another one needs: an evaluation
holds a quarter less.
"""

from __future__ import annotations

import ctypes

_KEEPING = {
    "MALLOC_ARENA_MAX": (-8, 1),
    "MALLOC_MMAP_MAX_": (-4, 0),
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1),
    "MALLOC_TOP_PAD_": (-2, 2**26),
}
"""Variables of glibc, the same options of its ``mallopt``, and their values (man 3 mallopt).

One arena serves all threads: the others cannot hold a block of more than 64 MiB."""
ENVIRONMENT = {variable: str(value) for variable, (_, value) in _KEEPING.items()}
"""For a process that is yet to start, and has threads before it could call anything."""


def keep_freed_memory() -> bool:
    """From now on, memory that this process frees stays with it.

    It is for a command that runs one program many times. Call it before the first JAX program: a
    thread that has already taken memory goes on as before.

    Returns:
      whether it is so: False where the C library is not glibc.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    return all([library.mallopt(option, value) for option, value in _KEEPING.values()])
