"""The published protocol of a data set: leave one specimen out, train, evaluate, in every fold.

Command:  python -m experiments.protocol spinedepth --root SPINEDEPTH --output runs/spinedepth
Time:     one training run for each fold (98 minutes for base); none with --checkpoint
Expect:   a table beside the published figures: median TRE 1.83 mm (End2Reg) and 2.73 mm (Liebmann
          et al.) on SpineDepth. The data are not ours to give, so ours is not measured yet

    spinedepth  leaves each specimen out in turn; TRE over the vertices of each level, without an
                initial pose
    pairs       leaves each specimen out in turn; each pair begins from 10 random perturbations of
                the truth; a success is less than 4 mm and 5 degrees off
    spinealign  leaves each sequence out in turn, or with --train-last 17 uses the split of the data
                set; RMSE over the labelled points, without an initial pose

Writes protocol.json (the settings), cases/, folds/NAME/ (run/ and result.json), summary.json and
report.html. Interrupted, the same command goes on: finished folds are kept, and a training run
resumes from its last checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal

import plotly.graph_objects as go
import tyro
from tqdm import tqdm

from e2r.cli.errors import parse_options, run_command
from e2r.config import NAMED_CONFIGS, EvaluationConfig, TrainingConfig, config_to_json
from e2r.datasets import case_folder, spinealign, spinedepth, spinedepth_pairs
from e2r.datasets.case import Case
from e2r.evaluation import runner
from e2r.evaluation.cross_validation import Fold, PoseLimits, grouped_figures, leave_one_out
from e2r.evaluation.models import Model
from e2r.evaluation.published import PUBLISHED, SPINEDEPTH_LABEL_FLOOR_MM
from e2r.evaluation.results import Registered
from e2r.evaluation.study_folder import open_study, run_parts
from e2r.evaluation.text_table import text_table
from e2r.formats import file_checks
from e2r.runtime.atomic_files import atomic_write
from e2r.runtime.cluster import ClusterConfig, leave_devices
from e2r.training import batches, checkpoints, loop, sources
from e2r.training.trained_model import load_trained
from e2r.types import Params
from e2r.visualisation.plots import error_boxes

RESULTS = ("cases", "cases.json", "folds", "summary.json", "report.html")
"""What a protocol writes, beside its settings."""
LIMITS = PoseLimits(spinedepth_pairs.SUCCESS_MM, spinedepth_pairs.SUCCESS_DEGREES)


@dataclass(frozen=True)
class Protocol:
    """The published protocol of a data set: leave one specimen out, train, evaluate."""

    data_set: Annotated[Literal["spinedepth", "pairs", "spinealign"], tyro.conf.Positional]
    """name of the data set"""
    root: Path
    """folder of the data set, as `e2r convert` takes it"""
    output: Path
    """folder for cases, folds, summary and report"""
    checkpoint: Path | None = None
    """evaluate this trained model in every fold, and train nothing"""
    config: TrainingConfig = dataclasses.field(default_factory=lambda: NAMED_CONFIGS["base"][1])
    """settings of the training runs"""
    only: tuple[str, ...] = ()
    """specimens or sequences to use, of spinedepth by number; all of them by default"""
    cameras: tuple[int, ...] = (0, 1)
    """cameras of spinedepth and pairs"""
    every: int = 0
    """take every so many frames; by default 100 for the videos of spinedepth, 1 for spinealign"""
    train_last: int = 0
    """spinealign: one fold, trained on this many of the last sequences (17: the published split)"""
    start: str | None = None
    """auto or truth; by default what the protocol says"""
    start_noise_deg: float = 5.0
    """with --start truth: standard deviation of the rotation per axis, degrees"""
    start_noise_mm: float = 5.0
    """with --start truth: standard deviation of the translation per axis, mm"""
    label_floor: float | None = None
    """mean error of the labels themselves, mm, for table and report; by default 1.5 for spinedepth,
    the RMSE of the labelled pairs for spinealign, and unknown for pairs"""
    batch: int = 8
    """cases on the device at a time"""
    seed: int = 0
    """seed of the initial poses, the search and the bootstrap"""
    where: Annotated[ClusterConfig, tyro.conf.arg(name="")] = ClusterConfig()
    """where the folds run; on a cluster, a fold is one task, and every node sees the output"""
    again: bool = False
    """where the output's figures were computed by other code: compute all of them anew"""

    def __post_init__(self) -> None:
        if self.every < 0 or self.train_last < 0:
            raise ValueError("--every and --train-last are 0 or more")
        if self.start not in (None, "auto", "truth"):
            raise ValueError(f"--start {self.start}: use auto or truth")
        if self.label_floor is not None and not 0 <= self.label_floor < float("inf"):
            raise ValueError(f"--label-floor is {self.label_floor}; use mm, 0 or more")
        if self.data_set == "spinedepth" and not all(name.isdigit() for name in self.only):
            raise ValueError(f"--only {' '.join(self.only)}: spinedepth's specimens are numbers")

    def job(self) -> EvaluationConfig:
        """How the cases are registered."""
        kind = self.start or ("truth" if self.data_set == "pairs" else "auto")
        return EvaluationConfig(
            start=kind,
            start_noise_deg=self.start_noise_deg,
            start_noise_mm=self.start_noise_mm,
            batch=self.batch,
            seed=self.seed,
        )


