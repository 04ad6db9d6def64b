"""Which cause is named where a registration is not accepted: close-up cases with one known mistake.

Command:  python -m experiments.studies.causes --output runs/causes
Time:     25 minutes on two slow cores beside other work, for eight cases
Expect:   of 8 cases each: mirrored is named 8 times, focal length 8 and 8, no wound 8, size 8 and
          7 (one was accepted), little bone 4 times; noise of 2.5 mm has no cause in 5 of 7

The mistakes:

- none, and none but noise of 2.5 mm: the input is right, so any cause is a false one;
- mirrored: the model is the mirror image;
- size: the model is 0.9 or 1.1 times as large;
- focal length: the camera file says 0.85 or 1.15 times the true one;
- no wound: a flat drape, or skin, fills the frame;
- little bone: tissue covers all but 5 % of the visible bone.

Writes rows.jsonl (one registration a line) and table.json (the counts).
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import distance_transform_edt
from tqdm import tqdm

from e2r.api.examples import simulate
from e2r.api.models import load_model
from e2r.api.registering import SINGLE_CASE
from e2r.cli.errors import parse_options, run_command
from e2r.datasets.case import Case, make_case
from e2r.evaluation import diagnosis, runner
from e2r.evaluation.models import Model
from e2r.evaluation.predictions import make_prediction
from e2r.evaluation.preparation import stable_seed
from e2r.evaluation.results import Registered
from e2r.evaluation.text_table import text_table
from e2r.geometry import poses
from e2r.runtime import outputs
from e2r.simulation.depth_noise import add_noise

NOISE_MM = 2.5
BONE_LEFT = 0.05
DRAPE, SKIN = (0.18, 0.42, 0.50), (0.78, 0.56, 0.44)
CAUSES = ("mirrored", "size", "focal length", "no wound", "little bone")
RIGHT_MM = 5.0
"""An accepted pose is right if each level lies nearer to its true place than this."""
CHUNK = 2
"""Cases whose rows are written together."""


# Mistakes -----------------------------------------------------------------------------------------


def change_model(case: Case, scaling: Sequence[float]) -> Case:
    """Stretches the model along its axes; a mirrored one keeps its normals outside."""
    model = {}
    for name, original in case.model.items():
        mesh = original.copy()
        mesh.vertices = np.asarray(mesh.vertices) * np.asarray(scaling)
        if np.prod(scaling) < 0:
            mesh.faces = np.asarray(mesh.faces)[:, ::-1]
        model[name] = mesh
    return replace(case, model=model)


def change_focal_length(case: Case, factor: float) -> Case:
    """The points that a camera file with other focal lengths makes of the same picture."""
    return replace(case, points=case.points / np.array([factor, factor, 1.0]), image=None)


def hide_wound(case: Case, rng: np.random.Generator) -> Case:
    """A drape or skin fills the frame, about as far away, with noise of 0.5 mm."""
    image = case.image
    assert image is not None
    height, width = image.depth.shape
    v, u = np.mgrid[:height, :width] - np.array([height, width])[:, None, None] / 2.0
    slope = rng.uniform(-0.15, 0.15, 2)
    waves = 2.0 * np.sin(u / 9.0 + rng.uniform(0, 6)) + 2.0 * np.sin(v / 7.0 + rng.uniform(0, 6))
    depth = np.median(image.depth[image.depth > 0]) + slope[0] * u + slope[1] * v + waves
    depth = depth + 0.5 * rng.standard_normal(depth.shape)
    paint = np.array(DRAPE if rng.uniform() < 0.5 else SKIN)
    color = np.clip(paint + 0.04 * rng.standard_normal((height, width, 1)), 0.0, 1.0)
    picture = image._replace(
        color=np.round(255 * color).astype(np.uint8), depth=depth.astype(np.float32)
    )
    return make_case(picture, id=case.id, model=case.model)


def cover_bone(case: Case, rng: np.random.Generator) -> Case:
    """Tissue covers the bone but for a patch: each pixel becomes as its nearest tissue pixel."""
    image = case.image
    assert image is not None and case.bone is not None
    bone = np.zeros(image.depth.shape, bool)
    bone[image.depth > 0] = case.bone
    places = np.argwhere(bone)
    apart = np.linalg.norm(places - places[rng.integers(len(places))], axis=1)
    patch = places[np.argsort(apart)[: max(1, round(BONE_LEFT * len(places)))]]
    covered = bone.copy()
    covered[tuple(patch.T)] = False
    near = distance_transform_edt(
        bone | (image.depth <= 0), return_distances=False, return_indices=True
    )
    picture = image._replace(
        color=np.where(covered[..., None], image.color[tuple(near)], image.color),
        depth=np.where(covered, image.depth[tuple(near)], image.depth),
    )
    return make_case(picture, id=case.id, model=case.model, truth=case.truth)


class Mistake(NamedTuple):
    """One mistake: what it makes of a case, and of the true places of the model's vertices."""

    cause: str | None  # the right answer; None: the input is right
    make: Callable[[Case, np.random.Generator], Case]
    moved: Callable[[np.ndarray], np.ndarray] | None = lambda places: places
    """true places in the changed frame; None: there are none"""


