"""Batch evaluation in three stages, each a generator: load -> locate -> register.

:func:`load` prepares a case's model and samples its scene. :func:`locate` finds the region of
interest in a batch on the device, and samples each scene again there. :func:`register` registers
the batch. The device takes the first look at a batch before the registration of the previous one,
so that the host takes the second look meanwhile.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from e2r.config import EvaluationConfig
from e2r.datasets.case import Case, scored_targets
from e2r.datasets.sampling import SampledScene, sample_scene_points
from e2r.evaluation import device_clock, looks, metrics
from e2r.evaluation.fit_checks import check_fits
from e2r.evaluation.initial_poses import InitialPoses
from e2r.evaluation.looks import Look
from e2r.evaluation.patient import Sizes, foreign_sentence
from e2r.evaluation.preparation import initial_pose, prepare_case, stable_seed
from e2r.evaluation.programs import Programs, stack_batch, stack_prepared
from e2r.evaluation.results import Failed, Registered, level_poses
from e2r.evaluation.shared_models import SharedModel, SharedModels
from e2r.formats import meshes
from e2r.geometry import point_clouds
from e2r.networks.build import NetworkConfig
from e2r.pipeline import CasePredictions, FirstLook, PreparedCase
from e2r.runtime import sharding
from e2r.runtime.prefetch import prefetch
from e2r.runtime.timing import Stopwatch, timed
from e2r.types import Params, Pose

T = TypeVar("T")


class JobContext(NamedTuple):
    """The settings and programs that all stages share."""

    network: NetworkConfig
    networks: tuple[Params, ...]  # on the devices; each frame is shown to all
    job: EvaluationConfig
    given_poses: InitialPoses  # from a file
    programs: Programs
    models: SharedModels
    patient: Sizes | None  # whose networks they are; None: anybody's
    attempt: int = 0  # each attempt takes other samples
    asked: int = 0  # which of the networks is asked

    @property
    def params(self) -> Params:
        """Of the network that is asked."""
        return self.networks[self.asked]


class LoadedCase(NamedTuple):
    """A case with its model and a first sample of its scene."""

    case: Case
    model: SharedModel
    sample: SampledScene
    initial_pose: Pose | None  # camera from model; None: it is searched for
    seconds: float  # host's time so far


class LocatedCase(NamedTuple):
    """A case whose scene was sampled in the region of interest."""

    case: Case
    model: SharedModel
    sample: SampledScene
    prepared: PreparedCase
    interest: float  # largest logit of the region of interest, at the surest look
    seconds: float  # host's time so far


def attempt(source: Iterable[Case | Failed], context: JobContext) -> Generator[Registered | Failed]:
    """The three stages, one after the other.

    Args:
      source: the cases, and those that could not be read.
      context: of the job.
    """
    return register(locate(load(source, context), context), context)


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
    if context.patient is not None:
        foreign = foreign_sentence(context.patient, item.model)
        if foreign is not None:
            return Failed(item.id, f"{item.id}: {foreign}")
    try:
        given = context.given_poses.of(item)
        pose = initial_pose(item, context.job, given, attempt=context.attempt)
        model = context.models.get(item.model)
        watch = Stopwatch()
        with timed("first look, host"):
            seed = stable_seed(item.id, context.attempt)
            sample = sample_scene_points(item, context.network, seed=seed)
    except ValueError as error:
        return Failed(item.id, str(error))
    return LoadedCase(item, model, sample, pose, watch.seconds())


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
                surface=loaded.model.surface,
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
                loaded.model.surface,
                job=context.job,
                initial_pose=loaded.initial_pose,
                attempt=context.attempt,
            )
    except ValueError as error:
        return Failed(case.id, str(error))
    return LocatedCase(
        case,
        loaded.model,
        sample,
        prepared,
        interest=look.interest,
        seconds=loaded.seconds + watch.seconds(),
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
        yield Registered(
            case=case,
            cloud=cloud,
            rows=located.sample.rows.ravel(),
            registrations=one.registrations,
            levels=one.levels,
            hypotheses=one.hypotheses,
            weights={mask: np.asarray(one.weights[mask]) for mask in one.weights},
            errors=_errors(located, one),
            **check_fits(one, located.model, cloud)._asdict(),
            interest=located.interest,
            num_degenerate=int(located.model.surface.num_degenerate),
            seconds=located.seconds + seconds,
        )


def _errors(located: LocatedCase, predictions: CasePredictions) -> dict[str, metrics.CaseErrors]:
    """The errors of a case under each mask; empty without a truth."""
    case, model = located.case, located.model
    if not case.truth:
        return {}
    with timed("errors"):
        targets = scored_targets(case)
        deep = model.deep(targets)
        return {
            mask: metrics.case_errors(
                level_poses(case, levels), case.truth, targets, model=model.meshes, deep=deep
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
