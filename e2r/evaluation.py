"""Batch evaluation: cases in, predictions, errors and a summary out."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import trimesh

from e2r import automatic, configs, metrics, pipeline
from e2r.datasets import cases
from e2r.geometry import poses, surfaces
from e2r.jobs import Job, Start
from e2r.results import Result, level_poses
from e2r.segmentation import masks
from e2r.types import (
    Array,
    Cloud,
    Hypotheses,
    Levels,
    Params,
    Pose,
    Pyramid,
    Registration,
    Surface,
)


class Prepared(NamedTuple):
    """A case, ready for the device."""

    key: Array
    cloud: Cloud  # leading axis V, the views
    pyramid: Pyramid  # leading axis V
    surface: Surface
    start: Pose  # where to begin; the identity where the start is automatic
    oracle: Array  # (V, N) weights of the oracle mask; zeros unless it is asked for
    rows: Array  # (V, N) row of each point in the case, -1 where padded
    centres: Array  # (L, 3) mm, middle of each level in the model frame; padded with NaN
    exposed: Array  # (L,) bool: levels that may lie in the wound


def stable_seed(text: str) -> int:
    """The same small number for the same text, on every machine."""
    return zlib.crc32(text.encode())


def read_start(start: Start) -> Pose | None:
    """The pose in a start's file, or None for a named start.

    Raises:
      ValueError: neither a named start nor a readable file.
    """
    if start.kind in ("auto", "truth"):
        return None
    path = Path(start.kind)
    if not path.is_file():
        raise ValueError(f"--start {start.kind}: use auto, truth, or the path of a pose file")
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
    if isinstance(value, dict) and value:  # a prediction or truth file: one matrix a level,
        matrices = list(value.values())  # of which the middle one starts the whole model
        value = matrices[len(matrices) // 2]
    return poses.from_matrix(value, f"{path}: T_camera_model")


def prepare(
    case: cases.Case,
    settings: pipeline.Network,
    *,
    surface: Surface,
    job: Job,
    given: Pose | None,
    within: np.ndarray | None,
) -> Prepared:
    """Samples the cloud among some rows of the scene (all without them), and sets the start.

    Raises:
      ValueError: the start or a mask needs what the case does not have.
    """
    seed = stable_seed(case.id)
    seen = pipeline.see(case, settings, seed=seed, views=job.views, within=within)
    key = jax.random.fold_in(jax.random.key(job.seed), seed)
    start = job.start
    begin = poses.identity() if given is None else given
    if start.kind == "truth":
        if not case.truth:
            raise ValueError(f"{case.id}: --start truth needs a truth.json; use --start auto")
        goals = np.concatenate([
            np.asarray(poses.apply(case.truth[name], points.astype(np.float32)))
            for name, points in cases.scored_targets(case).items()
        ])  # fmt: skip
        begin = poses.perturb(
            key, cases.true_pose(case), goals.mean(0), degrees=start.degrees, mm=start.mm
        )
    begin = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), begin)
    if "oracle" in job.masks:
        oracle = pipeline.oracle_weights(case, seen.rows)
    else:
        oracle = np.zeros(seen.rows.shape, np.float32)
    centres = level_centres(case.model)
    exposed = np.ones(len(centres), bool)
    if case.exposed:
        exposed[: len(case.model)] = [name in case.exposed for name in case.model]
    return Prepared(
        key, seen.cloud, seen.pyramid, surface, begin, oracle, seen.rows, centres, exposed
    )


def level_centres(model: Mapping[str, trimesh.Trimesh]) -> np.ndarray:
    """Middle of each level (L, 3) mm; L is 6, 9 and so on, so that programs are shared."""
    centres = np.full((max(6, len(model) + -len(model) % 3), 3), np.nan, np.float32)
    centres[: len(model)] = [mesh.bounds.mean(0) for mesh in model.values()]
    return centres


class Predicted(NamedTuple):
    """What the device returns; mask name -> result."""

    whole: dict[str, Registration]
    levels: dict[str, Levels]
    hypotheses: dict[str, Hypotheses]
    weights: dict[str, Array]


class Programs(NamedTuple):
    """The compiled programs of a job; each takes the parameters and a batch."""

    glance: Callable[[Params, Cloud, Pyramid], tuple[Array, Array]]
    """first look -> interest (B, V * N), and where its middle is (B, 3) mm"""
    predict: Callable[[Params, Prepared], Predicted]


@lru_cache(maxsize=4)
def compile_programs(settings: pipeline.Network, job: Job) -> Programs:
    """The compiled programs: a first look, and a registration and the weights for each mask."""

    def glance(params: Params, cloud: Cloud, pyramid: Pyramid) -> tuple[Array, Array]:
        interest = automatic.read(settings, params, cloud, pyramid).interest
        return interest, automatic.middle(pipeline.flatten(cloud), interest)

    def predict(params: Params, item: Prepared) -> Predicted:
        cloud = pipeline.flatten(item.cloud)
        reading = automatic.read(settings, params, item.cloud, item.pyramid)
        named = {
            "all": jnp.ones(cloud.points.shape[0]),
            "oracle": item.oracle.reshape(-1),
            "learnt": masks.deterministic(item.key, reading.logits),
        }
        kept = jnp.stack([jnp.where(cloud.valid, named[name], 0.0) for name in job.masks])
        # The coarse stage's points are drawn by the mask at hand.
        drawn = jnp.stack([
            reading.logits if name == "learnt" else jnp.where(named[name] > 0.5, 4.0, -9.0)
            for name in job.masks
        ])  # fmt: skip

        def one(mask: tuple[Array, Array]) -> tuple[Registration, Levels, Hypotheses]:
            weights, logits = mask
            scene = pipeline.masked(cloud, weights)
            if job.start.kind == "auto":
                whole, hypotheses = automatic.find(
                    settings, params, item.key, cloud, weights, reading._replace(logits=logits),
                    item.surface, item.exposed, job.schedule, job.search,
                )  # fmt: skip
            else:
                whole = pipeline.register_scene(scene, item.surface, item.start, job.schedule)
                hypotheses = automatic.only(scene, item.surface, whole, item.exposed, job.search)
            if job.per_level:
                levels = pipeline.register_levels(
                    scene, item.surface, whole, item.centres, job.schedule
                )
            else:
                first = jax.tree.map(lambda leaf: leaf[None], whole)
                levels = Levels(first.pose, first.evidence, first.residual)
            return whole, levels, hypotheses

        whole, levels, hypotheses = jax.lax.map(one, (kept, drawn))  # one program for all masks

        def by_name(tree: Any) -> dict[str, Any]:
            return {name: jax.tree.map(lambda leaf, i=i: leaf[i], tree)
                    for i, name in enumerate(job.masks)}  # fmt: skip

        return Predicted(by_name(whole), by_name(levels), by_name(hypotheses), by_name(kept))

    return Programs(jax.jit(jax.vmap(glance, (None, 0, 0))), jax.jit(jax.vmap(predict, (None, 0))))


class _Waiting(NamedTuple):
    """A case that waits for its batch."""

    case: cases.Case
    surface: Surface
    first: pipeline.Seen
    seconds: float


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
    flush = partial(
        _flush, programs=compile_programs(config.network, job), params=params, job=job,
        closer=partial(automatic.closer, least=config.network.points // 4),
        prepare=partial(prepare, settings=config.network, job=job, given=given),
    )  # fmt: skip
    models: dict[str, Surface] = {}
    waiting: list[_Waiting] = []
    for item in source:
        if isinstance(item, tuple):
            yield item[0], str(item[1])
            continue
        try:
            surface = _surface(item, models, job)
            began = time.perf_counter()
            first = pipeline.see(item, config.network, seed=stable_seed(item.id))
        except ValueError as error:
            yield item.id, str(error)
            continue
        waiting.append(_Waiting(item, surface, first, time.perf_counter() - began))
        if len(waiting) == job.batch:
            yield from flush(waiting)
            waiting = []
    if waiting:
        yield from flush(waiting)


def _surface(case: cases.Case, models: dict[str, Surface], job: Job) -> Surface:
    """The case's surface; cases of one specimen share it, and a few are remembered."""
    key = surfaces.fingerprint(case.model)
    if key not in models:
        if len(models) >= 4:
            models.pop(next(iter(models)))
        keep, exact = job.keep_surface, job.schedule.correspondence == "closest"
        make = surfaces.build if keep is None else partial(surfaces.remembered, keep)
        models[key] = make(case.model, seed=0, nodes=surfaces.COARSE, exact=exact)
    return models[key]


