"""Runs a command: bad input becomes one sentence and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from e2r.runtime.compile_cache import enable_cache


def run_command(command: Callable[[], int]) -> int:
    """Runs a command; bad input becomes one sentence on stderr and exit code 2."""
    enable_cache()
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
