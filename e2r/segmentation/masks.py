"""From logits to the weights of a registration. Estimators share the type ``MaskEstimator``."""

from __future__ import annotations

import jax

from e2r.types import Array


def soft(key: Array, logits: Array) -> jax.Array:
    """The keep probability itself; the key is not used."""
    del key
    return jax.nn.sigmoid(logits)


def deterministic(key: Array, logits: Array) -> jax.Array:
    """Keeps a point when its probability exceeds one half: the mask of evaluation. No gradient."""
    del key
    return (logits > 0).astype(logits.dtype)


def gumbel_straight_through(key: Array, logits: Array, *, temperature: float = 1.0) -> jax.Array:
    """A sampled binary mask whose gradient is that of its relaxation.

    Two-class Gumbel-softmax, which is a sigmoid of logits plus logistic noise (Jang et al.,
    ICLR 2017, eq. 1; straight-through, section 2.2). Biased: the backward pass pretends that the
    mask was the relaxed one.

    Args:
      key: consumed.
      logits: (N,).
      temperature: of the relaxation.

    Returns:
      (N,) of zeros and ones.
    """
    noise = jax.random.logistic(key, logits.shape, logits.dtype)
    relaxed = jax.nn.sigmoid((logits + noise) / temperature)
    hard = (relaxed > 0.5).astype(logits.dtype)
    return relaxed + jax.lax.stop_gradient(hard - relaxed)
