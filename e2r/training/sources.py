"""Where training examples come from: memory or case folders. Any row can be read at any time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from e2r.config import TrainingConfig
from e2r.datasets import case_folder
from e2r.datasets.case import Case
from e2r.formats import meshes
from e2r.geometry import surface_cache, surfaces
from e2r.networks.build import NetworkConfig
from e2r.runtime.prefetch import prefetch
from e2r.simulation import simulator
from e2r.training.examples import make_example, make_surface, stack_examples
from e2r.types import Example, Surface

WHOLE_FRAME_EVERY = 3
"""Of so many examples, one shows the whole frame; the others a crop."""


@dataclass(frozen=True)
class ExampleSource:
    """Random access to training examples by row. Rows of one model share its surface."""

    names: tuple[str, ...]
    """case of each row"""
    read: Callable[[int, int], Example]
    """(row, number of the example in the run) -> the example, without its surface"""
    surfaces: Surface
    """the different surfaces, leading axis M"""
    surface_rows: np.ndarray
    """(rows,) index of each row's surface"""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.names)


class _SharedSurfaces:
    """The surfaces of the different models, each built once."""

    def __init__(self, config: TrainingConfig) -> None:
        self._config = config
        self._indices: dict[str, int] = {}
        self._surfaces: list[Surface] = []

    def index(self, case: Case) -> int:
        """Index of the case's surface."""
        key = surface_cache.fingerprint(case.model)
        if key not in self._indices:
            self._indices[key] = len(self._surfaces)
            self._surfaces.append(make_surface(case.model, self._config))
        return self._indices[key]

    def stack(self) -> Surface:
        """The surfaces, leading axis M."""
        return surfaces.stack(self._surfaces)


def from_cases(
    cases: Iterable[Case],
    config: TrainingConfig,
    *,
    total: int | None = None,
    what: str = "scenes",
    whole_frames: bool = True,
) -> ExampleSource:
    """Holds the examples of some cases in memory; a row is always the same example.

    Args:
      cases: with a truth.
      config: sizes of network and surfaces.
      total: number of cases, for the progress bar.
      what: the cases are, for the progress bar.
      whole_frames: some cases show their whole frame, too; each shows a crop about its bone.

    Raises:
      ValueError: there is no case.
    """
    shared = _SharedSurfaces(config)
    examples: list[Example] = []
    names: list[str] = []
    surface_rows: list[int] = []
    for number, case in enumerate(tqdm(cases, total=total, desc=what, unit="case")):
        meshes.collect_meshes(number)
        index = shared.index(case)
        too = whole_frames and len(examples) % WHOLE_FRAME_EVERY == 0
        for cropped in (True, False) if too else (True,):
            seed = len(examples)
            examples.append(make_example(case, config.network, seed=seed, cropped=cropped))
            names.append(case.id)
            surface_rows.append(index)
    if not examples:
        raise ValueError("there is no case to train on; give one or more")
    return ExampleSource(
        tuple(names), _ExamplesInMemory(examples), shared.stack(), np.array(surface_rows)
    )


@dataclass(frozen=True)
class _ExamplesInMemory:
    examples: Sequence[Example]

    def __call__(self, row: int, number: int) -> Example:
        return self.examples[row]


def simulated(config: TrainingConfig) -> ExampleSource:
    """Examples of the scenes that the configuration describes, in memory; fixed by its seed."""
    scenes = config.scenes
    specimens = simulator.simulate_specimens(
        jax.random.fold_in(jax.random.key(config.seed), 1),
        scenes.simulation,
        specimens=scenes.specimens,
        frames=scenes.frames,
        prefix="train",
    )
    cases = itertools.chain.from_iterable(specimens)
    return from_cases(cases, config, total=scenes.specimens * scenes.frames)


def from_folder(
    folder: Path, config: TrainingConfig, *, without: Collection[str] = ()
) -> ExampleSource:
    """Examples of case folders, in memory.

    Args:
      folder: of the cases.
      config: sizes of network and surfaces.
      without: sources (specimens, sequences) to leave out.

    Raises:
      ValueError: a case is broken or has no truth, or no case is left.
    """
    paths = find_training_cases(folder, without=without)
    return from_cases(map(read_training_case, paths), config, total=len(paths))


def streamed_folder(
    folder: Path, config: TrainingConfig, *, without: Collection[str] = ()
) -> ExampleSource:
    """Examples of case folders, read when asked for; only the surfaces are in memory.

    Each example of the run draws its own sample of points. Every case is read once before
    training begins, so a broken one is found early.

    Args:
      folder: of the cases.
      config: sizes of network and surfaces.
      without: sources (specimens, sequences) to leave out.

    Raises:
      ValueError: a case is broken or has no truth, or no case is left.
    """
    paths = find_training_cases(folder, without=without)
    shared = _SharedSurfaces(config)
    names: list[str] = []
    surface_rows: list[int] = []
    cases = prefetch(read_training_case, paths, workers=2)
    for number, case in enumerate(tqdm(cases, total=len(paths), desc="models", unit="case")):
        meshes.collect_meshes(number)
        names.append(case.id)
        surface_rows.append(shared.index(case))
    read = _ExamplesInFolders(tuple(paths), config.network)
    return ExampleSource(tuple(names), read, shared.stack(), np.array(surface_rows))


@dataclass(frozen=True)
class _ExamplesInFolders:
    """Reads examples from case folders; workers of other processes have a copy."""

    paths: tuple[Path, ...]
    network: NetworkConfig

    def __call__(self, row: int, number: int) -> Example:
        meshes.collect_meshes(number)
        case = read_training_case(self.paths[row])
        cropped = number % WHOLE_FRAME_EVERY != 0
        return make_example(case, self.network, seed=number, cropped=cropped)


def read_batch(source: ExampleSource, rows: Sequence[int], *, first: int = 0) -> Example:
    """The examples of some rows with their surfaces, leading axis B; on the host.

    Args:
      source: of the rows.
      rows: of the source.
      first: number in the run of the first example.
    """
    examples = [source.read(row, first + place) for place, row in enumerate(rows)]
    return attach_surfaces(source, stack_examples(examples), rows)


def attach_surfaces(source: ExampleSource, examples: Example, rows: Sequence[int]) -> Example:
    """Examples (leading axis B) of some rows, with their surfaces."""
    indices = source.surface_rows[list(rows)]
    return examples._replace(surface=jax.tree.map(lambda leaf: leaf[indices], source.surfaces))


def find_training_cases(folder: Path, *, without: Collection[str] = ()) -> list[Path]:
    """The case folders of a data set, but for those of some sources.

    Args:
      folder: of the cases.
      without: sources (specimens, sequences) to leave out.

    Raises:
      ValueError: no case is left.
    """
    paths = [
        path
        for path in case_folder.find_cases(folder)
        if case_folder.read_source(path) not in without
    ]
    if not paths:
        raise ValueError(f"{folder}: holds no case of another source to train on; add one")
    return paths


def read_training_case(path: Path) -> Case:
    """A case to train on.

    Raises:
      ValueError: it is broken or has no truth.
    """
    case = case_folder.read_case(path)
    if case.truth is None:
        raise ValueError(f"{path}: has no truth.json, which training needs; leave it out")
    return case
