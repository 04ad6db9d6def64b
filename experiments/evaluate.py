"""Register many cases with a trained network, and measure the errors.

Command:  python -m experiments.evaluate --checkpoint runs/demo --output runs/demo \\
              --masks all learnt oracle
Time:     three minutes on two cores for 128 simulated cases and three masks
Expect:   median TRE 0.39 mm (learnt), 0.16 mm (oracle), 1.43 mm (all); 92, 99, 56 % below 2 mm

Without --cases, specimens that the training never saw are simulated, with the settings of the
checkpoint's own scenes. Writes predictions.jsonl (under the learnt mask, if it is among the masks),
predictions_MASK.jsonl of each other mask, errors.jsonl, errors.csv, summary.json, report.html and
views/ (the worst cases, for python -m e2r view).

The same command continues an interrupted job. Several processes share a job if each is given the
same command.

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
from typing import Annotated, Any, NamedTuple

import tyro
from tqdm import tqdm

from e2r.cli.errors import parse_options, run_command
from e2r.config import EvaluationConfig, TrainingConfig
from e2r.datasets import case_folder
from e2r.datasets.case import Case, case_digest
from e2r.evaluation import runner
from e2r.evaluation.calibration import load_calibration
from e2r.evaluation.errors_table import table_rows, write_errors_table
from e2r.evaluation.initial_poses import read_initial_poses
from e2r.evaluation.job_folder import SETTINGS, JobFolder, open_job
from e2r.evaluation.predictions import (
    CaseScores,
    Prediction,
    failed_prediction,
    make_prediction,
    score_case,
)
from e2r.evaluation.results import Failed, Registered
from e2r.evaluation.summary import summarise_job, summary_table
from e2r.runtime import outputs
from e2r.runtime.atomic_files import atomic_write
from e2r.runtime.atomic_folders import written_since
from e2r.runtime.prefetch import prefetch
from e2r.runtime.provenance import code_record
from e2r.runtime.timing import collect_timings, timed, timing_table
from e2r.simulation import simulator
from e2r.training import checkpoints
from e2r.training.metrics_log import read_log
from e2r.training.trained_model import PACKAGED, load_trained
from e2r.visualisation import report, snapshots


@dataclass(frozen=True)
class Evaluate:
    """Register many cases with a trained network, and measure the errors."""

    output: Path
    """folder for predictions.jsonl, errors.jsonl, errors.csv, summary.json, report.html, views/"""
    checkpoint: Path = PACKAGED
    """output folder of experiments.train; the packaged model without it"""
    cases: Path | None = None
    """a folder of cases; without it, specimens are simulated"""
    specimens: int = 64
    """without --cases: simulated specimens"""
    frames: int = 2
    """without --cases: scenes of each specimen"""
    simulation: simulator.SimulationConfig | None = None
    """without --cases: settings of the scenes; the checkpoint's own without it"""
    job: Annotated[EvaluationConfig, tyro.conf.arg(name="")] = EvaluationConfig()
    """how the cases are registered"""
    timings: bool = False
    """also print where the time went"""
    again: bool = False
    """where the output's figures were computed by other code: compute all of them anew"""

    def __post_init__(self) -> None:
        if self.specimens < 1 or self.frames < 1:
            raise ValueError("--specimens and --frames must be 1 or more")


class WorkUnit(NamedTuple):
    """Cases that are read, or simulated, together."""

    ids: tuple[str, ...]
    load: Callable[[], Sequence[Case | Failed]]
    path: Path | None = None  # of the one case, if it is on disk


def work_units(options: Evaluate, simulation: simulator.SimulationConfig) -> list[WorkUnit]:
    """The job's work in order; only ids are read yet.

    Args:
      options: of the command line.
      simulation: the checkpoint's settings of simulated scenes.
    """
    if options.cases is None:
        found = simulator.unseen_specimens(
            options.simulation or simulation,
            specimens=options.specimens,
            frames=options.frames,
            seed=options.job.seed,
        )
        return [WorkUnit(*one) for one in found]
    units: dict[str, WorkUnit] = {}
    for path in case_folder.find_cases(options.cases):
        name, load = case_folder.read_id(path), partial(_read, path)
        if name in units:
            sentence = f"{path / 'case.json'}: another case has the id {name!r}; give it its own"
            name = f"{name} ({path.name})"
            load = partial(list, [Failed(name, sentence)])
        units[name] = WorkUnit((name,), load, path)
    return list(units.values())


def _read(path: Path) -> list[Case | Failed]:
    try:
        with timed("reading"):
            return [case_folder.read_case(path)]
    except (ValueError, OSError) as error:
        return [Failed(case_folder.read_id(path), str(error))]


def refuse_changed_cases(units: Sequence[WorkUnit], folder: JobFolder) -> None:
    """Refuses to continue a job whose done cases are no longer those in the folder.

    Only cases that were written to since the job began are read again.

    Args:
      units: of the job.
      folder: of the job.

    Raises:
      ValueError: a case has another model or frame than the one that was registered.
    """
    done = {line["id"]: line.get("case_digest") for line in folder.lines()}
    for name, path in ((unit.ids[0], unit.path) for unit in units if unit.path is not None):
        if not done.get(name) or not written_since(path, folder.began):
            continue
        try:
            found = case_digest(case_folder.read_case(path))
        except (ValueError, OSError):
            found = "not readable any more"
        if found != done[name]:
            raise ValueError(
                f"{path}: is another case than the one of this id that was registered; "
                "name another --output, or put the old one back"
            )


