"""Batch evaluation: cases in, predictions, errors and a summary out."""

from __future__ import annotations

import itertools
import json
import threading
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import trimesh
from jax.sharding import Mesh

from e2r import automatic, configs, devices, metrics, pipeline
from e2r.ahead import ahead
from e2r.datasets import cases
from e2r.geometry import poses, surfaces
from e2r.jobs import Job, Start
from e2r.programs import Program, may_be_kept
from e2r.registration import unroll
from e2r.results import Result, level_poses
from e2r.segmentation import masks
from e2r.timings import spent
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

    seeds: Array  # (2,) uint32: the job's, the case's own
    cloud: Cloud  # leading axis V, the views
    pyramid: Pyramid  # leading axis V
    surface: Surface
    start: Pose  # where to begin; the identity where the start is automatic
    oracle: Array  # (V, N) weights of the oracle mask; zeros unless it is asked for
    rows: Array  # (V, N) row of each point in the case, -1 where padded
    centres: Array  # (L, 3) mm, middle of each level in the model frame; padded with NaN
    exposed: Array  # (L,) bool: levels that may lie in the wound
    threshold: Array  # () logit above which the learnt mask keeps a point


STRICTER = 1.5
"""Logit above which the learnt mask of a second try keeps a point: where a mask takes other tissue
for bone, the points that it is surest of are bone more often."""


def stable_seed(text: str, number: int = 0) -> int:
    """The same small number for the same text, on every machine; each ``number`` has its own."""
    return zlib.crc32(text.encode(), number)


def case_key(seeds: Array) -> Array:
    """The key of a case in a job, by the seeds (2,) of both."""
    return jax.random.fold_in(jax.random.key(seeds[0]), seeds[1])


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
    number: int = 0,
) -> Prepared:
    """Samples the cloud among some rows of the scene (all without them), and sets the start.

    Each ``number`` has other samples and draws; beyond 0 the learnt mask is stricter.

    Raises:
      ValueError: the start or a mask needs what the case does not have.
    """
    seed = stable_seed(case.id, number)
    seeds = np.array([job.seed % 2**32, seed], np.uint32)
    seen = pipeline.see(case, settings, seed=seed, views=job.views, within=within)
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
            case_key(seeds),
            cases.true_pose(case),
            goals.mean(0),
            degrees=start.degrees,
            mm=start.mm,
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
        seeds,
        seen.cloud,
        seen.pyramid,
        surface,
        begin,
        oracle,
        seen.rows,
        centres,
        exposed,
        np.float32(STRICTER * number),
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

    glance: Callable[..., tuple[Array, Array]]
    """(params, cloud, pyramid) of a first look -> interest (B, V * N), and its middle (B, 3) mm"""
    predict: Callable[..., Predicted]
    """(params, prepared cases) -> what they come to"""
    over: Mesh


def compile_programs(settings: pipeline.Network, job: Job, *, sooner: bool = False) -> Programs:
    """The compiled programs: a first look, and a registration and the weights for each mask.

    Each takes a batch, divided among this process's devices.

    Args:
      settings, job: of the network and the evaluation.
      sooner: for a case or two: compiled in half the time, and half as fast.
    """
    return _programs(settings, job.compiled, sooner)


