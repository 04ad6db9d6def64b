"""What every command shares: the compilation cache, and one sentence for bad input."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path


def keep_programs() -> None:
    """Keeps compiled programs between runs, in ``E2R_CACHE`` (``~/.cache/e2r`` by default)."""
    import jax

    cache = Path(os.environ.get("E2R_CACHE", Path.home() / ".cache" / "e2r"))
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a read-only home only costs compile time
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def run(command: Callable[[], int]) -> int:
    """Runs a command; bad input becomes one sentence on stderr and exit code 2."""
    keep_programs()
    try:
        return command()
    except (ValueError, FloatingPointError, OSError) as error:
        if os.environ.get("E2R_DEBUG"):
            raise
        print(f"e2r: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "e2r: interrupted; the same command goes on where it was, if it trains or evaluates, "
            "and begins anew otherwise",
            file=sys.stderr,
        )
        return 130
