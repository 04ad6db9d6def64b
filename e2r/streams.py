"""Batches of a training run, the same for the same seed, from any step on."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import NamedTuple

import jax
import numpy as np

from e2r import banks, devices
from e2r.ahead import ahead
from e2r.configs import Config
from e2r.types import Array, Example


class Stream(NamedTuple):
    """Where a run's examples come from. A step's batch does not depend on the steps before."""

    batches: Callable[[int, int], Generator[Example]]
    """(first step, last step) -> the batches of these steps; of each, this process's rows"""
    names: Callable[[int], list[str]]
    """step -> the cases of its batch, of all processes"""


def keys(config: Config) -> Array:
    """The run's key, of which every step folds its number in."""
    return jax.random.fold_in(jax.random.key(config.seed), 2)


def of_bank(config: Config, bank: banks.Bank) -> Stream:
    """Examples drawn evenly from a bank."""
    size, key, count = config.optimisation.batch, keys(config), len(bank.names)

    @jax.jit
    def pick(step: Array) -> Array:
        k_batch, _ = jax.random.split(jax.random.fold_in(key, step))
        return jax.random.randint(k_batch, (size,), 0, count)

    def rows(step: int) -> np.ndarray:
        return np.asarray(pick(np.int32(step - 1)))

    def batches(first: int, last: int) -> Generator[Example]:
        mine = devices.mine(size)
        return ahead(lambda step: banks.draw(bank, rows(step)[mine]), range(first, last + 1))

    return Stream(batches, lambda step: [bank.names[row] for row in rows(step)])
