"""Register many cases with a trained mask, and say how far off they are.

Command:  python -m experiments.evaluate --checkpoint runs/demo --output runs/demo \\
              --masks all learnt oracle
Time:     three minutes on two cores for 128 simulated cases and three masks
Expect:   median TRE 0.39 mm (learnt), 0.16 mm (oracle), 1.43 mm (all); 92, 99, 56 % below 2 mm

Without --cases, held-out specimens are simulated as the checkpoint's own scenes were, from keys
that training never uses. Writes predictions.jsonl (the learnt mask's, if it ran), errors.jsonl,
summary.json, report.html and views/ (the worst cases, for python -m e2r view).

Interrupted or killed, the same command goes on, and does no case twice. Several processes may share
the work: give the same command as often as you like.

Exit code: 0 all cases registered, 3 some failed, 2 bad call.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

import tyro
from tqdm import tqdm

from e2r.cli.errors import run_command
from e2r.config import EvaluationConfig, InitialPose, TrainingConfig
from e2r.datasets import case_folder
from e2r.datasets.case import Case
from e2r.evaluation import runner
from e2r.evaluation.calibration import load_calibration
from e2r.evaluation.job_folder import JobFolder, open_job
from e2r.evaluation.predictions import Registered, error_line, failure_line, prediction_line
from e2r.evaluation.preparation import read_initial_pose
from e2r.evaluation.summary import summarise_job, summary_table
from e2r.registration import global_search
from e2r.registration.schedule import Schedule
from e2r.runtime.atomic_files import atomic_write
from e2r.runtime.prefetch import prefetch
from e2r.runtime.timing import collect_timings, timed, timing_table
from e2r.simulation import simulator
from e2r.training import checkpoints
from e2r.training.metrics_log import read_log
from e2r.training.trained_model import PACKAGED, load_trained
from e2r.visualisation import report, snapshots

Item: TypeAlias = Case | tuple[str, ValueError]
"""A case, or the id and the error of one that could not be read."""


@dataclass(frozen=True)
class Evaluate:
    """Register many cases with a trained mask, and say how far off they are."""

    output: Path
    """folder for predictions.jsonl, errors.jsonl, summary.json, report.html and views/"""
    checkpoint: Path = PACKAGED
    """output folder of experiments.train; the model that comes with e2r without it"""
    cases: Path | None = None
    """a folder of cases; without it, held-out specimens are simulated"""
    specimens: int = 64
    """simulated specimens, without --cases"""
    frames: int = 2
    """scenes of each simulated specimen"""
    simulation: simulator.SimulationConfig | None = None
    """how they are photographed; as the checkpoint's own scenes were without it"""
    masks: tuple[str, ...] = ("learnt",)
    """masks to compare on the same starts: all, learnt, oracle"""
    start: str = "auto"
    """auto (no start), truth (the true pose, perturbed), or a JSON file with a 4x4 pose"""
    start_degrees: float = 4.0
    """with --start truth: standard deviation of the rotation per axis"""
    start_mm: float = 4.0
    """with --start truth: standard deviation of the translation per axis"""
    schedule: Schedule = Schedule()
    search: global_search.SearchConfig = global_search.SearchConfig()
    num_samples: int = 2
    """the scene is seen in so many disjoint samples of the network's number of points"""
    per_level: bool = True
    """refine one pose a level, for a spine that is not bent as in the scan"""
    min_keep_ratio: float = 0.1
    """share of the points that the learnt mask keeps at least, by their order"""
    points: int = 2048
    """points of a mask that are registered, at most"""
    retry_below: float = 0.6
    """a frame is tried again where a smaller share of its learnt mask agrees; 0: never"""
    batch: int = 8
    """cases on the device at a time"""
    seed: int = 0
    """of held-out specimens, starts and bootstrap"""
    timings: bool = False
    """also print what the seconds went to"""


class Unit(NamedTuple):
    """What is read, or simulated, at once."""

    ids: tuple[str, ...]
    make: Callable[[], Sequence[Item]]


def units(options: Evaluate, simulation: simulator.SimulationConfig) -> list[Unit]:
    """The job's work, in order; nothing is read yet but ids."""
    if options.cases is None:
        found = simulator.unseen_specimens(
            options.simulation or simulation,
            specimens=options.specimens,
            frames=options.frames,
            seed=options.seed,
        )
        return [Unit(*one) for one in found]
    here: dict[str, Unit] = {}
    for path in case_folder.find_cases(options.cases):
        name, make = case_folder.read_id(path), partial(_read, path)
        if name in here:
            sentence = f"{path / 'case.json'}: id is {name!r}, as another case's; give it its own"
            name = f"{name} ({path.name})"
            make = partial(list, [(name, ValueError(sentence))])
        here[name] = Unit((name,), make)
    return list(here.values())


