"""Runs a process, and takes its time and its largest resident memory."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

LOOK_EVERY_S = 0.02
"""Seconds between two looks at the memory."""


class EndedProcess(NamedTuple):
    """A process that has ended."""

    code: int  # exit code; negative: the signal that ended it
    stdout: str
    stderr: str
    seconds: float
    memory_mb: float  # largest resident memory that was seen


def run_measured(
    command: Sequence[str], *, cwd: Path, environment: Mapping[str, str]
) -> EndedProcess:
    """Runs a command and waits for its end.

    Args:
      command: the program and its words.
      cwd: folder in which it runs.
      environment: its environment variables, all of them.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=out, stderr=err)
        memory_mb = 0.0
        while process.poll() is None:
            memory_mb = max(memory_mb, _peak_memory_mb(process.pid))
            time.sleep(LOOK_EVERY_S)
        seconds = time.perf_counter() - began
        for file in (out, err):
            file.seek(0)
        return EndedProcess(process.returncode, out.read(), err.read(), seconds, memory_mb)


def process_family(root: int) -> set[int]:
    """The numbers of a process and of all that it started, and those started in turn.

    Args:
      root: number of the process.
    """
    parents = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            parents[int(place.parent.name)] = int(place.read_text().rsplit(")", 1)[1].split()[1])
    family, before = {root}, 0
    while len(family) > before:
        before = len(family)
        family |= {pid for pid, parent in parents.items() if parent in family}
    return family


def _peak_memory_mb(pid: int) -> float:
    """Largest resident memory of a process so far; 0 where Linux does not tell.

    The ``ru_maxrss`` of an ended process would count its parent, too.
    """
    try:
        text = Path(f"/proc/{pid}/status").read_text()
        return 1.024e-3 * int(text.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError, ValueError):
        return 0.0