def settings_of(options: Protocol) -> dict[str, Any]:
    """The settings that the figures depend on, as JSON values."""
    plain = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    for name in ("output", "label_floor", "batch", "where", "again"):
        del plain[name]
    plain |= {"root": str(options.root.resolve()), "config": config_to_json(options.config)}
    return json.loads(json.dumps(plain, default=str))


def convert(options: Protocol) -> dict[str, Any]:
    """Writes the data set as case folders, once.

    Returns:
      ``sources``, in the order of the data set, and ``label_rmse_mm``, None where it is unknown.
    """
    stamp = options.output / "cases.json"
    if stamp.exists():
        return file_checks.read_json(stamp)
    names: dict[str, None] = {}  # an ordered set
    labels: list[float] = []

    def noted() -> Iterator[Case]:
        for case, label_rmse_mm in read_data_set(options):
            names[case.source] = None
            if label_rmse_mm is not None:
                labels.append(label_rmse_mm)
            yield case

    count = case_folder.write_cases(noted(), options.output / "cases")
    print(f"{count} cases in {options.output / 'cases'}")
    about = {"sources": list(names), "label_rmse_mm": sum(labels) / len(labels) if labels else None}
    _write(stamp, about)
    return about


def read_data_set(options: Protocol) -> Iterator[tuple[Case, float | None]]:
    """The cases of a data set, each with the RMSE of its labelled pairs where it has some, mm."""
    root, only, cameras = options.root, options.only, options.cameras
    if options.data_set == "spinealign":
        for case, label in spinealign.convert(root, sequences=only, every=options.every or 1):
            yield case, label.rmse_mm
        return
    if options.data_set == "pairs":
        cases = spinedepth_pairs.convert(root, specimens=only, cameras=cameras)
    else:
        specimens = [int(name) for name in only]
        every = options.every or 100
        cases = spinedepth.convert(root, specimens=specimens, cameras=cameras, every=every)
    for case in cases:
        yield case, None


def folds(options: Protocol, sources: Sequence[str]) -> list[Fold]:
    """The folds of a protocol.

    Args:
      options: of the command line.
      sources: specimens or sequences of the data set, in order.

    Raises:
      ValueError: nothing would be left to train on, or to evaluate.
    """
    if options.train_last:
        if options.data_set != "spinealign" or options.train_last >= len(sources):
            raise ValueError(
                f"--train-last {options.train_last}: is for spinealign, and must leave some of its "
                f"{len(sources)} sequences to evaluate; use fewer"
            )
        return [Fold("split", frozenset(sources[: -options.train_last]))]
    if len(sources) < 2 and options.checkpoint is None:
        raise ValueError(
            f"{options.root}: holds {len(sources)} specimen and no other to train on; give two, or "
            "a trained model with --checkpoint"
        )
    return leave_one_out(sources)


