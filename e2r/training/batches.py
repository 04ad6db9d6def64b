"""The batches of a training run: one Grain pipeline, addressable by step.

A step's batch follows from the seed and the number of the step alone. A resumed run therefore
sees the batches of the uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial

import grain
import jax
import numpy as np
from absl import flags

from e2r.config import TrainingConfig
from e2r.runtime import sharding
from e2r.training.examples import stack_examples
from e2r.training.sources import ExampleSource, attach_surfaces
from e2r.types import Array, Example, Int, PRNGKey

READ_OPTIONS = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
"""Threads that read, and batches that they keep ready."""


@dataclass(frozen=True)
class Batches:
    """The batches of a run, by step."""

    source: ExampleSource
    rows: Callable[[int], Sequence[int]]
    """step -> rows of the source in its batch, of all processes"""
    size: int
    """examples of a batch, of all processes"""
    workers: int = 0
    """processes that read; 0 for threads of this one"""

    def names(self, step: int) -> list[str]:
        """The cases of a step's batch, of all processes."""
        return [self.source.names[row] for row in self.rows(step)]

    def iterate(self, first: int, last: int) -> Generator[Example]:
        """This process's part of the batches, from step ``first`` to step ``last``, read ahead."""
        own = range(self.size)[sharding.process_rows(self.size)]
        read = partial(_read_step, self.source.read, self.rows, own)
        # An element is a whole batch, so workers cannot mix examples of different steps.
        steps = grain.MapDataset.range(first, last + 1).map(read).to_iter_dataset(READ_OPTIONS)
        if self.workers:
            flags.FLAGS.mark_as_parsed()  # grain reads absl's flags, which nothing else parses
            steps = steps.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.workers))
        for rows, examples in steps:
            yield attach_surfaces(self.source, examples, rows)


def _read_step(
    read: Callable[[int, int], Example],
    rows: Callable[[int], Sequence[int]],
    places: Sequence[int],
    step: int,
) -> tuple[list[int], Example]:
    """The rows at some places of a step's batch, and their examples without surfaces."""
    batch = rows(step)
    first = (step - 1) * len(batch)
    examples = [read(batch[place], first + place) for place in places]
    return [batch[place] for place in places], stack_examples(examples)


def run_key(config: TrainingConfig) -> PRNGKey:
    """The run's key; each step folds its number in."""
    return jax.random.fold_in(jax.random.key(config.seed), 2)


def uniform_batches(config: TrainingConfig, source: ExampleSource) -> Batches:
    """Batches whose rows are drawn uniformly, with replacement."""
    key, size, count = run_key(config), config.optimisation.batch, len(source)

    @jax.jit
    def draw(step: Int[Array, ""]) -> Int[Array, "b"]:
        k_rows, _ = jax.random.split(jax.random.fold_in(key, step - 1))
        return jax.random.randint(k_rows, (size,), 0, count)

    return Batches(source, lambda step: np.asarray(draw(np.asarray(step, np.int32))).tolist(), size)


def shuffled_batches(config: TrainingConfig, source: ExampleSource, *, workers: int = 0) -> Batches:
    """Batches of passes over all rows; each pass has its own random order, by Grain.

    Args:
      config: of the run.
      source: of the rows.
      workers: processes that read; 0 for threads of this one.
    """
    order = grain.MapDataset.range(len(source)).shuffle(seed=config.seed).repeat()
    size = config.optimisation.batch
    return Batches(source, partial(_shuffled_rows, order, size), size, workers)


def _shuffled_rows(order: grain.MapDataset[int], size: int, step: int) -> list[int]:
    return [int(order[number]) for number in range((step - 1) * size, step * size)]
