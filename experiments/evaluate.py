"""Register many cases with a trained mask, and say how far off they are.

Command:  python -m experiments.evaluate --checkpoint runs/demo --output runs/demo \\
              --masks all learnt oracle
Time:     three minutes on two cores for 128 simulated cases and three masks
Expect:   median TRE 0.36 mm (learnt), 0.17 mm (oracle), 60 mm (all); 94, 99, 34 % below 2 mm

Without --cases, held-out specimens are simulated as the checkpoint's own scenes were, from keys
that training never uses. Writes predictions.jsonl (the learnt mask's, if it ran), errors.jsonl,
summary.json, report.html and views/ (the worst cases, for python -m e2r view).

Exit code: 0 all cases registered, 3 some failed, 2 bad call.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from e2r import (
    automatic,
    confidence,
    console,
    evaluation,
    jobs,
    pipeline,
    report,
    results,
    training,
    views,
)
from e2r.datasets import cases, simulated


@dataclass(frozen=True)
class Evaluate:
    """Register many cases with a trained mask, and say how far off they are."""

    output: Path
    """folder for predictions.jsonl, errors.jsonl, summary.json, report.html and views/"""
    checkpoint: Path = training.PACKAGED
    """output folder of experiments.train; the model that comes with e2r without it"""
    cases: Path | None = None
    """a folder of cases; without it, held-out specimens are simulated"""
    specimens: int = 64
    """simulated specimens, without --cases"""
    frames: int = 2
    """scenes of each simulated specimen"""
    simulation: simulated.Simulation | None = None
    """how they are photographed; as the checkpoint's own scenes were without it"""
    masks: tuple[str, ...] = ("learnt",)
    """masks to compare on the same starts: all, learnt, oracle"""
    start: str = "auto"
    """auto (no start), truth (the true pose, perturbed), or a JSON file with a 4x4 pose"""
    start_degrees: float = 4.0
    """with --start truth: standard deviation of the rotation per axis"""
    start_mm: float = 4.0
    """with --start truth: standard deviation of the translation per axis"""
    schedule: pipeline.Schedule = pipeline.Schedule()
    search: automatic.Search = automatic.Search()
    views: int = 2
    """the scene is seen in so many disjoint samples of the network's number of points"""
    per_level: bool = True
    """refine one pose a level, for a spine that is not bent as in the scan"""
    batch: int = 8
    """cases on the device at a time"""
    seed: int = 0
    """of held-out specimens, starts and bootstrap"""


def read_cases(folder: Path) -> Iterator[cases.Case | tuple[str, ValueError]]:
    """The cases of a folder; a broken one comes as its name and the error."""
    for path in cases.find(folder):
        try:
            yield cases.read(path)
        except (ValueError, OSError) as error:
            yield path.name, ValueError(str(error))


def evaluate(options: Evaluate) -> int:
    """Runs the evaluation."""
    if options.specimens < 1 or options.frames < 1:
        raise ValueError("--specimens and --frames must be 1 or more")
    job = jobs.Job(
        start=jobs.Start(options.start, options.start_degrees, options.start_mm),
        schedule=options.schedule, search=options.search, views=options.views, masks=options.masks,
        per_level=options.per_level,
        batch=options.batch, seed=options.seed,
    )  # fmt: skip
    evaluation.read_start(job.start)  # before anything is overwritten
    config, params = training.load(options.checkpoint)
    calibration = confidence.load(options.checkpoint)
    source: Iterator[cases.Case | tuple[str, ValueError]]
    if options.cases is not None:
        total = len(cases.find(options.cases))
        source = read_cases(options.cases)
    else:
        total = options.specimens * options.frames
        source = simulated.held_out(
            options.simulation or config.scenes.simulation,
            specimens=options.specimens, frames=options.frames, seed=options.seed,
        )  # fmt: skip
    options.output.mkdir(parents=True, exist_ok=True)
    done: list[results.Result] = []
    lines: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    worst: Sequence[views.View] = []
    with (
        (options.output / "predictions.jsonl").open("w") as predictions,
        (options.output / "errors.jsonl").open("w") as errors,
        tqdm(total=total, desc="evaluate", unit="case") as bar,
    ):
        for item in evaluation.run(source, config, params, job):
            bar.update()
            if isinstance(item, results.Result):
                lines.append(results.prediction(item, job.head, calibration))
                worst = views.keep_worst(worst, item, job.head)
                done.append(results.slim(item))
                found.append({"id": item.case.id, "source": item.case.source, **item.errors})
                errors.write(json.dumps(found[-1]) + "\n")
            else:
                lines.append(results.failure(*item))
                print(f"e2r: {item[0]}: {item[1]}", file=sys.stderr)
            predictions.write(json.dumps(lines[-1]) + "\n")
            predictions.flush()
    origin = {
        "cases": str(options.cases or f"simulated, {options.specimens} specimens held out"),
        "checkpoint": str(options.checkpoint),
    }
    figures = results.summary(done, len(lines) - len(done), job, config, origin, calibration)
    (options.output / "summary.json").write_text(json.dumps(figures, indent=1))
    for old in options.output.glob("views/*.npz"):
        old.unlink()
    for i, view in enumerate(worst):
        views.write(view, options.output / "views" / f"{i:02d}.npz")
    report.write(
        options.output / "report.html", figures, lines, found, worst,
        training.curve(options.checkpoint),
    )  # fmt: skip
    print(results.table(figures))
    print(f"{options.output / 'summary.json'}, report.html, predictions.jsonl, errors.jsonl")
    return 3 if figures["failed"] else 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and evaluates."""
    options = tyro.cli(
        Evaluate, args=arguments, prog="python -m experiments.evaluate", description=__doc__
    )
    return console.run(lambda: evaluate(options))


if __name__ == "__main__":
    sys.exit(main())