def fold_model(options: Protocol, fold: Fold, folder: Path) -> tuple[TrainingConfig, Params]:
    """The trained model of a fold: that of --checkpoint, or one trained without the held-out cases.

    Args:
      options: of the command line.
      fold: the fold.
      folder: of the fold.
    """
    if options.checkpoint is not None:
        return load_trained(options.checkpoint)
    run = folder / "run"
    if checkpoints.latest_step(run) != options.config.optimisation.steps:
        examples = sources.from_folder(
            options.output / "cases", options.config, without=fold.held_out
        )
        source = f"{options.data_set} without {', '.join(sorted(fold.held_out))}"
        drawn = batches.uniform_batches(options.config, examples)
        loop.train(loop.RunInputs(options.config, drawn, source), run)
    return load_trained(run)


def held_out_cases(options: Protocol, fold: Fold) -> Iterator[Case]:
    """The cases that a fold evaluates. Of pairs, each comes ten times.

    The names of the ten differ, and the name of a case draws its perturbation.

    Args:
      options: of the command line.
      fold: the fold.
    """
    for path in case_folder.find_cases(options.output / "cases"):
        if case_folder.read_source(path) not in fold.held_out:
            continue
        case = case_folder.read_case(path)
        if options.data_set != "pairs":
            yield case
            continue
        for start in range(spinedepth_pairs.STARTS):
            yield replace(case, id=f"{case.id}_start{start}")


def run_fold(options: Protocol, fold: Fold) -> dict[str, Any]:
    """Trains and evaluates a fold, or reads its result where it is done.

    Args:
      options: of the command line.
      fold: the fold.

    Returns:
      ``rows`` (for each case its id, source, seconds and errors) and ``failed`` (sentences).
    """
    folder = options.output / "folds" / fold.name
    path = folder / "result.json"
    if path.exists():
        return file_checks.read_json(path)
    folder.mkdir(parents=True, exist_ok=True)
    config, params = fold_model(options, fold, folder)
    rows, failed = [], []
    for item in tqdm(
        runner.run(held_out_cases(options, fold), Model(config, params), job=options.job()),
        desc=fold.name,
        unit="case",
    ):
        if isinstance(item, Registered):
            about = {"id": item.case.id, "source": item.case.source, "seconds": item.seconds}
            rows.append(about | item.errors["learnt"].to_json())
        else:
            failed.append(f"{item.id}: {item.message}")
            print(f"e2r: {failed[-1]}", file=sys.stderr)
    found = {"held_out": sorted(fold.held_out), "rows": rows, "failed": failed}
    _write(path, found)
    return found


def _write(path: Path, value: dict[str, Any]) -> None:
    with atomic_write(path) as part:
        part.write_text(json.dumps(value, indent=1))


def summarise(
    options: Protocol, results: Sequence[Mapping[str, Any]], label_floor_mm: float | None
) -> dict[str, Any]:
    """All figures: over all cases, by level, and by specimen or sequence.

    Args:
      options: of the command line.
      results: of all folds.
      label_floor_mm: error of the labels themselves, where it is known.
    """
    rows = [row for result in results for row in result["rows"]]
    return {
        "data_set": options.data_set,
        **grouped_figures(rows, seed=options.seed, limits=LIMITS),
        "failed": [sentence for result in results for sentence in result["failed"]],
        "label_floor_mm": label_floor_mm,
        "published": [
            {"who": entry.method, "what": entry.measure, "mm": entry.mm}
            for entry in PUBLISHED[options.data_set]
        ],
        "settings": settings_of(options),
    }


