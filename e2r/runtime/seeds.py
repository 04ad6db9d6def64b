"""Seeds: what a random key can be made of."""

from __future__ import annotations

MAX_SEED = 2**32 - 1
"""JAX takes a larger seed for a smaller one, or raises an exception of its own."""


def require_seed(seed: int) -> None:
    """Refuses a seed that JAX would take for another.

    Args:
      seed: of a command or a configuration.

    Raises:
      ValueError: it is negative or larger than :data:`MAX_SEED`.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"--seed is {seed}; use 0 to {MAX_SEED}")
