"""Train a mask network with nothing but the registration error.

Command:  python -m experiments.train demo --output runs/demo
Time:     about 11 minutes on two cores (scenes 100 s, steps 9 min)
Expect:   then experiments.evaluate: median TRE 0.34 to 0.39 mm, with no initial pose

The same command resumes an interrupted run from its last checkpoint. It ends with the same
parameters, bit for bit, as an uninterrupted run. More --optimisation.steps lengthen a run: the
learning rate then follows the longer schedule from the resumed step on. Training uses all devices
it finds, and with --coordinator those of several processes. A run may be resumed on another number
of devices.
"""

from __future__ import annotations

import sys

from e2r.cli import train
from e2r.cli.errors import run_command
from e2r.runtime.freed_memory import keep_freed_memory


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and trains."""
    if arguments is None:  # the process is ours
        keep_freed_memory()
    prog = "python -m experiments.train"
    return run_command(lambda: train.run(train.parse(arguments, prog=prog, description=__doc__)))


if __name__ == "__main__":
    sys.exit(main())
