"""Runs a process, and takes its time and its largest resident memory."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class EndedProcess(NamedTuple):
    """A process that has ended."""

    code: int  # exit code; negative: the signal that ended it
    stdout: str
    stderr: str
    seconds: float
    memory_mb: float  # largest resident memory; Linux counts this process, too, before it starts


def run_measured(
    command: Sequence[str], *, cwd: Path, environment: Mapping[str, str]
) -> EndedProcess:
    """Runs a command and waits for its end. For systems that have ``wait4``.

    Args:
      command: the program and its words.
      cwd: folder in which it runs.
      environment: its environment variables, all of them.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        for file in (out, err):
            file.seek(0)
        memory_mb = 1.024e-3 * usage.ru_maxrss
        return EndedProcess(process.returncode, out.read(), err.read(), seconds, memory_mb)