def _focal(factor: float) -> Mistake:
    return Mistake(
        "focal length",
        lambda case, rng: change_focal_length(case, factor),
        lambda places: places / np.array([factor, factor, 1.0]),
    )


MISTAKES = {
    "none": Mistake(None, lambda case, rng: case),
    "none, 2.5 mm of noise": Mistake(None, lambda case, rng: add_noise(case, NOISE_MM, rng)),
    "mirrored": Mistake("mirrored", lambda case, rng: change_model(case, (-1.0, 1.0, 1.0))),
    "size 0.9": Mistake("size", lambda case, rng: change_model(case, (0.9, 0.9, 0.9))),
    "size 1.1": Mistake("size", lambda case, rng: change_model(case, (1.1, 1.1, 1.1))),
    "focal length 0.85": _focal(0.85),
    "focal length 1.15": _focal(1.15),
    "no wound": Mistake("no wound", hide_wound, None),
    "little bone": Mistake("little bone", cover_bone),
}


def worst_level_mm(case: Case, result: Registered, mistake: Mistake) -> float | None:
    """The largest of the levels' mean errors, over the vertices of the given model.

    Args:
      case: the right case, with its truth.
      result: the registration of the changed case.
      mistake: how it was changed.
    """
    if mistake.moved is None or case.truth is None:
        return None
    found = make_prediction(result, "learnt").poses
    errors = [
        np.linalg.norm(
            poses.apply_host(found[name], np.asarray(result.case.model[name].vertices))
            - mistake.moved(poses.apply_host(case.truth[name], np.asarray(mesh.vertices))),
            axis=1,
        ).mean()
        for name, mesh in case.model.items()
    ]
    return float(max(errors))


# Study --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Causes:
    """Which cause is named where a registration is not accepted."""

    output: Path
    """folder for rows.jsonl and table.json"""
    cases: int = 8
    """simulated close-up cases, one specimen each"""
    seed: int = 2311
    """of the cases and the mistakes"""

    def __post_init__(self) -> None:
        if self.cases < 1:
            raise ValueError(f"--cases is {self.cases}; use 1 or more")


def study_causes(options: Causes) -> int:
    """Registers each case with each mistake, and asks for the cause of those not accepted."""
    outputs.require_folder(options.output)
    options.output.mkdir(parents=True, exist_ok=True)
    model = load_model()
    cases = simulate(options.cases, seed=options.seed)
    rows: list[dict[str, Any]] = []
    path = options.output / "rows.jsonl"
    for start in range(0, len(cases), CHUNK):
        rows += register_chunk(cases[start : start + CHUNK], model, options.seed)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        columns, table = count_causes(rows)
        (options.output / "table.json").write_text(
            json.dumps({"columns": columns, "rows": table}, indent=1)
        )
        print(f"{len(rows) // len(MISTAKES)} cases\n{text_table(columns, table)}", flush=True)
    return 0


