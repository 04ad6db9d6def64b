"""Batch evaluation in three stages, each a generator: load -> locate -> register.

:func:`load` builds a case's surface and samples its scene. :func:`locate` finds the region of
interest in a batch on the device, and samples each scene again there. :func:`register` registers
the batch. The device takes the first look at a batch before the registration of the previous one,
so that the host takes the second look meanwhile.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from e2r.config import EvaluationConfig
from e2r.datasets.case import Case, scored_targets
from e2r.datasets.sampling import SampledScene, sample_scene_points
from e2r.evaluation import device_clock, looks, metrics
from e2r.evaluation.fit_checks import check_fits
from e2r.evaluation.initial_poses import InitialPoses, read_initial_poses
from e2r.evaluation.looks import Look
from e2r.evaluation.models import Model
from e2r.evaluation.preparation import SharedSurfaces, initial_pose, prepare_case, stable_seed
from e2r.evaluation.programs import Programs, compile_programs, stack_batch, stack_prepared
from e2r.evaluation.results import Failed, Registered, level_poses
from e2r.formats import meshes
from e2r.geometry import point_clouds
from e2r.networks.build import NetworkConfig
from e2r.pipeline import CasePredictions, FirstLook, PreparedCase
from e2r.runtime import sharding
from e2r.runtime.prefetch import prefetch
from e2r.runtime.timing import Stopwatch, timed
from e2r.types import Params, Pose, Surface

T = TypeVar("T")


class JobContext(NamedTuple):
    """The settings and programs that all stages share."""

    network: NetworkConfig
    params: Params  # on the devices
    job: EvaluationConfig
    given_poses: InitialPoses  # from a file
    programs: Programs
    surfaces: SharedSurfaces
    attempt: int = 0  # each attempt takes other samples


class LoadedCase(NamedTuple):
    """A case with its surface and a first sample of its scene."""

    case: Case
    surface: Surface
    sample: SampledScene
    initial_pose: Pose | None  # camera from model; None: it is searched for
    seconds: float  # host's time so far


class LocatedCase(NamedTuple):
    """A case whose scene was sampled in the region of interest."""

    case: Case
    sample: SampledScene
    prepared: PreparedCase
    interest: float  # largest logit of the region of interest, at the surest look
    seconds: float  # host's time so far


def run(
    source: Iterable[Case | Failed],
    model: Model,
    *,
    job: EvaluationConfig,
    programs: Programs | None = None,
    surface_file: Path | None = None,
) -> Iterator[Registered | Failed]:
    """Evaluates cases in batches; a broken case yields a :class:`Failed` and does not stop the job.

    A case for which too little speaks (``job.retry_below``) is tried again, up to ``job.tries``
    times in all. Such cases come later than the others.

    Args:
      source: the cases, and those that could not be read.
      model: the trained networks.
      job: initial poses, schedule, masks.
      programs: programs to use instead of those of :func:`compile_programs`.
      surface_file: keeps the surface between runs; for cases of one model.

    Raises:
      ValueError: the initial pose cannot be read, or the batch not be divided among the devices.
    """
    programs = programs or compile_programs(model.config.network, job.program, batch=job.batch)
    context = JobContext(
        network=model.config.network,
        params=sharding.replicate(model.params, programs.mesh),
        job=job,
        given_poses=read_initial_poses(job.start),
        programs=programs,
        surfaces=SharedSurfaces(
            exact=job.program.schedule.correspondence == "closest", file=surface_file
        ),
    )
    unsure: list[Registered] = []
    with closing(_attempt(source, context)) as results:
        for result in results:
            if isinstance(result, Failed) or not _needs_retry(result, job):
                yield result
                continue
            unsure.append(result)
            if len(unsure) == job.batch:
                yield from _retry(unsure, context)
                unsure = []
    if unsure:
        yield from _retry(unsure, context)


def _attempt(
    source: Iterable[Case | Failed], context: JobContext
) -> Generator[Registered | Failed]:
    """The three stages, one after the other."""
    return register(locate(load(source, context), context), context)


def _needs_retry(result: Registered, job: EvaluationConfig) -> bool:
    """Whether a case is tried again; never where its initial pose is given."""
    if job.start != "auto" or job.primary_mask != "learnt" or not job.retry_below:
        return False
    return result.evidence("learnt") < job.retry_below


def _retry(unsure: list[Registered], context: JobContext) -> list[Registered]:
    """Tries cases again, in other samples, and returns the result of each with most evidence."""
    best = list(unsure)
    for attempt in range(1, context.job.tries):
        pending = [k for k, one in enumerate(best) if _needs_retry(one, context.job)]
        cases = [best[k].case for k in pending]
        results = _attempt(cases, context._replace(attempt=attempt))
        found = {id(one.case): one for one in results if isinstance(one, Registered)}
        for k in pending:
            before = best[k]
            again = found.get(id(before.case), before)
            better = max(before, again, key=lambda result: result.evidence("learnt"))
            best[k] = better._replace(seconds=before.seconds + again.seconds)
    return best


# Load ---------------------------------------------------------------------------------------------


def load(source: Iterable[Case | Failed], context: JobContext) -> Generator[LoadedCase | Failed]:
    """First stage: surfaces and first samples, by threads of the host.

    Args:
      source: the cases, and those that could not be read.
      context: of the job.
    """
    return prefetch(partial(_load, context), _collecting(source), workers=2)


def _collecting(source: Iterable[Case | Failed]) -> Iterator[Case | Failed]:
    """The same items; the meshes of dropped cases are freed on the way."""
    for number, item in enumerate(source):
        meshes.collect_meshes(number)
        yield item


def _load(context: JobContext, item: Case | Failed) -> LoadedCase | Failed:
    if isinstance(item, Failed):
        return item
    try:
        given = context.given_poses.of(item)
        pose = initial_pose(item, context.job, given, attempt=context.attempt)
        surface = context.surfaces.get(item.model)
        watch = Stopwatch()
        with timed("first look, host"):
            seed = stable_seed(item.id, context.attempt)
            sample = sample_scene_points(item, context.network, seed=seed)
    except ValueError as error:
        return Failed(item.id, str(error))
    return LoadedCase(item, surface, sample, pose, watch.seconds())


# Locate -------------------------------------------------------------------------------------------


def locate(
    loaded: Generator[LoadedCase | Failed], context: JobContext
) -> Generator[list[LocatedCase] | Failed]:
    """Second stage: the region of interest on the device, and a second sample there on the host.

    The first look at a batch starts before the previous batch is yielded.

    Args:
      loaded: the first stage's cases.
      context: of the job.

    Yields:
      batches of cases, and the failures as they come.
    """
    waiting: tuple[list[LoadedCase], FirstLook] | None = None
    with closing(_batches(loaded, context.job.batch)) as batches:
        for batch in batches:
            if isinstance(batch, Failed):
                yield batch
                continue
            located = yield from _second_looks(waiting, context)
            waiting = batch, _look([case.sample for case in batch], context)
            if located:
                yield located
    located = yield from _second_looks(waiting, context)
    if located:
        yield located


def _look(samples: Sequence[SampledScene], context: JobContext) -> FirstLook:
    """Starts a look at a batch on the device, and does not wait for it."""
    inputs = stack_batch([(sample.cloud, sample.pyramid) for sample in samples], context.job.batch)
    programs = context.programs
    with timed("device"):
        return programs.first_look(context.params, *sharding.shard(inputs, programs.mesh))


def _surest_look(loaded: LoadedCase, first: Look, context: JobContext) -> tuple[LoadedCase, Look]:
    """A case, and the surest look at it; a given initial pose needs no second opinion."""
    if loaded.initial_pose is not None:
        return loaded, first
    watch = Stopwatch()
    surest = looks.surest_look(
        loaded.case,
        first,
        look=partial(_look, context=context),
        network=context.network,
        attempt=context.attempt,
        looks=context.job.looks,
        batch=context.job.batch,
    )
    return loaded._replace(seconds=loaded.seconds + watch.seconds()), surest


def _second_looks(
    waiting: tuple[list[LoadedCase], FirstLook] | None, context: JobContext
) -> Generator[Failed, None, list[LocatedCase]]:
    """Waits for the first look at a batch; yields its failures and returns its other cases."""
    if waiting is None:
        return []
    batch, found = waiting
    with timed("device"):
        first = looks.split_looks([case.sample for case in batch], found)
    pairs = [_surest_look(case, look, context) for case, look in zip(batch, first, strict=True)]
    located = []
    for result in prefetch(partial(_second_look, context), pairs, workers=2):
        if isinstance(result, Failed):
            yield result
        else:
            located.append(result)
    return located


def _second_look(context: JobContext, pair: tuple[LoadedCase, Look]) -> LocatedCase | Failed:
    """Samples one case's scene in the region of interest, and prepares it."""
    loaded, look = pair
    case, network, watch = loaded.case, context.network, Stopwatch()
    try:
        with timed("second look, host"):
            within = looks.rows_to_sample(
                case,
                look,
                surface=loaded.surface,
                initial_pose=loaded.initial_pose,
                min_points=network.points // 4,
            )
            sample = sample_scene_points(
                case,
                network,
                seed=stable_seed(case.id, context.attempt),
                num_samples=context.job.program.num_samples,
                within=within,
            )
            prepared = prepare_case(
                case,
                sample,
                loaded.surface,
                job=context.job,
                initial_pose=loaded.initial_pose,
                attempt=context.attempt,
            )
    except ValueError as error:
        return Failed(case.id, str(error))
    return LocatedCase(
        case, sample, prepared, interest=look.interest, seconds=loaded.seconds + watch.seconds()
    )


