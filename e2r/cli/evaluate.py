"""``e2r evaluate``: registers many cases with a trained network, and measures the errors."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeAlias

import jax
import tyro
from tqdm import tqdm

from e2r.config import EvaluationConfig, TrainingConfig
from e2r.datasets.case import Case, SlimCase, slim, whole
from e2r.evaluation import runner, work_units
from e2r.evaluation.errors_table import table_rows, write_errors_table
from e2r.evaluation.initial_poses import read_initial_poses
from e2r.evaluation.job_folder import SETTINGS, JobFolder, open_job
from e2r.evaluation.models import Model, read_model
from e2r.evaluation.predictions import CaseScores, Prediction, failed_prediction, judge_case
from e2r.evaluation.results import Failed, Registered
from e2r.evaluation.summary import summarise_job, summary_table
from e2r.formats import file_checks
from e2r.runtime import cluster, outputs
from e2r.runtime.atomic_files import atomic_write
from e2r.runtime.cluster import ClusterConfig
from e2r.runtime.provenance import code_record
from e2r.runtime.timing import collect_timings, timed, timing_table
from e2r.simulation import simulator
from e2r.training import checkpoints
from e2r.training.metrics_log import read_log
from e2r.training.trained_model import PACKAGED
from e2r.visualisation import report, snapshots

WINDOW = 6
"""Batches of cases that a worker holds at most. The stages hold four before they give one back."""


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
    where: Annotated[ClusterConfig, tyro.conf.arg(name="")] = ClusterConfig()
    """where they are registered"""
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
        stored = file_checks.parse_json((options.output / SETTINGS).read_text())
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
    cluster.leave_devices(options.where)
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
    if job.start not in ("auto", "truth"):
        settings["start_digest"] = hashlib.sha256(Path(job.start).read_bytes()).hexdigest()[:12]
    for name in ("output", "timings", "again", "where"):
        del settings[name]
    code = code_record(config.network, job.program, job.program.schedule)
    with (
        open_job(options.output, settings, code=code, again=options.again) as folder,
        collect_timings() as seconds,
    ):
        work_units.refuse_changed_cases(units, folder)
        total = sum(len(unit.ids) for unit in units)
        left: Iterator[Sent] = work_units.remaining_cases(units, folder)
        if options.where.cluster is not None:
            left = (slim(one) if isinstance(one, Case) else one for one in left)
        device = ""
        with tqdm(total=total, initial=len(folder.done()), desc="evaluate", unit="case") as bar:
            for report in cluster.stream(
                partial(report_cases, model=dataclasses.replace(model, fitted=()), job=job),
                left,
                config=options.where,
                name=attrgetter("id"),
                give_up=partial(report_lost, job=job),
                window=WINDOW * job.batch,
                notice=partial(bar.set_postfix_str, refresh=False),
            ):
                bar.update()
                device = report.device or device
                with timed("writing"):
                    if report.snapshot is not None:
                        snapshots.keep_worst(options.output / "views", report.snapshot)
                    if report.error is not None:
                        print(f"e2r: {report.id}: {report.error}", file=sys.stderr)
                    lines = dict(report.lines)
                    folder.add(lines.pop(job.primary_mask), report.row, others=lines)
        if options.timings:
            print(timing_table(seconds))
        return write_summary(options, units, folder, config=config, device=device)


def write_summary(
    options: Options,
    units: Sequence[work_units.WorkUnit],
    folder: JobFolder,
    *,
    config: TrainingConfig,
    device: str,
) -> int:
    """Writes summary and report of a job that is done, prints its table, returns the exit code.

    Args:
      options: of the command line.
      units: of the job.
      folder: of the job.
      config: of the trained network.
      device: kind of the devices that registered; this process's, if empty.
    """
    names = [name for unit in units for name in unit.ids]
    by_mask = {
        mask: _predictions(
            folder.lines() if mask == options.job.primary_mask else folder.lines_of(mask), names
        )
        for mask in options.job.program.masks
    }
    predictions = by_mask[options.job.primary_mask]
    # a case that failed since a killed process wrote its errors has none
    good = [{"id": one.id} for one in predictions if one.error is None]
    scores = [CaseScores.from_json(row) for row in folder.rows(good)]
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
        device=device,
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


# Each case ----------------------------------------------------------------------------------------


class CaseReport(NamedTuple):
    """What a job's folder keeps of one case."""

    id: str
    lines: dict[str, dict[str, Any]]  # mask name -> line of its predictions
    row: dict[str, Any] | None = None  # of errors.jsonl; None: the case failed
    error: str | None = None  # why it failed
    snapshot: snapshots.Snapshot | None = None  # one of the worst so far
    device: str = ""  # kind of the device that registered it


Sent: TypeAlias = Case | SlimCase | Failed
"""A case as a worker gets it, or one that could not be read."""


def report_cases(
    source: Iterator[Sent], *, model: Model, job: EvaluationConfig
) -> Iterator[tuple[str, CaseReport]]:
    """Registers cases; yields the id and the report of each.

    Args:
      source: the cases, and those that could not be read.
      model: the trained networks.
      job: how the cases are registered.
    """
    worst = snapshots.WorstCases(job.primary_mask)
    device = str(jax.devices()[0].device_kind)
    cases = (whole(one) if isinstance(one, SlimCase) else one for one in source)
    for result in runner.run(cases, model, job=job):
        outcome = judge_case(result, job.program.masks, calibration=model.calibration)
        report = CaseReport(
            id=result.id if isinstance(result, Failed) else result.case.id,
            lines={mask: one.to_json() for mask, one in outcome.predictions.items()},
            row=None if outcome.scores is None else outcome.scores.to_json(),
            error=result.message if isinstance(result, Failed) else None,
            snapshot=worst.offer(result) if isinstance(result, Registered) else None,
            device=device,
        )
        yield report.id, report


def report_lost(case: Sent, sentence: str, *, job: EvaluationConfig) -> CaseReport:
    """The report of a case whose worker died again and again.

    Args:
      case: the case.
      sentence: what happened.
      job: how the cases are registered.
    """
    line = failed_prediction(Failed(case.id, sentence)).to_json()
    return CaseReport(case.id, dict.fromkeys(job.program.masks, line), error=sentence)


def _predictions(lines: Sequence[dict[str, Any]], names: Sequence[str]) -> list[Prediction]:
    """The predictions of a job's cases, in their order."""
    by_id = {line["id"]: line for line in lines}
    found = []
    for name in (name for name in names if name in by_id):
        try:
            found.append(Prediction.from_json(by_id[name]))
        except (KeyError, TypeError, AttributeError):
            raise ValueError(
                f"the job's line of {name} is none that e2r evaluate wrote; delete it from the "
                "predictions, and give the same command again"
            ) from None
    return found
