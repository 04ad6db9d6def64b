"""Batch evaluation: each case through the stages, and again where too little speaks for a pose.

The stages themselves are in :mod:`e2r.evaluation.stages`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from e2r.config import EvaluationConfig
from e2r.datasets.case import Case
from e2r.evaluation.initial_poses import read_initial_poses
from e2r.evaluation.models import Model
from e2r.evaluation.programs import Programs, compile_programs
from e2r.evaluation.results import Failed, Registered
from e2r.evaluation.shared_models import SharedModels
from e2r.evaluation.stages import JobContext, attempt
from e2r.runtime import sharding


def run(
    source: Iterable[Case | Failed],
    model: Model,
    *,
    job: EvaluationConfig,
    programs: Programs | None = None,
    surface_file: Path | None = None,
    models: SharedModels | None = None,
) -> Iterator[Registered | Failed]:
    """Evaluates cases in batches; a broken case yields a :class:`Failed` and does not stop the job.

    A case for which too little speaks (``job.retry_below``) is tried again, up to ``job.tries``
    times in all. Such cases come later than the others. Where the model has several networks, each
    is asked, and each further try asks them in turn.

    Args:
      source: the cases, and those that could not be read.
      model: the trained networks.
      job: initial poses, schedule, masks.
      programs: programs to use instead of those of :func:`compile_programs`.
      surface_file: keeps the surface between runs; for cases of one model.
      models: keeps the models between jobs of this process.

    Raises:
      ValueError: the initial pose cannot be read, or the batch not be divided among the devices.
    """
    programs = programs or compile_programs(model.config.network, job.program, batch=job.batch)
    context = JobContext(
        network=model.config.network,
        networks=sharding.replicate((model.params, *model.others), programs.mesh),
        job=job,
        given_poses=read_initial_poses(job.start),
        programs=programs,
        models=models
        or SharedModels(exact=job.program.schedule.needs_triangles, file=surface_file),
        patient=model.patient,
    )
    waiting: list[Registered] = []
    with closing(attempt(source, context)) as results:
        for result in results:
            if isinstance(result, Failed) or not _pending(result, context, asked=1):
                yield result
                continue
            waiting.append(result)
            if len(waiting) == job.batch:
                yield from _try_again(waiting, context)
                waiting = []
    if waiting:
        yield from _try_again(waiting, context)


def raise_failures(results: Iterable[Registered | Failed]) -> Iterator[Registered]:
    """The results, where each case must be registered.

    Args:
      results: of :func:`run`.

    Raises:
      ValueError: a case failed; the message is the case's own.
    """
    for result in results:
        if isinstance(result, Failed):
            raise ValueError(result.message)
        yield result


def _pending(result: Registered, context: JobContext, *, asked: int) -> bool:
    """Whether a case is tried again; never where its initial pose is given.

    Each network is asked once. Then a case is tried again while too little speaks for its pose.
    """
    job = context.job
    if job.start != "auto" or job.primary_mask != "learnt":
        return False
    if asked < len(context.networks):
        return True
    return job.retry_below > 0 and result.evidence("learnt") < job.retry_below


def _try_again(waiting: list[Registered], context: JobContext) -> list[Registered]:
    """Asks the other networks, then tries in other samples; most evidence decides for each case."""
    best = list(waiting)
    turns = [(k, n) for k in range(context.job.tries) for n in range(len(context.networks))]
    for asked, (number, network) in enumerate(turns[1:], 1):
        pending = [k for k, one in enumerate(best) if _pending(one, context, asked=asked)]
        cases = [best[k].case for k in pending]
        results = attempt(cases, context._replace(attempt=number, asked=network))
        found = {id(one.case): one for one in results if isinstance(one, Registered)}
        for k in pending:
            before = best[k]
            again = found.get(id(before.case))
            if again is None:
                continue
            better = max(before, again, key=lambda result: result.evidence("learnt"))
            best[k] = better._replace(seconds=before.seconds + again.seconds)
    return best
