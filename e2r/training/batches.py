"""Batches of a training run, the same for the same seed, from any step on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import grain
import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from e2r.config import TrainingConfig
from e2r.datasets import case_folder
from e2r.geometry import surfaces
from e2r.networks.build import NetworkConfig
from e2r.runtime import sharding
from e2r.runtime.prefetch import prefetch
from e2r.training import examples
from e2r.training.examples import stack_examples
from e2r.types import Array, Example, Surface


class BatchSource(NamedTuple):
    """Where a run's examples come from. A step's batch does not depend on the steps before."""

    batches: Callable[[int, int], Generator[Example]]
    """(first step, last step) -> the batches of these steps; of each, this process's rows"""
    names: Callable[[int], list[str]]
    """step -> the cases of its batch, of all processes"""


def run_key(config: TrainingConfig) -> Array:
    """The run's key, of which every step folds its number in."""
    return jax.random.fold_in(jax.random.key(config.seed), 2)


def from_bank(config: TrainingConfig, bank: examples.ExampleBank) -> BatchSource:
    """Examples drawn evenly from a bank."""
    size, key, count = config.optimisation.batch, run_key(config), len(bank.names)

    @jax.jit
    def pick(step: Array) -> Array:
        k_batch, _ = jax.random.split(jax.random.fold_in(key, step))
        return jax.random.randint(k_batch, (size,), 0, count)

    def rows(step: int) -> np.ndarray:
        return np.asarray(pick(np.int32(step - 1)))

    def batches(first: int, last: int) -> Generator[Example]:
        mine = sharding.process_rows(size)
        return prefetch(
            lambda step: examples.draw_examples(bank, rows(step)[mine]), range(first, last + 1)
        )

    return BatchSource(batches, lambda step: [bank.names[row] for row in rows(step)])


@dataclass(frozen=True)
class _Reader:
    """Reads the examples of a folder by their number in the run; grain's workers have it, too."""

    paths: list[Path]
    settings: NetworkConfig

    def __call__(self, pair: tuple[int, int]) -> tuple[int, Example]:
        number, row = pair
        case = examples.read_training_case(self.paths[row])
        close = number % (examples.WHOLE_FRAME_EVERY + 1) != 0
        return row, examples.make_example(case, self.settings, seed=number, close=close)


def from_folder(
    config: TrainingConfig, folder: Path, *, without: Collection[str] = (), workers: int = 0
) -> BatchSource:
    """Case folders, read while training goes on: only the models are held in memory.

    Every pass over the folder has an order of its own (by ``grain``), and each example its own
    sample of points. A step's examples follow from its number, so a run goes on anywhere.

    Args:
      config: the run.
      folder: of the cases.
      without: sources (specimens, sequences) to leave out.
      workers: processes that read; 0 for threads of this one.

    Raises:
      ValueError: a case is broken or has no truth, or all are left out.
    """
    paths, size = examples.find_training_cases(folder, without=without), config.optimisation.batch
    models, place = _read_models(paths, config)
    order = grain.MapDataset.range(len(paths)).shuffle(seed=config.seed % 2**32).repeat()
    reader = _Reader(paths, config.network)

    def numbers(step: int) -> range:
        return range((step - 1) * size, step * size)

    def stacked(found: list[tuple[int, Example]]) -> Example:
        rows = place[[row for row, _ in found]]
        examples = stack_examples([example for _, example in found])
        return examples._replace(surface=jax.tree.map(lambda leaf: leaf[rows], models))

    def batches(first: int, last: int) -> Generator[Example]:
        mine = [
            n for step in range(first, last + 1) for n in numbers(step)[sharding.process_rows(size)]
        ]
        asked = grain.MapDataset.source([(n, order[n]) for n in mine]).map(reader)
        few = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2 * size)
        read = asked.to_iter_dataset(few)
        if workers:
            flags.FLAGS.mark_as_parsed()  # grain asks absl, which nobody has given a command line
            read = read.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
        each = size // jax.process_count()
        waiting: list[tuple[int, Example]] = []
        for one in read:
            waiting.append(one)
            if len(waiting) == each:
                yield stacked(waiting)
                waiting = []

    def names(step: int) -> list[str]:
        return [case_folder.read_id(paths[order[n]]) for n in numbers(step)]

    return BatchSource(batches, names)


def _read_models(paths: list[Path], config: TrainingConfig) -> tuple[Surface, np.ndarray]:
    """The different models (leading axis), and which of them each case has.

    Every case is read once, so that a broken one is known before the training begins.
    """
    found: dict[str, int] = {}
    models: list[Surface] = []
    place = []
    checked = prefetch(lambda path: examples.read_training_case(path).model, paths, workers=2)
    for model in tqdm(checked, total=len(paths), desc="models", unit="case"):
        key = surfaces.fingerprint(model)
        if key not in found:
            found[key] = len(models)
            models.append(examples.make_surface(model, config))
        place.append(found[key])
    return surfaces.stack(models), np.array(place)
