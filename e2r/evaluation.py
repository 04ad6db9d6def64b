"""Batch evaluation: cases in, predictions, errors and a summary out."""

from __future__ import annotations

import dataclasses
import json
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from e2r import configs, metrics, pipeline
from e2r.datasets import cases
from e2r.geometry import poses, surfaces
from e2r.segmentation import masks
from e2r.types import Array, Cloud, Params, Pose, Pyramid, Registration, Surface

MASKS = ("all", "learnt", "oracle")
LEAST_EVIDENCE = 20.0
LEAST_AGREEMENT = 0.55
"""A prediction is accepted when so many points, and such a share of the mask's points, agree with
the model (robust inlier weight at the last step). The share lies above all of 47 wrong results on
96 simulated cases of seed 5, and below four fifths of the right ones."""


@dataclass(frozen=True)
class Start:
    """Where each registration begins."""

    kind: str = "axes"
    """truth: the true pose, perturbed; axes: crude automatic starts from the mask's principal
    axes; or the path of a JSON file with a 4x4 T_camera_model"""
    degrees: float = 4.0
    """with truth: standard deviation of the rotation per axis"""
    mm: float = 4.0
    """with truth: standard deviation of the translation per axis"""

    def __post_init__(self) -> None:
        for name, value in (("degrees", self.degrees), ("mm", self.mm)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"--start-{name} is {value}; use 0 or more")


@dataclass(frozen=True)
class Job:
    """How cases are evaluated."""

    start: Start = Start()
    schedule: pipeline.Schedule = pipeline.Schedule()
    views: int = 3
    """the scene is seen in so many disjoint samples of the network's number of points"""
    masks: tuple[str, ...] = ("learnt",)
    """which masks: all, learnt, oracle (true bone; simulated cases only)"""
    batch: int = 8
    """cases on the device at a time"""
    seed: int = 0
    """of the starts and the bootstrap"""
    keep_surface: Path | None = None
    """with one case: the file that remembers its model's surface"""

    def __post_init__(self) -> None:
        for name in self.masks:
            if name not in MASKS:
                raise ValueError(f"--masks {name}: use some of {', '.join(MASKS)}")
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}; use 0 or more")
        if not self.masks or self.batch < 1 or self.views < 1:
            raise ValueError("give at least one mask, one view, and a batch of at least one case")


class Prepared(NamedTuple):
    """A case, ready for the device."""

    cloud: Cloud  # leading axis V, the views
    pyramid: Pyramid  # leading axis V
    surface: Surface
    start: Pose  # where to begin; the identity where the start is automatic
    oracle: Array  # (V, N) weights of the oracle mask; zeros unless it is asked for
    rows: Array  # (V, N) row of each point in the case, -1 where padded


class Result(NamedTuple):
    """What one case came to."""

    case: cases.Case
    cloud: Cloud  # all views in one
    rows: np.ndarray  # (V * N,) row of each point in the case, -1 where padded
    registrations: dict[str, Registration]  # mask name -> result
    weights: dict[str, np.ndarray]  # mask name -> (N,)
    errors: dict[str, dict[str, Any]]  # mask name -> metrics.case_errors; empty without truth
    dropped: int  # triangles of the model without area, which were left out
    seconds: float  # sampling and neighbours, then its share of the batch, all masks together


def stable_seed(text: str) -> int:
    """The same small number for the same text, on every machine."""
    return zlib.crc32(text.encode())


def read_start(start: Start) -> Pose | None:
    """The pose in a start's file, or None for a named start.

    Raises:
      ValueError: neither a named start nor a readable file.
    """
    if start.kind in ("truth", "axes"):
        return None
    path = Path(start.kind)
    if not path.is_file():
        raise ValueError(f"--start {start.kind}: use truth, axes, or the path of a pose file")
    try:
        lines = path.read_text().strip()
        try:
            value = json.loads(lines)
        except json.JSONDecodeError:  # a file of predictions: its last line
            value = json.loads(lines.splitlines()[-1])
    except (UnicodeDecodeError, json.JSONDecodeError, IndexError, RecursionError):
        raise ValueError(f"{path}: is not JSON; write a 4x4 matrix, row-major") from None
    if isinstance(value, dict):
        value = value.get("T_camera_model")
    if isinstance(value, dict) and value:  # a prediction or truth file: one matrix a level
        matrices = list(value.values())
        if any(matrix != matrices[0] for matrix in matrices):
            raise ValueError(f"{path}: its levels differ in pose; give one 4x4 for the whole model")
        value = matrices[0]
    return poses.from_matrix(value, f"{path}: T_camera_model")


