"""Looks at a frame: where the first is unsure of the wound, others follow, and the surest counts.

A wound fills a few hundredths of a picture, so some sixty points of a sample. Whether the network
finds it there depends on the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from e2r.datasets.case import Case
from e2r.datasets.sampling import SampledScene, sample_scene_points
from e2r.evaluation.preparation import stable_seed
from e2r.geometry import point_clouds, poses
from e2r.networks import region_of_interest
from e2r.networks.build import NetworkConfig
from e2r.pipeline import FirstLook
from e2r.types import Cloud, Int, Pose, Surface

UNSURE_INTEREST = 0.5
"""Largest logit of interest below which a look is unsure. Of the looks at 47 rendered frames, all
that were more than 100 mm off the wound lie below -4."""


class Look(NamedTuple):
    """One look at a frame."""

    sample: SampledScene  # one sample of the whole frame
    found: FirstLook  # the region of interest in it

    @property
    def cloud(self) -> Cloud:
        """The points of the sample."""
        return point_clouds.flatten_samples(self.sample.cloud)

    @property
    def interest(self) -> float:
        """The largest logit of interest: how sure the network is to see a wound."""
        return float(np.max(np.asarray(self.found.interest)[np.asarray(self.cloud.valid)]))


def split_looks(samples: Sequence[SampledScene], found: FirstLook) -> list[Look]:
    """The looks of a batch, one by one.

    Args:
      samples: of the frames.
      found: the batch's result, leading axis B, padding behind the samples.
    """
    found = jax.tree.map(np.asarray, found)
    return [
        Look(sample, jax.tree.map(lambda leaf, i=i: leaf[i], found))
        for i, sample in enumerate(samples)
    ]


def surest_look(
    case: Case,
    first: Look,
    *,
    look: Callable[[Sequence[SampledScene]], FirstLook],
    network: NetworkConfig,
    attempt: int,
    looks: int,
    batch: int,
) -> Look:
    """The first look where it is sure, else the surest of several.

    Args:
      case: the case.
      first: the first look at it.
      look: looks at a batch of samples.
      network: the size of a sample.
      attempt: each attempt draws other samples.
      looks: number of samples that are looked at.
      batch: size of a batch; the result does not depend on it.
    """
    if first.interest >= UNSURE_INTEREST:
        return first
    samples = [
        sample_scene_points(case, network, seed=stable_seed(f"{case.id}, look {number}", attempt))
        for number in range(1, looks)
    ]
    found = [first]
    for begin in range(0, len(samples), batch):
        some = samples[begin : begin + batch]
        found += split_looks(some, look(some))
    return max(found, key=lambda one: one.interest)


def rows_to_sample(
    case: Case, look: Look, *, surface: Surface, initial_pose: Pose | None, min_points: int
) -> Int[np.ndarray, "k"] | None:
    """Rows of the scene that the second look samples; None: all.

    They lie near the model where its initial pose is given, else where the first look finds a
    wound. So the network's opinion of a frame takes no point away from a registration from a start.

    Args:
      case: the case.
      look: where the wound may be.
      surface: the model.
      initial_pose: camera from model.
      min_points: fewer rows than this are too few.
    """
    if initial_pose is not None:
        placed = np.asarray(poses.apply(initial_pose, np.asarray(surface.points)))
        rows = region_of_interest.points_near_model(case.points, placed)
        return rows if len(rows) >= min_points else None
    return region_of_interest.crop(
        case.points,
        look.cloud,
        np.asarray(look.found.interest),
        centre=np.asarray(look.found.centre),
        min_points=min_points,
    )