@lru_cache(maxsize=4)
def _programs(settings: pipeline.Network, job: Job, sooner: bool) -> Programs:
    """Those of all jobs that are compiled to the same."""

    def glance(params: Params, cloud: Cloud, pyramid: Pyramid) -> tuple[Array, Array]:
        interest = automatic.read(settings, params, cloud, pyramid).interest
        return interest, automatic.middle(pipeline.flatten(cloud), interest)

    def predict(params: Params, item: Prepared) -> Predicted:
        key, cloud = case_key(item.seeds), pipeline.flatten(item.cloud)
        reading = automatic.read(settings, params, item.cloud, item.pyramid)
        fed = masks.at_least(reading.logits - item.threshold, cloud.valid, job.least_keep)
        named = {
            "all": jnp.ones(cloud.points.shape[0]),
            "oracle": item.oracle.reshape(-1),
            "learnt": masks.deterministic(key, fed),
        }
        kept = jnp.stack([jnp.where(cloud.valid, named[name], 0.0) for name in job.masks])
        # The coarse stage's points are drawn by the mask at hand.
        drawn = jnp.stack([
            reading.logits if name == "learnt" else jnp.where(named[name] > 0.5, 4.0, -9.0)
            for name in job.masks
        ])  # fmt: skip

        def one(mask: tuple[Array, Array]) -> tuple[Registration, Levels, Hypotheses]:
            weights, logits = mask
            scene = unroll.heaviest(pipeline.masked(cloud, weights), job.points)
            if job.start.kind == "auto":
                whole, hypotheses = automatic.find(
                    settings, params, key, cloud, scene, reading._replace(logits=logits),
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

    over = devices.mesh(job.batch, local=True)

    def batched(one: Callable[..., Any], inputs: int) -> Callable[..., Any]:
        several = jax.vmap(one, (None, *[0] * inputs))
        if over.size == 1:
            return several
        return jax.shard_map(
            several, mesh=over, in_specs=(devices.SHARED, *[devices.DIVIDED] * inputs),
            out_specs=devices.DIVIDED, check_vma=False,
        )  # fmt: skip

    return Programs(
        Program(batched(glance, 2), "glance", settings, sooner=sooner),
        Program(batched(predict, 1), "predict", settings, job, sooner=sooner),
        over,
    )


may_be_kept(Prepared, Predicted)


class _Looked(NamedTuple):
    """A case that was looked at once."""

    case: cases.Case
    surface: Surface
    first: pipeline.Seen
    seconds: float


Failure: TypeAlias = tuple[str, str]
"""The id of a case that came to nothing, and why."""


class _Chain(NamedTuple):
    """What the cases of a job go through."""

    settings: pipeline.Network
    params: Params
    job: Job
    given: Pose | None
    programs: Programs
    surface: Callable[[cases.Case], Surface]


def run(
    source: Iterable[cases.Case | tuple[str, ValueError]],
    config: configs.Config,
    params: Params,
    job: Job,
    programs: Programs | None = None,
    keep: Path | None = None,
) -> Iterator[Result | Failure]:
    """Evaluates cases in batches; a broken one yields its id and one sentence, and no stop.

    While the device is at work on a batch, the host looks at the cases of the next. Cases that are
    tried again (``job.retry_below``) come later than the others.

    Args:
      source: cases, or the id and error of one that could not be read.
      config, params: the trained network.
      job: starts, schedule, masks.
      programs: instead of those of :func:`compile_programs`.
      keep: for cases of one model: the file that remembers its surface.

    Raises:
      ValueError: the start cannot be used, or the batch not be divided among the devices.
    """
    programs = programs or compile_programs(config.network, job)
    models: dict[str, Surface] = {}
    one_builds = threading.Lock()

    def surface(case: cases.Case) -> Surface:
        with one_builds, spent("the models' lattices"):
            return _surface(case, models, job, keep)

    chain = _Chain(
        config.network, devices.share(params, programs.over), job, read_start(job.start), programs,
        surface,
    )  # fmt: skip
    first = _once(source, chain, 0)
    with closing(_grouped(first, job.batch, partial(_is_unsure, job))) as found:
        for one in found:
            if isinstance(one, list):
                yield from _again(one, chain)
            else:
                yield one


def _is_unsure(job: Job, one: Result | Failure) -> bool:
    """Whether a case is to be tried again; where the start is given, nothing is searched."""
    if not isinstance(one, Result) or job.start.kind != "auto" or job.head != "learnt":
        return False
    return one.share("learnt") < job.retry_below


def _again(unsure: list[Result], chain: _Chain) -> Iterator[Result]:
    """The better results of cases that are tried a second time: other samples, a stricter mask."""
    seen = _once((first.case for first in unsure), chain, 1)
    others = [one for one in seen if isinstance(one, Result)]
    for first in unsure:
        other = next((one for one in others if one.case is first.case), first)
        better = max(first, other, key=lambda one: one.share("learnt"))
        yield better._replace(seconds=first.seconds + other.seconds)


def _once(
    source: Iterable[cases.Case | tuple[str, ValueError]], chain: _Chain, number: int
) -> Generator[Result | Failure]:
    """Cases in batches; each ``number`` is another try."""
    settings, job, programs = chain.settings, chain.job, chain.programs

    def look(item: cases.Case | tuple[str, ValueError]) -> _Looked | Failure:
        if isinstance(item, tuple):
            return item[0], str(item[1])
        try:
            surface = chain.surface(item)
            began = time.perf_counter()
            with spent("first look, host"):
                first = pipeline.see(item, settings, seed=stable_seed(item.id, number))
        except ValueError as error:
            return item.id, str(error)
        return _Looked(item, surface, first, time.perf_counter() - began)

    def look_closer(
        item: _Looked, interest: np.ndarray, centre: np.ndarray
    ) -> tuple[Prepared, float] | Failure:
        began = time.perf_counter()
        try:
            with spent("second look, host"):
                within = automatic.closer(
                    item.case.points, pipeline.flatten(item.first.cloud), interest, centre,
                    settings.points // 4,
                )  # fmt: skip
                prepared = prepare(
                    item.case, settings, surface=item.surface, job=job, given=chain.given,
                    within=within, number=number,
                )  # fmt: skip
        except ValueError as error:
            return item.case.id, str(error)
        return prepared, time.perf_counter() - began

    def glanced(group: list[_Looked]) -> _Glanced:
        looks = _batched([(item.first.cloud, item.first.pyramid) for item in group], job.batch)
        with spent("device"):
            found = programs.glance(chain.params, *devices.divide(looks, programs.over))
        return _Glanced(group, found)

    def ready(glance: _Glanced) -> Iterator[_Ready | Failure]:
        with spent("device"):
            interests, centres = jax.tree.map(np.asarray, glance.found)
        rows = list(zip(glance.group, interests, centres, strict=False))
        found = ahead(lambda row: look_closer(*row), rows, workers=2)
        for item, one in zip(glance.group, found, strict=True):
            if isinstance(one[0], str):
                yield one  # type: ignore[misc]
            else:
                yield _Ready(item.case, one[0], item.seconds + one[1])  # type: ignore[arg-type]

    # The device gets the first look at a batch before the registration of the one before, so that
    # the host can take the second look while that is under way.
    glance: _Glanced | None = None
    running: _Running | None = None
    looked = ahead(look, source, workers=2)
    with closing(_grouped(looked, job.batch, lambda one: isinstance(one, _Looked))) as groups:
        for group in itertools.chain(groups, (None, None)):
            if isinstance(group, tuple):
                yield group
                continue
            found: list[_Ready] = []
            for one in ready(glance) if glance else ():
                if isinstance(one, _Ready):
                    found.append(one)
                else:
                    yield one
            glance = glanced(group) if group else None
            after = _started(found, programs, chain.params, job) if found else None
            if running is not None:
                yield from _ended(running)
            running = after


class _Glanced(NamedTuple):
    """A batch at which the device takes its first look."""

    group: list[_Looked]
    found: tuple[Array, Array]


def _grouped(found: Generator[Any], size: int, belongs: Callable[[Any], bool]) -> Generator[Any]:
    """Lists of ``size`` of those that belong, the last one shorter; the others as they come."""
    group: list[Any] = []
    with closing(found):
        for item in found:
            if not belongs(item):
                yield item
                continue
            group.append(item)
            if len(group) == size:
                yield group
                group = []
    if group:
        yield group


def _surface(case: cases.Case, models: dict[str, Surface], job: Job, keep: Path | None) -> Surface:
    """The case's surface; cases of one specimen share it, and a few are remembered."""
    key = surfaces.fingerprint(case.model)
    if key not in models:
        if len(models) >= 4:
            models.pop(next(iter(models)))
        exact = job.schedule.correspondence == "closest"
        make = surfaces.build if keep is None else partial(surfaces.remembered, keep)
        models[key] = make(case.model, seed=0, nodes=surfaces.COARSE, exact=exact)
    return models[key]


def _batched(items: Sequence[Any], size: int) -> Any:
    """One pytree of ``size`` items, the last one repeated: one shape, one compilation."""
    padded = [*items, *[items[-1]] * (size - len(items))]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *padded)


