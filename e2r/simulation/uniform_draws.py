"""Uniform random numbers, drawn at once and used one after the other."""

from __future__ import annotations

import jax
import numpy as np

from e2r.types import Array, Bool, Float, PRNGKey


class UniformDraws:
    """A fixed number of uniform random numbers. One draw of all compiles faster than many.

    Args:
      key: consumed.
      count: numbers to draw.
    """

    def __init__(self, key: PRNGKey, count: int):
        self._unused = jax.random.uniform(key, (count,))

    def __call__(self, low: float, high: float, shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """The next numbers, uniform between ``low`` and ``high``, in the given shape.

        Raises:
          ValueError: no numbers are left.
        """
        size = int(np.prod(shape))
        if size > self._unused.shape[0]:
            raise ValueError("all random numbers are used; raise the count of UniformDraws")
        taken, self._unused = self._unused[:size], self._unused[size:]
        return low + (high - low) * taken.reshape(shape)

    def happens(
        self, probability: float | Float[Array, "..."], shape: tuple[int, ...] = ()
    ) -> Bool[Array, "..."]:
        """Whether something of the given probability happens; takes the next numbers."""
        return self(0.0, 1.0, shape) < probability
