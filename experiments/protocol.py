"""The published protocol of a data set: leave one specimen out, all folds, and the paper's table.

Command:  python -m experiments.protocol spinedepth --root SPINEDEPTH --output runs/spinedepth
Time:     that of one training run a fold, and of reading the data; --checkpoint trains nothing
Expect:   a table beside the published figures; which figures of ours, nobody has measured yet: the
          data are their owners' to give

    spinedepth  each specimen is left out in turn; TRE over each level's vertices, with no start
    pairs       each specimen is left out in turn; each pair from 10 random perturbations of the
                truth, a success is less than 4 mm and 5 degrees off
    spinealign  each sequence is left out in turn, or (--train-last 17) the data set's own split;
                RMSE over the labelled points, with no start

Writes protocol.json (the settings), cases/, folds/NAME/ (run/ and result.json), summary.json and
report.html. Interrupted, the same command goes on: a fold that is done is not done again, and a
training run goes on from its last checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import plotly.graph_objects as go
import tyro
from plotly.subplots import make_subplots
from tqdm import tqdm

from e2r.cli.convert import write_cases
from e2r.cli.errors import run_command
from e2r.config import NAMED_CONFIGS, EvaluationConfig, InitialPose, TrainingConfig, config_to_json
from e2r.datasets import case_folder, file_checks, spinealign, spinedepth, spinedepth_pairs
from e2r.datasets.case import Case
from e2r.evaluation import metrics, runner
from e2r.evaluation.predictions import Registered
from e2r.runtime.atomic_files import atomic_write, check_settings
from e2r.runtime.provenance import versions
from e2r.training import batches, checkpoints, examples, loop
from e2r.training.trained_model import load_trained
from e2r.types import Params


class Published(NamedTuple):
    """A figure that others reached on a data set."""

    who: str
    what: str
    mm: float


PUBLISHED = {
    "spinedepth": (
        Published("End2Reg, Pettinari et al. 2025", "median TRE", 1.83),
        Published("Liebmann et al.", "TRE", 2.73),
    ),
    "pairs": (),
    "spinealign": (Published("End2Reg, Pettinari et al. 2025", "mean RMSE", 3.95),),
}
SPINEDEPTH_FLOOR = 1.5
"""mm: mean TRE of SpineDepth's own ground truth (Liebmann et al., J. Imaging 2021, abstract)."""


@dataclass(frozen=True)
class Protocol:
    """The published protocol of a data set, with the paper's table beside ours."""

    data_set: Annotated[Literal["spinedepth", "pairs", "spinealign"], tyro.conf.Positional]
    """which"""
    root: Path
    """the data set's folder, as its convert command takes it"""
    output: Path
    """folder for everything"""
    checkpoint: Path | None = None
    """evaluate this model in every fold, and train nothing"""
    config: TrainingConfig = dataclasses.field(default_factory=lambda: NAMED_CONFIGS["base"][1])
    """of the training runs"""
    only: tuple[str, ...] = ()
    """specimens (of spinedepth by number) or sequences to use, all without it"""
    cameras: tuple[int, ...] = (0, 1)
    """of spinedepth and pairs"""
    every: int = 0
    """one frame in so many, of spinedepth's videos (100 without it) and of spinealign (1)"""
    train_last: int = 0
    """spinealign: one fold, trained on so many of the last sequences (17: the data set's split)"""
    start: str | None = None
    """auto or truth; without it as the protocol says"""
    start_degrees: float = 5.0
    """with perturbed starts: standard deviation of the rotation per axis"""
    start_mm: float = 5.0
    """with perturbed starts: standard deviation of the translation per axis"""
    label_floor: float | None = None
    """mm: error of the labels themselves, drawn into the table and report; without it what is
    known: of spinedepth 1.5 (mean TRE), of spinealign what its pairs leave, of pairs nothing"""
    batch: int = 8
    """cases on the device at a time"""
    seed: int = 0
    """of the starts, the search and the bootstrap"""

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
        """How its cases are registered."""
        kind = self.start or ("truth" if self.data_set == "pairs" else "auto")
        start = InitialPose(kind, self.start_degrees, self.start_mm)
        return EvaluationConfig(start=start, batch=self.batch, seed=self.seed)


class Fold(NamedTuple):
    """What is left out of training, and evaluated."""

    name: str
    held_out: frozenset[str]


def settings_of(options: Protocol) -> dict[str, Any]:
    """What makes the figures, as JSON values."""
    plain = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    del plain["output"], plain["label_floor"], plain["batch"]
    plain |= {"root": str(options.root.resolve()), "config": config_to_json(options.config)}
    return json.loads(json.dumps(plain, default=str))


