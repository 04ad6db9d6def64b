"""Register many cases with a trained network, and measure the errors.

Command:  python -m experiments.evaluate --checkpoint runs/demo --output runs/demo \\
              --masks all learnt oracle
Time:     three minutes on two cores for 128 simulated cases and three masks
Expect:   median TRE 0.37 mm (learnt), 0.16 mm (oracle), 1.08 mm (all); 97, 100, 63 % below 2 mm

Without --cases, specimens that the training never saw are simulated, with the settings of the
checkpoint's own scenes. Writes predictions.jsonl (under the learnt mask, if it is among the masks),
predictions_MASK.jsonl of each other mask, errors.jsonl, errors.csv, summary.json, report.html and
views/ (the worst cases, for python -m e2r view).

The same command continues an interrupted job. With --cluster local, auto or ray://HOST:PORT,
workers on a Ray cluster share it.

Exit code: 0 all cases registered, 3 some failed, 2 bad call.
"""

from __future__ import annotations

import sys

from e2r.cli import evaluate
from e2r.cli.errors import parse_options, run_command
from e2r.runtime.freed_memory import keep_freed_memory


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and evaluates."""
    if arguments is None:  # the process is ours
        keep_freed_memory()
    prog = "python -m experiments.evaluate"
    return run_command(
        lambda: evaluate.run(
            parse_options(evaluate.Options, arguments, prog=prog, description=__doc__)
        )
    )


if __name__ == "__main__":
    sys.exit(main())
