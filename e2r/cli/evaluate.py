"""``e2r evaluate``: registers many cases with a trained network, and measures the errors."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tqdm import tqdm

from e2r.config import EvaluationConfig, TrainingConfig
from e2r.evaluation import runner, work_units
from e2r.evaluation.errors_table import table_rows, write_errors_table
from e2r.evaluation.initial_poses import read_initial_poses
from e2r.evaluation.job_folder import SETTINGS, JobFolder, open_job
from e2r.evaluation.models import read_model
from e2r.evaluation.predictions import CaseScores, Prediction, judge_case
from e2r.evaluation.results import Registered
from e2r.evaluation.summary import summarise_job, summary_table
from e2r.runtime import outputs
from e2r.runtime.atomic_files import atomic_write
from e2r.runtime.provenance import code_record
from e2r.runtime.timing import collect_timings, timed, timing_table
from e2r.simulation import simulator
from e2r.training import checkpoints
from e2r.training.metrics_log import read_log
from e2r.training.trained_model import PACKAGED
from e2r.visualisation import report, snapshots


@dataclass(frozen=True)
class Options:
    """Register many cases, measure the errors, write a report.

    Without --cases, specimens that the training never saw are simulated. The same command continues
    an interrupted job.

    Example: e2r evaluate --cases cases --output out
    """

    output: Path
    """folder for predictions.jsonl, errors.jsonl, errors.csv, summary.json, report.html, views/"""
    checkpoint: Path = PACKAGED
    """output folder of e2r train; the packaged model without it"""
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


def _same_places(options: Options) -> dict[str, Any]:
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


def run(options: Options) -> int:
    """Runs ``e2r evaluate``, or the rest of it."""
    job = options.job
    outputs.require_folder(options.output)
    read_initial_poses(job.start)  # a bad pose file is refused before anything is written
    model = read_model(options.checkpoint)
    config, calibration = model.config, model.calibration
    units = (
        work_units.of_simulation(
            options.simulation or config.scenes.simulation,
            specimens=options.specimens,
            frames=options.frames,
            seed=job.seed,
        )
        if options.cases is None
        else work_units.of_folder(options.cases)
    )
    settings = {
        **_same_places(options),
        "parameters": checkpoints.digest(
            (model.params, *model.others) if model.others else model.params
        ),
        "calibration": calibration and dataclasses.asdict(calibration),
    }
    del settings["output"], settings["timings"], settings["again"]
    code = code_record(config.network, job.program, job.program.schedule)
    with (
        open_job(options.output, settings, code=code, again=options.again) as folder,
        collect_timings() as seconds,
    ):
        work_units.refuse_changed_cases(units, folder)
        total = sum(len(unit.ids) for unit in units)
        with tqdm(total=total, initial=len(folder.done()), desc="evaluate", unit="case") as bar:
            cases = work_units.remaining_cases(units, folder)
            for result in runner.run(cases, model, job=job):
                bar.update()
                with timed("writing"):
                    outcome = judge_case(result, job.program.masks, calibration=calibration)
                    lines = {m: one.to_json() for m, one in outcome.predictions.items()}
                    if isinstance(result, Registered):
                        views = options.output / "views"
                        snapshots.keep_worst(views, result, job.primary_mask)
                    else:
                        print(f"e2r: {result.id}: {result.message}", file=sys.stderr)
                    folder.add(
                        lines.pop(job.primary_mask),
                        None if outcome.scores is None else outcome.scores.to_json(),
                        others=lines,
                    )
        if options.timings:
            print(timing_table(seconds))
        return write_summary(options, units, folder, config=config)


def write_summary(
    options: Options,
    units: Sequence[work_units.WorkUnit],
    folder: JobFolder,
    *,
    config: TrainingConfig,
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