def convert(options: Protocol) -> dict[str, Any]:
    """Writes the data set as case folders, once.

    Returns:
      ``sources``, in the data set's order, and ``label_rmse_mm`` where the data set tells it.
    """
    stamp = options.output / "cases.json"
    if stamp.exists():
        return file_checks.read_json(stamp)
    labels: list[float] = []

    def found() -> Iterator[Case]:
        root, only, cameras = options.root, options.only, options.cameras
        if options.data_set == "spinedepth":
            yield from spinedepth.convert(
                root, specimens=[int(n) for n in only], cameras=cameras, every=options.every or 100
            )
        elif options.data_set == "pairs":
            yield from spinedepth_pairs.convert(root, specimens=only, cameras=cameras)
        else:
            every = options.every or 1
            for case, label in spinealign.convert(root, sequences=only, every=every):
                labels.append(label.rmse_mm)
                yield case

    sources: dict[str, None] = {}

    def noted() -> Iterator[Case]:
        for case in found():
            sources[case.source] = None
            yield case

    write_cases(noted(), options.output / "cases")
    about: dict[str, Any] = {"sources": list(sources), "label_rmse_mm": None}
    if labels:
        about["label_rmse_mm"] = sum(labels) / len(labels)
    _write(stamp, about)
    return about


def folds(options: Protocol, sources: Sequence[str]) -> list[Fold]:
    """The folds of a protocol.

    Raises:
      ValueError: nothing would be left to train on, or to evaluate.
    """
    if options.train_last:
        if options.data_set != "spinealign" or options.train_last >= len(sources):
            raise ValueError(
                f"--train-last {options.train_last}: is for spinealign, and leaves some of its "
                f"{len(sources)} sequences to evaluate on; use fewer"
            )
        return [Fold("split", frozenset(sources[: -options.train_last]))]
    if len(sources) < 2 and options.checkpoint is None:
        raise ValueError(
            f"{options.root}: holds {len(sources)} specimen, so there is no other to train on; "
            "give two, or a trained model with --checkpoint"
        )
    return [Fold(name, frozenset({name})) for name in sorted(sources)]


def trained(options: Protocol, fold: Fold, folder: Path) -> tuple[TrainingConfig, Params]:
    """The model of a fold: the one given, or trained (on) without what is held out."""
    if options.checkpoint is not None:
        return load_trained(options.checkpoint)
    run = folder / "run"
    if checkpoints.latest_step(run) != options.config.optimisation.steps:
        bank = examples.bank_from_folder(
            options.output / "cases", options.config, without=fold.held_out
        )
        source = f"{options.data_set} without {', '.join(sorted(fold.held_out))}"
        stream = batches.from_bank(options.config, bank)
        loop.train(options.config, stream, run, source=source)
    return load_trained(run)


def held_out(options: Protocol, fold: Fold) -> Iterator[Case]:
    """The cases of a fold's evaluation; of pairs one for each start, which its name draws."""
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
    """Trains and evaluates a fold, or reads what came of it before.

    Returns:
      ``rows`` (of each case id, source, seconds and :func:`metrics.case_errors`) and ``failed``
      (sentences).
    """
    folder = options.output / "folds" / fold.name
    path = folder / "result.json"
    if path.exists():
        return file_checks.read_json(path)
    folder.mkdir(parents=True, exist_ok=True)
    config, params = trained(options, fold, folder)
    rows, failed = [], []
    for item in tqdm(
        runner.run(held_out(options, fold), config, params, options.job()),
        desc=fold.name,
        unit="case",
    ):
        if isinstance(item, Registered):
            about = {"id": item.case.id, "source": item.case.source, "seconds": item.seconds}
            rows.append(about | item.errors["learnt"])
        else:
            failed.append(f"{item[0]}: {item[1]}")
            print(f"e2r: {failed[-1]}", file=sys.stderr)
    found = {"held_out": sorted(fold.held_out), "rows": rows, "failed": failed}
    _write(path, found)
    return found


def _write(path: Path, value: dict[str, Any]) -> None:
    with atomic_write(path) as part:
        part.write_text(json.dumps(value, indent=1))


# Figures ------------------------------------------------------------------------------------------


