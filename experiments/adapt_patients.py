"""Adapts a model to several patients, one after the other or on a cluster.

Command:  python -m experiments.adapt_patients --patients models --output adapted
Time:     nine minutes on two cores for two patients with --cluster local; six a patient without;
          interrupted, the same command goes on
Expect:   a folder a patient, each for --checkpoint; for two real spines a median TRE of 1.30 mm
          before, 1.31 mm adapted, 1.26 mm with both (intervals 0.98 to 1.51); exit code 3 if some
          patient was refused

Each folder in --patients holds the surfaces of one patient, as for e2r adapt. With --cluster, a
patient is a task; its worker writes the patient's folder, so every node must see --output. All
patients take the same number of steps: minutes would depend on what else a machine does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from e2r.adaptation.report import REPORT_FILE, Report, interval_text, read_report, report_to_json
from e2r.adaptation.settings import AdaptationConfig
from e2r.api.adapting import adapt
from e2r.api.models import load_model
from e2r.cli.errors import parse_options, run_command, sentence
from e2r.evaluation import metrics
from e2r.evaluation.study_folder import run_parts
from e2r.evaluation.text_table import text_table
from e2r.formats import file_checks
from e2r.runtime import outputs
from e2r.runtime.atomic_files import atomic_write
from e2r.runtime.cluster import ClusterConfig, leave_devices
from e2r.runtime.single_writer import single_writer
from e2r.runtime.system_errors import REFUSALS

SUMMARY = "patients.json"
MODELS = ("base", "adapted", "both")
"""The models that a report compares."""


@dataclass(frozen=True)
class AdaptPatients:
    """Adapts a model to several patients, one after the other or on a cluster."""

    patients: Path
    """folder with a folder of surfaces for each patient"""
    output: Path
    """folder for the adapted models, one folder a patient"""
    checkpoint: Path | None = None
    """model to begin with; the packaged one without it"""
    camera: Path | None = None
    """intrinsics, width and height of the room's camera; any camera without it"""
    adaptation: Annotated[AdaptationConfig, tyro.conf.arg(name="")] = AdaptationConfig(steps=400)
    """of each patient"""
    where: Annotated[ClusterConfig, tyro.conf.arg(name="")] = ClusterConfig()
    """where the models are adapted"""

    def __post_init__(self) -> None:
        if self.adaptation.steps < 1:
            raise ValueError("--steps is 0; use 1 or more, for minutes differ between machines")


class Adapted(NamedTuple):
    """What is known of one patient."""

    name: str
    report: Report | None  # None where the patient was refused
    error: str | None = None


def find_patients(folder: Path) -> list[Path]:
    """The patients' folders, by name.

    Args:
      folder: of all of them.

    Raises:
      ValueError: there is none.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give one with a folder for each patient")
    found = [path for path in sorted(file_checks.visible(folder.iterdir())) if path.is_dir()]
    if not found:
        raise ValueError(f"{folder}: holds no folder; put each patient's surfaces into one")
    return found


def adapt_patient(options: AdaptPatients, patient: Path) -> Adapted:
    """Adapts the model to one patient, or goes on with it.

    Args:
      options: of the command line.
      patient: folder of the surfaces.
    """
    output = options.output / patient.name
    try:
        adapt(
            load_model(options.checkpoint),
            patient,
            output=output,
            config=options.adaptation,
            camera=options.camera,
        )
        return Adapted(patient.name, read_report(output / REPORT_FILE))
    except REFUSALS as error:
        return Adapted(patient.name, None, sentence(error))


def run(options: AdaptPatients) -> int:
    """Adapts the model to all patients; 3 if some were refused."""
    leave_devices(options.where)
    patients = find_patients(options.patients.resolve())
    outputs.require_folder(options.output)
    options.output.mkdir(parents=True, exist_ok=True)
    placed = replace(
        options,
        output=options.output.resolve(),
        checkpoint=options.checkpoint and options.checkpoint.resolve(),
        camera=options.camera and options.camera.resolve(),
    )
    with single_writer(options.output, "study"):
        found = run_parts(
            partial(adapt_patient, placed), patients, config=options.where, name=attrgetter("name")
        )
        with atomic_write(options.output / SUMMARY) as part:
            part.write_text(json.dumps([_to_json(one) for one in found], indent=1))
    for one in found:
        if one.error is not None:
            print(f"e2r: {one.name}: {one.error}", file=sys.stderr)
    print(results_table(found))
    print(f"{options.output / SUMMARY}, and a folder a patient")
    return 3 if any(one.error is not None for one in found) else 0


def _to_json(patient: Adapted) -> dict[str, Any]:
    report = patient.report and report_to_json(patient.report)
    return {"name": patient.name, "report": report, "error": patient.error}


def results_table(patients: list[Adapted]) -> str:
    """What the models reach on the patients' held-out simulated frames, as text.

    The intervals of a patient are over its frames, those of all over the patients.

    Args:
      patients: all of them.
    """
    columns = ["patient", *(f"{model}, median TRE (mm)" for model in MODELS), "asked", "minutes"]
    rows = []
    reports = {one.name: one.report for one in patients if one.report is not None}
    for one in patients:
        if one.report is None:
            rows.append([one.name, *"-" * (len(columns) - 1)])
            continue
        cells = [_cell(row["median_tre_mm"], row["interval_mm"]) for row in one.report.rows]
        rows.append([one.name, *cells, one.report.believed, f"{one.report.seconds / 60:.1f}"])
    if len(reports) > 1:
        rows.append(["all", *(_pooled(name, reports) for name in MODELS), "", ""])
    return text_table(columns, rows)


def _pooled(model: str, reports: Mapping[str, Report]) -> str:
    """The median over all patients, with its interval."""
    errors = [
        (patient, value)
        for patient, report in reports.items()
        for row in report.rows
        if row["model"] == model
        for value in row["tre_mm"]
    ]
    if not errors:
        return _cell(None, None)
    tre, median = np.array([value for _, value in errors]), metrics.STATISTICS["median"]
    ends = metrics.bootstrap(tre, [patient for patient, _ in errors], median, seed=0)
    return _cell(float(np.median(tre)), ends)


def _cell(median: float | None, ends: Sequence[float] | None) -> str:
    return "-" if median is None else f"{median:.2f} ({interval_text(ends)})"


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs."""
    prog = "python -m experiments.adapt_patients"
    return run_command(
        lambda: run(parse_options(AdaptPatients, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(import_module("experiments.adapt_patients").main())  # by its name, for workers