def prepare(
    case: cases.Case,
    settings: pipeline.Network,
    surface: Surface,
    job: Job,
    given: Pose | None,
) -> Prepared:
    """Samples the cloud and sets the start.

    Raises:
      ValueError: the start or a mask needs what the case does not have.
    """
    seen = pipeline.see(case, settings, seed=stable_seed(case.id), views=job.views)
    start = job.start
    begin = poses.identity() if given is None else given
    if start.kind == "truth":
        if not case.truth:
            raise ValueError(f"{case.id}: --start truth needs a truth.json; use --start axes")
        goals = np.concatenate([
            np.asarray(poses.apply(case.truth[name], points.astype(np.float32)))
            for name, points in cases.scored_targets(case).items()
        ])  # fmt: skip
        key = jax.random.fold_in(jax.random.key(job.seed), stable_seed(case.id))
        begin = poses.perturb(
            key, cases.true_pose(case), goals.mean(0), degrees=start.degrees, mm=start.mm
        )
    begin = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), begin)
    if "oracle" in job.masks:
        oracle = pipeline.oracle_weights(case, seen.rows)
    else:
        oracle = np.zeros(seen.rows.shape, np.float32)
    return Prepared(seen.cloud, seen.pyramid, surface, begin, oracle, seen.rows)


def make_predict(
    settings: pipeline.Network, schedule: pipeline.Schedule, names: Sequence[str], *, axes: bool
) -> Callable[[Params, Prepared], tuple[dict[str, Registration], dict[str, Array]]]:
    """The compiled prediction of a batch: a registration and the weights for each mask."""
    module = pipeline.network(settings)

    def one(params: Params, item: Prepared) -> tuple[dict[str, Registration], dict[str, Array]]:
        cloud = pipeline.flatten(item.cloud)
        found, weights = {}, {}
        for name in names:
            if name == "all":
                w = jnp.ones(cloud.points.shape[0])
            elif name == "oracle":
                w = item.oracle.reshape(-1)
            else:
                see = partial(pipeline.logits, module, params)
                logits = jax.vmap(see)(item.cloud, item.pyramid).reshape(-1)
                w = masks.deterministic(jax.random.key(0), logits)
            weights[name] = jnp.where(cloud.valid, w, 0.0)
            if axes:
                found[name] = pipeline.register_from_axes(cloud, w, item.surface, schedule)
            else:
                found[name] = pipeline.register(cloud, w, item.surface, item.start, schedule)
        return found, weights

    return jax.jit(jax.vmap(one, (None, 0)))


def run(
    source: Iterable[cases.Case | tuple[str, ValueError]],
    config: configs.Config,
    params: Params,
    job: Job,
) -> Iterator[Result | tuple[str, str]]:
    """Evaluates cases in batches; a broken one yields its id and one sentence, and no stop.

    Args:
      source: cases, or the id and error of one that could not be read.
      config, params: the trained network.
      job: starts, schedule, masks.
    """
    given = read_start(job.start)
    predict = make_predict(config.network, job.schedule, job.masks, axes=job.start.kind == "axes")
    models: dict[str, Surface] = {}
    waiting: list[tuple[cases.Case, Prepared, float]] = []
    for item in source:
        if isinstance(item, tuple):
            yield item[0], str(item[1])
            continue
        try:
            surface = _surface(item, models, job.keep_surface)
            began = time.perf_counter()
            prepared = prepare(item, config.network, surface, job, given)
        except ValueError as error:
            yield item.id, str(error)
            continue
        waiting.append((item, prepared, time.perf_counter() - began))
        if len(waiting) == job.batch:
            yield from _flush(waiting, predict, params, job)
            waiting = []
    if waiting:
        yield from _flush(waiting, predict, params, job)


def _surface(case: cases.Case, models: dict[str, Surface], keep: Path | None) -> Surface:
    """The case's surface; cases of one specimen share it, and a few are remembered."""
    key = surfaces.fingerprint(case.model)
    if key not in models:
        if len(models) >= 4:
            models.pop(next(iter(models)))
        make = surfaces.build if keep is None else partial(surfaces.remembered, keep)
        models[key] = make(case.model, seed=0, nodes=surfaces.COARSE, exact=False)
    return models[key]


def _flush(
    waiting: list[tuple[cases.Case, Prepared, float]],
    predict: Callable[[Params, Prepared], tuple[dict[str, Registration], dict[str, Array]]],
    params: Params,
    job: Job,
) -> Iterator[Result | tuple[str, str]]:
    items = [prepared for _, prepared, _ in waiting]
    padded = items + [items[-1]] * (job.batch - len(items))  # one shape, one compilation
    surface = surfaces.stack([item.surface for item in padded])
    rest = [item._replace(surface=None) for item in padded]  # type: ignore[arg-type]
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *rest)._replace(surface=surface)
    began = time.perf_counter()
    found, weights = jax.tree.map(np.asarray, predict(params, batch))
    seconds = (time.perf_counter() - began) / len(waiting)
    for i, (case, prepared, before) in enumerate(waiting):
        registrations = jax.tree.map(lambda leaf, i=i: leaf[i], found)
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(registrations)):
            yield case.id, f"{case.id}: the registration is not finite; is its scene in mm?"
            continue
        errors = {}
        targets = cases.scored_targets(case)
        if case.truth:
            for name, registration in registrations.items():
                pose = {level: registration.pose for level in case.model}
                errors[name] = metrics.case_errors(pose, case.truth, targets, case.model)
        yield Result(
            case,
            pipeline.flatten(prepared.cloud),
            prepared.rows.ravel(),
            registrations,
            {name: w[i] for name, w in weights.items()},
            errors,
            int(prepared.surface.dropped),
            before + seconds,
        )


