"""Batch evaluation: cases in, predictions, errors and a summary out."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from e2r.config import EvaluationConfig, TrainingConfig
from e2r.datasets.case import Case, scored_targets
from e2r.datasets.sampling import SampledScene, sample_scene_points
from e2r.evaluation import metrics
from e2r.evaluation.predictions import Registered, level_poses
from e2r.evaluation.preparation import prepare, read_initial_pose, stable_seed
from e2r.evaluation.programs import Programs, compile_programs
from e2r.geometry import point_clouds, surfaces
from e2r.networks import region_of_interest
from e2r.networks.build import NetworkConfig
from e2r.pipeline import CasePredictions, PreparedCase
from e2r.runtime import sharding
from e2r.runtime.compile_cache import register_serializable
from e2r.runtime.prefetch import prefetch
from e2r.runtime.timing import timed
from e2r.types import Array, Params, Pose, Surface

register_serializable(PreparedCase, CasePredictions)


class _Looked(NamedTuple):
    """A case that was looked at once."""

    case: Case
    surface: Surface
    first: SampledScene
    seconds: float


Failure: TypeAlias = tuple[str, str]
"""The id of a case that came to nothing, and why."""


class _Chain(NamedTuple):
    """What the cases of a job go through."""

    settings: NetworkConfig
    params: Params
    job: EvaluationConfig
    given: Pose | None
    programs: Programs
    surface: Callable[[Case], Surface]


def run(
    source: Iterable[Case | tuple[str, ValueError]],
    config: TrainingConfig,
    params: Params,
    job: EvaluationConfig,
    programs: Programs | None = None,
    keep: Path | None = None,
) -> Iterator[Registered | Failure]:
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

    def surface(case: Case) -> Surface:
        with one_builds, timed("the models' lattices"):
            return _surface(case, models, job, keep)

    chain = _Chain(
        config.network,
        sharding.replicate(params, programs.over),
        job,
        read_initial_pose(job.start),
        programs,
        surface,
    )
    first = _once(source, chain, 0)
    with closing(_grouped(first, job.batch, partial(_is_unsure, job))) as found:
        for one in found:
            if isinstance(one, list):
                yield from _again(one, chain)
            else:
                yield one


def _is_unsure(job: EvaluationConfig, one: Registered | Failure) -> bool:
    """Whether a case is to be tried again; where the start is given, nothing is searched."""
    if not isinstance(one, Registered) or job.start.kind != "auto" or job.head != "learnt":
        return False
    return one.share("learnt") < job.retry_below


def _again(unsure: list[Registered], chain: _Chain) -> Iterator[Registered]:
    """The better results of cases that are tried a second time: other samples, a stricter mask."""
    seen = _once((first.case for first in unsure), chain, 1)
    others = [one for one in seen if isinstance(one, Registered)]
    for first in unsure:
        other = next((one for one in others if one.case is first.case), first)
        better = max(first, other, key=lambda one: one.share("learnt"))
        yield better._replace(seconds=first.seconds + other.seconds)


def _once(
    source: Iterable[Case | tuple[str, ValueError]], chain: _Chain, number: int
) -> Generator[Registered | Failure]:
    """Cases in batches; each ``number`` is another try."""
    settings, job, programs = chain.settings, chain.job, chain.programs

    def look(item: Case | tuple[str, ValueError]) -> _Looked | Failure:
        if isinstance(item, tuple):
            return item[0], str(item[1])
        try:
            surface = chain.surface(item)
            began = time.perf_counter()
            with timed("first look, host"):
                first = sample_scene_points(item, settings, seed=stable_seed(item.id, number))
        except ValueError as error:
            return item.id, str(error)
        return _Looked(item, surface, first, time.perf_counter() - began)

    def look_closer(
        item: _Looked, interest: np.ndarray, centre: np.ndarray
    ) -> tuple[PreparedCase, float] | Failure:
        began = time.perf_counter()
        try:
            with timed("second look, host"):
                within = region_of_interest.crop(
                    item.case.points,
                    point_clouds.flatten_samples(item.first.cloud),
                    interest,
                    centre,
                    settings.points // 4,
                )
                prepared = prepare(
                    item.case,
                    settings,
                    surface=item.surface,
                    job=job,
                    given=chain.given,
                    within=within,
                    number=number,
                )
        except ValueError as error:
            return item.case.id, str(error)
        return prepared, time.perf_counter() - began

    def glanced(group: list[_Looked]) -> _Glanced:
        looks = _batched([(item.first.cloud, item.first.pyramid) for item in group], job.batch)
        with timed("device"):
            found = programs.glance(chain.params, *sharding.shard(looks, programs.over))
        return _Glanced(group, found)

    def ready(glance: _Glanced) -> Iterator[_Ready | Failure]:
        with timed("device"):
            interests, centres = jax.tree.map(np.asarray, glance.found)
        rows = list(zip(glance.group, interests, centres, strict=False))
        found = prefetch(lambda row: look_closer(*row), rows, workers=2)
        for item, one in zip(glance.group, found, strict=True):
            if isinstance(one[0], str):
                yield one  # type: ignore[misc]
            else:
                yield _Ready(item.case, one[0], item.seconds + one[1])  # type: ignore[arg-type]

    # The device gets the first look at a batch before the registration of the one before, so that
    # the host can take the second look while that is under way.
    glance: _Glanced | None = None
    running: _Running | None = None
    looked = prefetch(look, source, workers=2)
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


def _surface(
    case: Case, models: dict[str, Surface], job: EvaluationConfig, keep: Path | None
) -> Surface:
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

    case: Case
    prepared: PreparedCase
    seconds: float


class _Running(NamedTuple):
    """A batch that the device is at work on."""

    ready: list[_Ready]
    predicted: CasePredictions
    began: float


def _started(
    ready: list[_Ready], programs: Programs, params: Params, job: EvaluationConfig
) -> _Running:
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
    ]
    batch = _batched(plain, job.batch)._replace(surface=surface)
    with timed("device"):
        predicted = programs.predict(params, sharding.shard(batch, programs.over))
    return _Running(ready, predicted, began)


def _ended(running: _Running) -> Iterator[Registered | Failure]:
    """Waits for a batch, and says what its cases came to."""
    with timed("device"):
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
            with timed("errors"):
                targets = scored_targets(case)
                for name, several in each.items():
                    errors[name] = metrics.case_errors(
                        level_poses(case, several), case.truth, targets, case.model
                    )
        yield Registered(
            case,
            point_clouds.flatten_samples(prepared.cloud),
            prepared.rows.ravel(),
            registrations,
            each,
            hypotheses,
            weights,
            errors,
            int(prepared.surface.num_degenerate),
            before + seconds,
        )