# Register -----------------------------------------------------------------------------------------


def register(
    located: Generator[list[LocatedCase] | Failed], context: JobContext
) -> Generator[Registered | Failed]:
    """Third stage: the registration of each batch on the device, and its errors on the host.

    The device registers a batch while the previous one's results are taken and the next one is
    prepared. While a program is compiled, nothing runs, so that no case's seconds hold any of it.

    Args:
      located: the second stage's batches.
      context: of the job.
    """
    program, params = context.programs.register, context.params
    running: tuple[list[LocatedCase], device_clock.Started] | None = None
    with closing(located), ThreadPoolExecutor(1) as clock:
        for batch in located:
            if isinstance(batch, Failed):
                yield batch
                continue
            stacked = stack_prepared([case.prepared for case in batch], context.job.batch)
            inputs = sharding.shard(stacked, context.programs.mesh)
            if running is not None and not device_clock.is_compiled(program, params, inputs):
                yield from _finish(*running)
                running = None
            started = device_clock.start(program, params, inputs, clock=clock)
            if running is not None:
                yield from _finish(*running)
            running = batch, started
    if running is not None:
        yield from _finish(*running)


def _finish(
    cases: list[LocatedCase], started: device_clock.Started
) -> Iterator[Registered | Failed]:
    """Waits for the registration of a batch, and yields the result of each case."""
    with timed("device"):
        predictions = jax.tree.map(np.asarray, started.predictions)
    seconds = started.seconds.result() / len(cases)
    for i, located in enumerate(cases):
        one: CasePredictions = jax.tree.map(lambda leaf, i=i: leaf[i], predictions)
        case = located.case
        leaves = jax.tree.leaves((one.registrations, one.levels))
        if not all(np.isfinite(leaf).all() for leaf in leaves):
            yield Failed(case.id, f"{case.id}: the registration is not finite; is its scene in mm?")
            continue
        cloud = point_clouds.flatten_samples(located.sample.cloud)
        surface = located.prepared.surface
        yield Registered(
            case=case,
            cloud=cloud,
            rows=located.sample.rows.ravel(),
            registrations=one.registrations,
            levels=one.levels,
            hypotheses=one.hypotheses,
            weights={mask: np.asarray(one.weights[mask]) for mask in one.weights},
            errors=_errors(case, one),
            **check_fits(one, surface, cloud)._asdict(),
            interest=located.interest,
            num_degenerate=int(surface.num_degenerate),
            seconds=located.seconds + seconds,
        )


def _errors(case: Case, predictions: CasePredictions) -> dict[str, metrics.CaseErrors]:
    """The errors of a case under each mask; empty without a truth."""
    if not case.truth:
        return {}
    with timed("errors"):
        targets = scored_targets(case)
        return {
            mask: metrics.case_errors(
                level_poses(case, levels), case.truth, targets, model=case.model
            )
            for mask, levels in predictions.levels.items()
        }


# Batches ------------------------------------------------------------------------------------------


def _batches(items: Generator[T | Failed], size: int) -> Generator[list[T] | Failed]:
    """Collects items into lists of ``size``, the last one shorter; failures pass as they come."""
    batch: list[T] = []
    with closing(items):
        for item in items:
            if isinstance(item, Failed):
                yield item
                continue
            batch.append(item)
            if len(batch) == size:
                yield batch
                batch = []
    if batch:
        yield batch