# Output -------------------------------------------------------------------------------------------


def prediction(result: Result, mask: str) -> dict[str, Any]:
    """One line of ``predictions.jsonl``; ``accepted`` says that enough points agree."""
    registration = result.registrations[mask]
    matrix = poses.to_matrix(registration.pose)
    evidence, kept = float(registration.evidence), float(result.weights[mask].sum())
    agrees = evidence >= max(LEAST_EVIDENCE, LEAST_AGREEMENT * kept)
    return {
        "id": result.case.id,
        "T_camera_model": {name: matrix.tolist() for name in result.case.model},
        "accepted": agrees,
        "expected_tre_mm": None,
        "seconds": result.seconds,
        "error": None,
    }


def failure(identity: str, message: str) -> dict[str, Any]:
    """The line of a case that could not be registered."""
    return {
        "id": identity, "T_camera_model": {}, "accepted": False, "expected_tre_mm": None,
        "seconds": 0.0, "error": message,
    }  # fmt: skip


def summary(
    results: Sequence[Result],
    failed: int,
    job: Job,
    config: configs.Config,
    origin: dict[str, Any],
) -> dict[str, Any]:
    """All figures of a job; those at the top level are of the learnt mask if it ran.

    Args:
      results: one a registered case.
      failed: number of cases that were not.
      job, config: the settings.
      origin: where the cases and the checkpoint come from.
    """
    head = "learnt" if "learnt" in job.masks else job.masks[0]
    seconds = np.array([r.seconds for r in results]) if results else np.zeros(1)
    warm = seconds[job.batch :] if len(seconds) > job.batch else seconds
    scored = [r for r in results if r.errors]
    groups = [r.case.source or r.case.id for r in scored]

    def figures(mask: str) -> dict[str, Any]:
        return metrics.summarise([r.errors[mask] for r in scored], groups, seed=job.seed)

    levels = sorted({name for r in scored for name in r.errors[head]["by_level"]})
    by_level, by_specimen = {}, {}
    for level in levels:
        rows = [r for r in scored if level in r.errors[head]["by_level"]]
        by_level[level] = metrics.summarise(
            [r.errors[head]["by_level"][level] for r in rows],
            [r.case.source or r.case.id for r in rows],
            seed=job.seed,
        )
    for group in sorted(set(groups)):
        rows = [r for r, g in zip(scored, groups, strict=True) if g == group]
        by_specimen[group] = metrics.summarise(
            [r.errors[head] for r in rows], [r.case.id for r in rows], seed=job.seed
        )
    by_mask = {mask: figures(mask) for mask in job.masks}
    for mask in job.masks:
        by_mask[mask]["keep"] = (
            float(np.mean([r.weights[mask].sum() / r.cloud.valid.sum() for r in results]))
            if results
            else None
        )
    top = {k: v for k, v in by_mask[head].items() if k not in ("count", "keep")}
    return {
        "cases": len(results) + failed,
        "predicted": len(results),
        "failed": failed,
        "accepted": sum(prediction(r, head)["accepted"] for r in results),
        "mask": head,
        **top,
        "seconds_per_frame": {
            "median": float(np.median(warm)),
            "p95": float(np.quantile(warm, 0.95)),
            "first": float(seconds[0] * min(job.batch, max(1, len(results)))),
        },
        "masks": by_mask,
        "by_level": by_level,
        "by_specimen": by_specimen,
        "settings": {
            **origin,
            "job": dataclasses.asdict(job),
            "config": configs.to_settings(config),
        },
        "seed": job.seed,
        "versions": configs.versions(),
        "device": str(jax.devices()[0].device_kind),
    }


def table(figures: dict[str, Any]) -> str:
    """The masks' figures as a table of text."""
    lines = [
        f"{'mask':8s} {'cases':>5s} {'keep':>6s}   {'median TRE [95 % interval]':>28s} "
        f"{'mean':>8s} {'p95':>8s}   {'<2 mm':>6s} {'<3 mm':>6s} {'<5 mm':>6s}"
    ]
    for name, value in figures["masks"].items():
        if not value.get("count"):
            lines.append(f"{name:8s}     0   no case has a truth to compare with")
            continue
        tre, hit = value["tre_mm"], value["success"]
        low, high = tre["interval95"]["median"]
        middle = f"{tre['median']:.2f} mm [{low:.2f}, {high:.2f}]"
        lines.append(
            f"{name:8s} {value['count']:5d} {value['keep']:6.1%}   {middle:>28s} "
            f"{tre['mean']:8.2f} {tre['p95']:8.2f}   "
            + " ".join(f"{hit[k]:6.1%}" for k in ("2mm", "3mm", "5mm"))
        )
    return "\n".join(lines)