def _batched(items: Sequence[Any], size: int) -> Any:
    """One pytree of ``size`` items, the last one repeated: one shape, one compilation."""
    padded = [*items, *[items[-1]] * (size - len(items))]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *padded)


def _flush(
    waiting: list[_Waiting],
    *,
    programs: Programs,
    params: Params,
    job: Job,
    closer: Callable[..., np.ndarray | None],
    prepare: Callable[..., Prepared],
) -> Iterator[Result | tuple[str, str]]:
    began = time.perf_counter()
    looks = _batched([(item.first.cloud, item.first.pyramid) for item in waiting], job.batch)
    interests, centres = jax.tree.map(np.asarray, programs.glance(params, *looks))
    ready: list[tuple[cases.Case, Prepared, float]] = []
    for item, interest, centre in zip(waiting, interests, centres, strict=False):
        look = pipeline.flatten(item.first.cloud)
        within = closer(item.case.points, look, interest, centre)
        try:
            prepared = prepare(item.case, surface=item.surface, within=within)
        except ValueError as error:
            yield item.case.id, str(error)
            continue
        ready.append((item.case, prepared, item.seconds))
    if not ready:
        return
    items = [prepared for _, prepared, _ in ready]
    models = [item.surface for item in items]
    surface = surfaces.stack([*models, *[models[-1]] * (job.batch - len(models))])
    key = jnp.stack([item.key for item in items] + [items[-1].key] * (job.batch - len(items)))
    most = max(len(item.centres) for item in items)
    plain = [
        item._replace(
            surface=None, key=None,  # type: ignore[arg-type]
            centres=np.pad(
                item.centres, ((0, most - len(item.centres)), (0, 0)), constant_values=np.nan
            ),
            exposed=np.pad(item.exposed, (0, most - len(item.exposed)), constant_values=True),
        )
        for item in items
    ]  # fmt: skip
    batch = _batched(plain, job.batch)._replace(surface=surface, key=key)
    predicted = jax.tree.map(np.asarray, programs.predict(params, batch))
    seconds = (time.perf_counter() - began) / len(ready)
    for i, (case, prepared, before) in enumerate(ready):
        registrations, each, hypotheses, weights = jax.tree.map(
            lambda leaf, i=i: leaf[i], predicted
        )
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((registrations, each))):
            yield case.id, f"{case.id}: the registration is not finite; is its scene in mm?"
            continue
        errors = {}
        targets = cases.scored_targets(case)
        if case.truth:
            for name, several in each.items():
                errors[name] = metrics.case_errors(
                    level_poses(case, several), case.truth, targets, case.model
                )
        yield Result(
            case,
            pipeline.flatten(prepared.cloud),
            prepared.rows.ravel(),
            registrations,
            each,
            hypotheses,
            weights,
            errors,
            int(prepared.surface.dropped),
            before + seconds,
        )