def results_table(summary: Mapping[str, Any]) -> str:
    """The published figures and ours, as text."""
    published = [
        f"published: {p['who']}, {p['what']} {p['mm']:.2f} mm" for p in summary["published"]
    ]
    floor = summary["label_floor_mm"]
    known = f"the labels themselves are {floor:.2f} mm off" if floor is not None else ""
    rows = []
    groups = {"all": summary["all"], **summary["by_level"], **summary["by_source"]}
    for name, value in groups.items():
        if not value["count"]:
            rows.append([name, 0, *[""] * 8])
            continue
        tre, success = value["tre_mm"], value["success"]
        errors = [f"{v:.2f} mm" for v in (tre["median"], tre["mean"], tre["p95"], value["rmse_mm"])]
        rates = (success["2mm"], success["3mm"], success["5mm"], value["registered"])
        rows.append([name, value["count"], *errors, *(f"{rate:.1%}" for rate in rates)])
    columns = ["e2r", "cases", "median TRE", "mean", "p95", "RMSE", "<2 mm", "<3 mm", "<5 mm"]
    lines = [
        *published,
        f"label floor: {known or 'not known; give it with --label-floor'}",
        text_table([*columns, "<4 mm, 5°"], rows),
    ]
    if summary["failed"]:
        lines.append(f"{len(summary['failed'])} cases could not be registered")
    return "\n".join(lines)


def report_figure(summary: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> go.Figure:
    """TRE of every case by level and by specimen, with the published figures and the label floor.

    Args:
      summary: of :func:`summarise`.
      results: of all folds.
    """
    rows = [row for result in results for row in result["rows"]]
    panels = {
        "by level": {
            name: [row["by_level"][name]["tre_mm"] for row in rows if name in row["by_level"]]
            for name in summary["by_level"]
        },
        "by specimen or sequence": {
            name: [row["tre_mm"] for row in rows if row["source"] == name]
            for name in summary["by_source"]
        },
    }
    lines = {f"{p['who']}: {p['what']}": p["mm"] for p in summary["published"]}
    if summary["label_floor_mm"] is not None:
        lines["label floor"] = summary["label_floor_mm"]
    return error_boxes(panels, lines, title=summary["data_set"], solid=frozenset({"label floor"}))


def run(options: Protocol) -> int:
    """Runs what is left of the protocol, and writes its summary and report."""
    path, output = options.output / "protocol.json", options.output
    leave_devices(options.where)
    with open_study(
        path,
        settings_of(options),
        study=(convert, folds, run_fold),
        again=options.again,
        results=[output / name for name in RESULTS],
        first=[output / "cases.json", *output.glob("folds/*/result.json")],
        plugins=(options.config.network, options.config.schedule, options.config.optimisation),
    ) as code:
        try:
            about = convert(options)
        except (ValueError, OSError):
            if not (output / "cases").exists():
                path.unlink()  # nothing was written: other settings may be
            raise
        checkpoint = options.checkpoint and options.checkpoint.resolve()
        placed = replace(options, output=output.resolve(), checkpoint=checkpoint)
        left, name = folds(options, about["sources"]), attrgetter("name")
        results = run_parts(partial(run_fold, placed), left, config=options.where, name=name)
        known = options.data_set == "spinedepth"
        floor = SPINEDEPTH_LABEL_FLOOR_MM if known else about["label_rmse_mm"]
        floor = floor if options.label_floor is None else options.label_floor
        summary = summarise(options, results, floor) | {"code": code}
        _write(output / "summary.json", summary)
        page = report_figure(summary, results).to_html(include_plotlyjs=True)
        (output / "report.html").write_text(page, encoding="utf-8")
        print(results_table(summary))
        print(f"{output / 'summary.json'}, report.html, folds/")
        return 3 if summary["failed"] else 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the protocol."""
    prog = "python -m experiments.protocol"
    return run_command(
        lambda: run(parse_options(Protocol, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(import_module("experiments.protocol").main())  # by its name, for workers