def register_chunk(cases: Sequence[Case], model: Model, seed: int) -> list[dict[str, Any]]:
    """One row a case and mistake. All trials go through the device in full batches.

    Args:
      cases: right cases.
      model: the trained model.
      seed: of the mistakes.
    """
    wrong: list[tuple[Case, str, Case]] = []
    for case in cases:
        for number, (name, mistake) in enumerate(MISTAKES.items()):
            rng = np.random.default_rng([seed, number, stable_seed(case.id)])
            wrong.append((case, name, mistake.make(case, rng)))
    results = _register([changed for _, _, changed in wrong], model)
    refused = [result for result in results if not _accepted(result, model)]
    trials = [[trial.case for trial in diagnosis.trials(result.case)] for result in refused]
    tried = iter(_register([case for cases in trials for case in cases], model))
    tries = iter([[next(tried) for _ in cases] for cases in trials])
    rows = []
    for (case, name, _), result in zip(wrong, results, strict=True):
        accepted = _accepted(result, model)
        cause = None
        if not accepted:
            own = next(tries)

            def attempt(again: list[Case], own: list[Registered] = own) -> Iterable[Registered]:
                return [found._replace(case=one) for one, found in zip(again, own, strict=True)]

            cause = diagnosis.find_cause(
                result,
                "learnt",
                attempt=attempt,
                accepts=lambda one: _accepted(one, model),
                min_keep_ratio=SINGLE_CASE.program.min_keep_ratio,
            )
        scale = result.scales["learnt"]
        rows.append(
            {
                "id": case.id,
                "mistake": name,
                "accepted": accepted,
                "named": None if cause is None else cause.name,
                "sentence": None if cause is None else cause.sentence,
                "worst_level_mm": worst_level_mm(case, result, MISTAKES[name]),
                "inlier_share": result.inlier_share("learnt"),
                "interest": result.interest,
                "keep": result.mask_points("learnt") / float(result.cloud.valid.sum()),
                "lateral": scale.lateral,
                "depth": scale.depth,
                "fit_share": scale.share,
            }
        )
    return rows


def _register(cases: Sequence[Case], model: Model) -> list[Registered]:
    """Results in the order of the cases; each has the case's own id, so the same points."""
    job = replace(SINGLE_CASE, batch=8)
    results = tqdm(runner.run(cases, model, job=job), total=len(cases), unit="case")
    done = {id(result.case): result for result in runner.raise_failures(results)}
    return [done[id(case)] for case in cases]


def _accepted(result: Registered, model: Model) -> bool:
    return make_prediction(result, "learnt", model.calibration).accepted


def count_causes(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """The counts of :class:`Causes`, a row for each mistake.

    Args:
      rows: of :func:`register_chunk`.

    Returns:
      The headings and the rows.
    """
    columns = ["mistake", "cases", "accepted", f"of these {RIGHT_MM:g} mm off", *CAUSES, "no cause"]
    table = []
    for name in MISTAKES:
        here = [row for row in rows if row["mistake"] == name]
        accepted = [row for row in here if row["accepted"]]
        off = sum((row["worst_level_mm"] or np.inf) > RIGHT_MM for row in accepted)
        named = Counter(row["named"] for row in here if not row["accepted"])
        table.append(
            [name, len(here), len(accepted), off, *(named[c] for c in CAUSES), named[None]]
        )
    return columns, table


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the study."""
    prog = "python -m experiments.studies.causes"
    return run_command(
        lambda: study_causes(parse_options(Causes, arguments, prog=prog, description=__doc__))
    )


if __name__ == "__main__":
    sys.exit(main())
