"""The units of a job's work: cases that are read, or simulated, together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from e2r.datasets import case_folder
from e2r.datasets.case import Case, case_digest
from e2r.evaluation.job_folder import JobFolder
from e2r.evaluation.results import Failed
from e2r.runtime.atomic_folders import written_since
from e2r.runtime.prefetch import prefetch
from e2r.runtime.timing import timed
from e2r.simulation import simulator


class WorkUnit(NamedTuple):
    """Cases that are read, or simulated, together."""

    ids: tuple[str, ...]
    load: Callable[[], Sequence[Case | Failed]]
    path: Path | None = None  # of the one case, if it is on disk


def of_simulation(
    simulation: simulator.SimulationConfig, *, specimens: int, frames: int, seed: int
) -> list[WorkUnit]:
    """Simulated specimens that no training sees, in order; none is made yet.

    Args:
      simulation: settings of the scenes.
      specimens: number of specimens.
      frames: scenes of each.
      seed: of the specimens.
    """
    found = simulator.unseen_specimens(simulation, specimens=specimens, frames=frames, seed=seed)
    return [WorkUnit(*one) for one in found]


def of_folder(folder: Path) -> list[WorkUnit]:
    """The cases of a folder in order; only ids are read yet.

    Args:
      folder: a data set.

    Raises:
      ValueError: the folder holds no case.
    """
    units: dict[str, WorkUnit] = {}
    for path in case_folder.find_cases(folder):
        name, load = case_folder.read_id(path), partial(_read, path)
        if name in units:
            sentence = f"{path / 'case.json'}: another case has the id {name!r}; give it its own"
            name = f"{name} ({path.name})"
            load = partial(list, [Failed(name, sentence)])
        units[name] = WorkUnit((name,), load, path)
    return list(units.values())


def _read(path: Path) -> list[Case | Failed]:
    try:
        with timed("reading"):
            return [case_folder.read_case(path)]
    except (ValueError, OSError) as error:
        return [Failed(case_folder.read_id(path), str(error))]


def refuse_changed_cases(units: Sequence[WorkUnit], folder: JobFolder) -> None:
    """Refuses to continue a job whose done cases are no longer those in the folder.

    Only cases that were written to since the job began are read again.

    Args:
      units: of the job.
      folder: of the job.

    Raises:
      ValueError: a case has another model or frame than the one that was registered.
    """
    done = {line["id"]: line.get("case_digest") for line in folder.lines()}
    for name, path in ((unit.ids[0], unit.path) for unit in units if unit.path is not None):
        if not done.get(name) or not written_since(path, folder.began):
            continue
        try:
            found = case_digest(case_folder.read_case(path))
        except (ValueError, OSError):
            found = "not readable any more"
        if found != done[name]:
            raise ValueError(
                f"{path}: is another case than the one of this id that was registered; "
                "name another --output, or put the old one back"
            )


def remaining_cases(units: Sequence[WorkUnit], folder: JobFolder) -> Iterator[Case | Failed]:
    """The cases that are not done; two units are loaded ahead.

    Args:
      units: of the job.
      folder: of the job.
    """
    done = frozenset(folder.done())
    left = [unit for unit in units if not done.issuperset(unit.ids)]
    for cases in prefetch(lambda unit: unit.load(), left, workers=2):
        yield from (case for case in cases if case.id not in done)
