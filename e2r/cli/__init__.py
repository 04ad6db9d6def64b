"""The command line, ``e2r COMMAND``: one file a command, imported only when it is asked for."""

from __future__ import annotations

import argparse
import difflib
import sys
import time
from collections.abc import Sequence
from importlib import import_module

from e2r.cli.errors import parse_options, run_command
from e2r.runtime.freed_memory import keep_freed_memory

STARTED = time.perf_counter()
"""When the program began; the imports of a command come later, and take a second or two."""
COMMANDS = {
    "simulate": "Write simulated cases: RGB-D frames of open spine surgery, models and truth.",
    "register": "Register cases: find the pose of every level in the camera frame.",
    "track": "Follow the levels through a recording: poses of every level in each frame.",
    "train": "Train a mask network with nothing but the registration error.",
    "adapt": "Adapt a model to a patient before surgery, from the preoperative surfaces alone.",
    "evaluate": "Register many cases, measure the errors, write a report.",
    "export": "Export a prediction: transforms for ITK and 3D Slicer, surfaces, markups.",
    "view": "View a registration or a track in the browser: its steps and its layers.",
    "convert": "Convert other formats: CT label maps, data sets, frames of any RGB-D camera.",
}
"""Command -> its summary. The module of this name holds its ``Options`` and ``run(options)``, and
``parse`` where its words are not those of ``Options`` alone."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      arguments: the command and its options; those of the process by default.

    Returns:
      The exit code: 0; 2 after a refusal, also of one case of several; 3 where cases of a job or
      frames of a track failed; 130 after an interruption.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="e2r",
        description="Find a patient's vertebrae in a depth camera's frame of open spine surgery.",
        epilog="\n".join(
            ["commands:"]
            + [f"  {name:<9} {summary}" for name, summary in COMMANDS.items()]
            + ["", "e2r COMMAND --help lists the options of a command."]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands")
    if given and not given[0].startswith("-") and given[0] not in COMMANDS:
        print(f"e2r: {_no_command(given[0])}", file=sys.stderr)
        return 2
    name = parser.parse_args(given[:1]).command

    def run() -> int:
        if arguments is None:  # the process is ours
            keep_freed_memory()
        command = import_module(f"e2r.cli.{name}")
        words, prog = given[1:], f"e2r {name}"
        if hasattr(command, "parse"):
            return command.run(command.parse(words, prog=prog))
        return command.run(parse_options(command.Options, words, prog=prog))

    return run_command(run)


def _no_command(name: str) -> str:
    """Says that there is no command of a name, and which one is spelt most like it."""
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    remedy = f"did you mean {near[0]}?" if near else f"use one of {', '.join(COMMANDS)}"
    return f"{name}: no such command; {remedy}"