class _Ready(NamedTuple):
    """A case, ready for its batch."""

    case: cases.Case
    prepared: Prepared
    seconds: float


class _Running(NamedTuple):
    """A batch that the device is at work on."""

    ready: list[_Ready]
    predicted: Predicted
    began: float


def _started(ready: list[_Ready], programs: Programs, params: Params, job: Job) -> _Running:
    """Gives a batch to the device, and does not wait."""
    began = time.perf_counter()
    items = [one.prepared for one in ready]
    models = [item.surface for item in items]
    surface = surfaces.stack([*models, *[models[-1]] * (job.batch - len(models))])
    most = max(len(item.centres) for item in items)
    plain = [
        item._replace(
            surface=None,  # type: ignore[arg-type]
            centres=np.pad(
                item.centres, ((0, most - len(item.centres)), (0, 0)), constant_values=np.nan
            ),
            exposed=np.pad(item.exposed, (0, most - len(item.exposed)), constant_values=True),
        )
        for item in items
    ]  # fmt: skip
    batch = _batched(plain, job.batch)._replace(surface=surface)
    with spent("device"):
        predicted = programs.predict(params, devices.divide(batch, programs.over))
    return _Running(ready, predicted, began)


def _ended(running: _Running) -> Iterator[Result | Failure]:
    """Waits for a batch, and says what its cases came to."""
    with spent("device"):
        predicted = jax.tree.map(np.asarray, running.predicted)
    seconds = (time.perf_counter() - running.began) / len(running.ready)
    for i, (case, prepared, before) in enumerate(running.ready):
        registrations, each, hypotheses, weights = jax.tree.map(
            lambda leaf, i=i: leaf[i], predicted
        )
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((registrations, each))):
            yield case.id, f"{case.id}: the registration is not finite; is its scene in mm?"
            continue
        errors = {}
        if case.truth:
            with spent("errors"):
                targets = cases.scored_targets(case)
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
