"""One prepared case from sampled points to poses. Pure; batch by ``vmap``."""

from __future__ import annotations

from typing import NamedTuple

import jax

from e2r.types import Array, Cloud, Hypotheses, LevelPoses, Pose, Pyramid, Registration, Surface


class PreparedCase(NamedTuple):
    """A case, ready for the device."""

    seeds: Array  # (2,) uint32: the job's, the case's own
    cloud: Cloud  # leading axis V, the views
    pyramid: Pyramid  # leading axis V
    surface: Surface
    start: Pose  # where to begin; the identity where the start is automatic
    oracle: Array  # (V, N) weights of the oracle mask; zeros unless it is asked for
    rows: Array  # (V, N) row of each point in the case, -1 where padded
    centres: Array  # (L, 3) mm, middle of each level in the model frame; padded with NaN
    exposed: Array  # (L,) bool: levels that may lie in the wound
    threshold: Array  # () logit above which the learnt mask keeps a point


def case_key(seeds: Array) -> Array:
    """The key of a case in a job, by the seeds (2,) of both."""
    return jax.random.fold_in(jax.random.key(seeds[0]), seeds[1])


class CasePredictions(NamedTuple):
    """What the device returns; mask name -> result."""

    whole: dict[str, Registration]
    levels: dict[str, LevelPoses]
    hypotheses: dict[str, Hypotheses]
    weights: dict[str, Array]