def figures(rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    """:func:`metrics.summarise` of cases or levels, and how many are less than 4 mm and 5° off."""
    found = metrics.summarise(rows, [row["source"] for row in rows], seed=seed)
    good = [
        row["translation_mm"] < spinedepth_pairs.SUCCESS_MM
        and row["rotation_deg"] < spinedepth_pairs.SUCCESS_DEGREES
        for row in rows
    ]
    return found | {"registered": sum(good) / len(good) if good else None}


def summary(
    options: Protocol, done: Sequence[dict[str, Any]], label: float | None
) -> dict[str, Any]:
    """All figures: of all cases, by level, and by specimen or sequence."""
    rows = [row for fold in done for row in fold["rows"]]
    levels: dict[str, list[dict[str, Any]]] = {}
    sources: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        sources.setdefault(row["source"], []).append(row)
        for name, errors in row["by_level"].items():
            levels.setdefault(name, []).append({**errors, "source": row["source"]})
    return {
        "data_set": options.data_set,
        "all": figures(rows, options.seed),
        "by_level": {name: figures(levels[name], options.seed) for name in sorted(levels)},
        "by_source": {name: figures(sources[name], options.seed) for name in sorted(sources)},
        "failed": [sentence for fold in done for sentence in fold["failed"]],
        "label_floor_mm": label,
        "published": [entry._asdict() for entry in PUBLISHED[options.data_set]],
        "settings": settings_of(options),
        "versions": versions(),
    }


def table(found: dict[str, Any]) -> str:
    """The published figures and ours, as text."""
    lines = [f"published: {p['who']}, {p['what']} {p['mm']:.2f} mm" for p in found["published"]]
    if found["label_floor_mm"] is None:
        lines.append("label floor: not known; give it with --label-floor to have it drawn")
    else:
        lines.append(f"label floor: the labels themselves are {found['label_floor_mm']:.2f} mm off")
    lines.append(
        f"{'e2r':14s} {'cases':>6s} {'median TRE':>11s} {'mean':>7s} {'p95':>7s} {'RMSE':>7s} "
        f"{'<2 mm':>7s} {'<3 mm':>7s} {'<5 mm':>7s} {'<4 mm, 5°':>10s}"
    )
    groups = {"all": found["all"], **found["by_level"], **found["by_source"]}
    for name, value in groups.items():
        if not value["count"]:
            lines.append(f"{name:14s} {0:6d}")
            continue
        tre, hit = value["tre_mm"], value["success"]
        lines.append(
            f"{name[:14]:14s} {value['count']:6d} {tre['median']:8.2f} mm {tre['mean']:7.2f} "
            f"{tre['p95']:7.2f} {value['rmse_mm']:7.2f} "
            + " ".join(f"{hit[k]:7.1%}" for k in ("2mm", "3mm", "5mm"))
            + f" {value['registered']:10.1%}"
        )
    if found["failed"]:
        lines.append(f"{len(found['failed'])} cases could not be registered")
    return "\n".join(lines)


def report(found: dict[str, Any], done: Sequence[dict[str, Any]]) -> go.Figure:
    """TRE of every case by level and by specimen, with the published figures and the floor."""
    figure = make_subplots(1, 2, subplot_titles=("by level", "by specimen or sequence"))
    rows = [row for fold in done for row in fold["rows"]]
    for name in found["by_level"]:
        errors = [row["by_level"][name]["tre_mm"] for row in rows if name in row["by_level"]]
        figure.add_box(y=errors, name=name, line_color="#2e86ab", row=1, col=1)
    for name in found["by_source"]:
        errors = [row["tre_mm"] for row in rows if row["source"] == name]
        figure.add_box(y=errors, name=name, line_color="#d1495b", row=1, col=2)
    lines = [(f"{p['who']}: {p['what']}", p["mm"]) for p in found["published"]]
    if found["label_floor_mm"] is not None:
        lines.append(("label floor", found["label_floor_mm"]))
    for text, mm in lines:
        dash = "solid" if text == "label floor" else "dot"
        figure.add_hline(y=mm, line_dash=dash, annotation_text=f"{text} {mm:.2f} mm")
    figure.update_yaxes(type="log", title="TRE, mm")
    figure.update_layout(template="plotly_white", showlegend=False, title=found["data_set"])
    return figure


def run(options: Protocol) -> int:
    """Runs the protocol, as far as it has not been run already."""
    path, settings = options.output / "protocol.json", settings_of(options)
    options.output.mkdir(parents=True, exist_ok=True)
    check_settings(path, settings)
    try:
        about = convert(options)
    except (ValueError, OSError):
        if not (options.output / "cases").exists():  # nothing came of it: try again otherwise
            path.unlink()
        raise
    done = [run_fold(options, fold) for fold in folds(options, about["sources"])]
    floor = options.label_floor
    if floor is None:
        floor = SPINEDEPTH_FLOOR if options.data_set == "spinedepth" else about["label_rmse_mm"]
    found = summary(options, done, floor)
    _write(options.output / "summary.json", found)
    page = report(found, done).to_html(include_plotlyjs=True)
    (options.output / "report.html").write_text(page, encoding="utf-8")
    print(table(found))
    print(f"{options.output / 'summary.json'}, report.html, folds/")
    return 3 if found["failed"] else 0


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the protocol."""
    options = tyro.cli(
        Protocol, args=arguments, prog="python -m experiments.protocol", description=__doc__
    )
    return run_command(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