def unclaimed(units: Sequence[WorkUnit], folder: JobFolder) -> Iterator[WorkUnit]:
    """The units that are not done and that no other process has claimed.

    Args:
      units: of the job.
      folder: of the job.
    """
    done = folder.done()
    for number, unit in enumerate(units):
        if done.issuperset(unit.ids) or not folder.claim(number):
            continue
        if not folder.done().issuperset(unit.ids):  # another process may have ended just now
            yield unit


def remaining_cases(units: Sequence[WorkUnit], folder: JobFolder) -> Iterator[Case | Failed]:
    """The cases that are not done, of unclaimed units; two units are loaded ahead.

    Args:
      units: of the job.
      folder: of the job.
    """
    for cases in prefetch(lambda unit: unit.load(), unclaimed(units, folder), workers=2):
        for case in cases:
            if case.id not in folder.done():
                yield case


def _same_places(options: Evaluate) -> dict[str, Any]:
    """The options as JSON values; a relative and an absolute path of a place are the same."""
    settings: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(options), default=str))
    try:
        stored = json.loads((options.output / SETTINGS).read_text())
    except (OSError, ValueError):
        stored = {}
    for name in ("cases", "checkpoint"):
        if settings[name] is not None:
            settings[name] = str(Path(settings[name]).resolve())
            begun = stored.get(name)
            if isinstance(begun, str) and str(Path(begun).resolve()) == settings[name]:
                settings[name] = begun  # as an earlier version wrote it
    return settings


def evaluate(options: Evaluate) -> int:
    """Runs the evaluation, or the rest of it."""
    job = options.job
    outputs.require_folder(options.output)
    read_initial_poses(job.start)  # a bad pose file is refused before anything is written
    config, params = load_trained(options.checkpoint)
    calibration = load_calibration(options.checkpoint)
    units = work_units(options, config.scenes.simulation)
    settings = {
        **_same_places(options),
        "parameters": checkpoints.digest(params),
        "calibration": calibration and dataclasses.asdict(calibration),
    }
    del settings["output"], settings["timings"], settings["again"]
    code = code_record(config.network, job.program, job.program.schedule)
    failed = False
    others = [mask for mask in job.program.masks if mask != job.primary_mask]
    with (
        open_job(options.output, settings, code=code, again=options.again) as folder,
        collect_timings() as seconds,
    ):
        refuse_changed_cases(units, folder)
        total = sum(len(unit.ids) for unit in units)
        with tqdm(total=total, initial=len(folder.done()), desc="evaluate", unit="case") as bar:
            cases = remaining_cases(units, folder)
            for result in runner.run(cases, config, params, job=job):
                bar.update()
                with timed("writing"):
                    if isinstance(result, Registered):
                        predict = partial(make_prediction, result, calibration=calibration)
                        folder.add(
                            predict(job.primary_mask).to_json(),
                            score_case(result).to_json(),
                            others={mask: predict(mask).to_json() for mask in others},
                        )
                        with folder.alone():
                            views = options.output / "views"
                            snapshots.keep_worst(views, result, job.primary_mask)
                    else:
                        failed = True
                        print(f"e2r: {result.id}: {result.message}", file=sys.stderr)
                        line = failed_prediction(result).to_json()
                        folder.add(line, others=dict.fromkeys(others, line))
        if options.timings:
            print(timing_table(seconds))
        if len(folder.done()) < total:
            print(
                f"{len(folder.done())} of {total} cases are done; other processes work on the "
                "rest, and the last one writes the summary"
            )
            return 3 if failed else 0
        with folder.alone():
            return write_summary(options, units, folder, config=config)


def write_summary(
    options: Evaluate, units: Sequence[WorkUnit], folder: JobFolder, *, config: TrainingConfig
) -> int:
    """Writes summary and report of a job that is done, prints its table, returns the exit code.

    Args:
      options: of the command line.
      units: of the job.
      folder: of the job.
      config: of the trained network.
    """
    names = [name for unit in units for name in unit.ids]
    by_mask = {
        mask: _predictions(
            folder.lines() if mask == options.job.primary_mask else folder.lines_of(mask), names
        )
        for mask in options.job.program.masks
    }
    predictions = by_mask[options.job.primary_mask]
    scores = [CaseScores.from_json(row) for row in folder.rows([{"id": name} for name in names])]
    summary = summarise_job(
        predictions,
        scores,
        job=options.job,
        config=config,
        origin={
            "cases": str(options.cases or f"simulated, {options.specimens} specimens held out"),
            "checkpoint": str(options.checkpoint),
        },
        code=folder.code,
    )
    write_errors_table(options.output, table_rows(by_mask, scores))
    with atomic_write(options.output / "summary.json") as part:
        part.write_text(json.dumps(summary.to_json(), indent=1))
    report.write_report(
        options.output / "report.html",
        summary,
        predictions=predictions,
        scores=scores,
        snapshots=snapshots.read_worst(options.output / "views"),
        training_log=read_log(options.checkpoint),
    )
    print(summary_table(summary))
    print(
        f"{options.output / 'summary.json'}, report.html, predictions.jsonl, errors.jsonl, "
        "errors.csv"
    )
    return 3 if summary.failed else 0


def _predictions(lines: Sequence[dict[str, Any]], names: Sequence[str]) -> list[Prediction]:
    """The predictions of a job's cases, in their order."""
    by_id = {line["id"]: line for line in lines}
    return [Prediction.from_json(by_id[name]) for name in names if name in by_id]


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and evaluates."""
    prog = "python -m experiments.evaluate"
    return run_command(
        lambda: evaluate(parse_options(Evaluate, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(main())
