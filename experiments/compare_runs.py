"""Show the curves of several training runs beside each other, on one page that opens offline.

Command:  python -m experiments.compare_runs runs/a runs/b --output curves.html
Time:     five seconds
Expect:   a page of up to 12 panels, one colour a run: loss and its terms, TRE, held-out TRE and
          success rate, learning rate; a table of the runs' latest figures

Runs that still train may be shown: their log holds the steps so far.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from e2r.cli.errors import parse_options, run_command
from e2r.cli.named_cases import shortest_names
from e2r.runtime import outputs
from e2r.runtime.atomic_files import atomic_write
from e2r.training.metrics_log import FILE, Line, read_log
from e2r.visualisation.pages import figures_page
from e2r.visualisation.run_curves import last_figures, run_curves


@dataclass(frozen=True)
class CompareRuns:
    """Show the curves of several training runs beside each other."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """output folders of experiments.train"""
    output: Path = Path("curves.html")
    """the page"""


def read_runs(folders: tuple[Path, ...]) -> dict[str, list[Line]]:
    """The logs of some runs, by the shortest end of the path that tells them apart.

    Args:
      folders: of the runs.

    Raises:
      ValueError: there is none, one is named twice, or one has no log.
    """
    if not folders:
        raise ValueError("no run is named; give output folders of experiments.train")
    logs = {}
    for folder, name in zip(folders, shortest_names(folders), strict=True):
        lines = read_log(folder)
        if not lines:
            raise ValueError(
                f"{folder}: has no {FILE} with a line; give an output folder of experiments.train"
            )
        logs[name] = lines
    return logs


def compare_runs(options: CompareRuns) -> int:
    """Writes the page, and prints the table."""
    logs = read_runs(options.runs)
    outputs.require_file(options.output)
    page = figures_page("e2r training runs", {"curves": run_curves(logs)})
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(options.output) as part:
        part.write_text(page, encoding="utf-8")
    print(last_figures(logs))
    print(options.output)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and compares."""
    prog = "python -m experiments.compare_runs"
    return run_command(
        lambda: compare_runs(parse_options(CompareRuns, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(main())
