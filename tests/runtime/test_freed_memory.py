"""Memory that is freed stays with a process that asks for it."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
import threading
from e2r.runtime.freed_memory import keep_freed_memory

kept = sys.argv[1] == "keep" and keep_freed_memory()
faults = []

def make_and_free():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        arrays = [np.full(100 * 2**20, 1, np.uint8) for _ in range(2)]
        del arrays
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

for _ in range(2):
    thread = threading.Thread(target=make_and_free)
    thread.start()
    thread.join()
print(faults[1], int(kept))
"""
"""Makes large arrays in a thread, as XLA does, twice; prints the pages cleared the second time."""


def pages_cleared(how: str) -> tuple[int, bool]:
    """The pages that the system clears for arrays of a size that was freed before."""
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
    ).stdout.split()
    return int(found[0]), found[1] == "1"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's options")
def test_a_page_is_cleared_once_if_memory_is_kept_and_each_time_otherwise():
    within, kept = pages_cleared("keep")
    if not kept:
        pytest.skip("the C library is not glibc")
    outside, _ = pages_cleared("free")
    assert within < 0.1 * outside, (within, outside)