def _read(path: Path) -> list[Item]:
    try:
        with timed("reading"):
            return [case_folder.read_case(path)]
    except (ValueError, OSError) as error:
        return [(case_folder.read_id(path), ValueError(str(error)))]


def unclaimed(work: Sequence[Unit], book: JobFolder) -> Iterator[Unit]:
    """The units that are not done and that no other process has."""
    done = book.done()
    for number, unit in enumerate(work):
        if done.issuperset(unit.ids) or not book.claim(number):
            continue
        if not book.done().issuperset(unit.ids):  # by a process that ended just now
            yield unit


def to_do(work: Sequence[Unit], book: JobFolder) -> Iterator[Item]:
    """The cases of :func:`unclaimed` units that are not done, two units made ahead."""
    for items in prefetch(lambda unit: unit.make(), unclaimed(work, book), workers=2):
        for item in items:
            if (item[0] if isinstance(item, tuple) else item.id) not in book.done():
                yield item


def evaluate(options: Evaluate) -> int:
    """Runs the evaluation, as far as it has not been run already."""
    if options.specimens < 1 or options.frames < 1:
        raise ValueError("--specimens and --frames must be 1 or more")
    job = EvaluationConfig(
        start=InitialPose(options.start, options.start_degrees, options.start_mm),
        schedule=options.schedule,
        search=options.search,
        num_samples=options.num_samples,
        masks=options.masks,
        per_level=options.per_level,
        min_keep_ratio=options.min_keep_ratio,
        points=options.points,
        retry_below=options.retry_below,
        batch=options.batch,
        seed=options.seed,
    )
    read_initial_pose(job.start)  # before anything is written
    config, params = load_trained(options.checkpoint)
    calibration = load_calibration(options.checkpoint)
    work = units(options, config.scenes.simulation)
    settings = {
        **json.loads(json.dumps(dataclasses.asdict(options), default=str)),
        "parameters": checkpoints.digest(params),
        "calibration": calibration and dataclasses.asdict(calibration),
    }
    del settings["output"], settings["timings"]
    failed = False
    with open_job(options.output, settings) as book, collect_timings() as seconds:
        total = sum(len(unit.ids) for unit in work)
        with tqdm(total=total, initial=len(book.done()), desc="evaluate", unit="case") as bar:
            for item in runner.run(to_do(work, book), config, params, job):
                bar.update()
                with timed("writing"):
                    if isinstance(item, Registered):
                        line = prediction_line(item, job.head, calibration)
                        book.add(line, error_line(item))
                        with book.alone():
                            snapshots.keep_worst(options.output / "views", item, job.head)
                    else:
                        failed = True
                        print(f"e2r: {item[0]}: {item[1]}", file=sys.stderr)
                        book.add(failure_line(*item))
        if options.timings:
            print(timing_table(seconds))
        if len(book.done()) < total:
            print(
                f"{len(book.done())} of {total} cases are done; other processes are at work on the "
                "rest, and the last of them writes the summary"
            )
            return 3 if failed else 0
        with book.alone():
            return summarise(book, work, job, config, options)


def summarise(
    book: JobFolder,
    work: Sequence[Unit],
    job: EvaluationConfig,
    config: TrainingConfig,
    options: Evaluate,
) -> int:
    """Writes summary and report of a job that is done, and prints its table."""
    by_id = {line["id"]: line for line in book.lines()}
    lines = [by_id[name] for unit in work for name in unit.ids]
    rows = book.rows(lines)
    origin = {
        "cases": str(options.cases or f"simulated, {options.specimens} specimens held out"),
        "checkpoint": str(options.checkpoint),
    }
    figures = summarise_job(lines, rows, job, config, origin)
    with atomic_write(options.output / "summary.json") as part:
        part.write_text(json.dumps(figures, indent=1))
    report.write_report(
        options.output / "report.html",
        figures,
        lines,
        rows,
        snapshots.read_worst(options.output / "views"),
        read_log(options.checkpoint),
    )
    print(summary_table(figures))
    print(f"{options.output / 'summary.json'}, report.html, predictions.jsonl, errors.jsonl")
    return 3 if figures["failed"] else 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and evaluates."""
    options = tyro.cli(
        Evaluate, args=arguments, prog="python -m experiments.evaluate", description=__doc__
    )
    return run_command(lambda: evaluate(options))


if __name__ == "__main__":
    sys.exit(main())
