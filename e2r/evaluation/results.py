"""The result of one case in memory: :class:`Registered` or :class:`Failed`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import numpy as np

from e2r.datasets.case import Case
from e2r.evaluation.calibration import hypothesis_features, inlier_shares
from e2r.evaluation.frame_scale import FrameScale
from e2r.evaluation.metrics import CaseErrors
from e2r.evaluation.mirror_fit import MAX_GAIN
from e2r.evaluation.precision import LevelPrecision
from e2r.types import Cloud, Float, Hypotheses, Int, LevelPoses, Pose, Registration


class Failed(NamedTuple):
    """A case that could not be read or registered."""

    id: str
    message: str  # one sentence


class Registered(NamedTuple):
    """A case that was registered; P points of all samples together."""

    case: Case
    cloud: Cloud  # the P points
    rows: Int[np.ndarray, "p"]  # each point's row in the case; -1 where padded
    registrations: dict[str, Registration]  # mask name -> registration of the whole model
    levels: dict[str, LevelPoses]  # mask name -> one pose a level, or one pose for all levels
    hypotheses: dict[str, Hypotheses]  # mask name -> candidate poses of the whole model
    weights: dict[str, Float[np.ndarray, "p"]]  # mask name -> mask weights
    errors: dict[str, CaseErrors]  # mask name -> errors; empty without a truth
    scales: dict[str, FrameScale]  # mask name -> size of the frame over that of the model
    interest: float  # largest logit of the region of interest; below 0: no wound was found
    num_degenerate: int  # triangles of the model without area, which were left out
    seconds: float  # host's time on the case, and its share of the device's; nothing is compiled
    precisions: dict[str, LevelPrecision]  # mask name -> how well the points hold each level
    sticking_out: dict[str, Float[np.ndarray, "k"]]  # mask name -> share of each hypothesis
    mirror_gains: Mapping[str, float] = MappingProxyType({})  # mask name -> see mirror_fit

    def mask_points(self, mask: str) -> float:
        """The number of points that a mask keeps."""
        return float(self.weights[mask].sum())

    def is_mirrored(self, mask: str) -> bool:
        """Whether the mirror image of the model fits better than the model."""
        return self.mirror_gains.get(mask, 0.0) > MAX_GAIN

    def hypothesis_features(self, mask: str) -> Float[np.ndarray, "k 4"]:
        """The features of each hypothesis under a mask, for :mod:`e2r.evaluation.calibration`."""
        hypotheses = self.hypotheses[mask]
        return hypothesis_features(
            np.asarray(hypotheses.inlier_score),
            np.asarray(hypotheses.distinct),
            self.mask_points(mask),
            self.sticking_out[mask],
        )

    def inlier_share(self, mask: str) -> float:
        """The share of a mask's points that agrees with the best hypothesis, 0 to 1."""
        scores = np.asarray(self.hypotheses[mask].inlier_score)
        return float(inlier_shares(scores, self.mask_points(mask))[0])

    def evidence(self, mask: str) -> float:
        """How much the frame speaks for the best hypothesis, -1.5 to 1.5.

        The share of the mask that agrees, and half of its lead over the next hypothesis, less the
        share of the model that sticks out before the scene. It compares tries of one case, and
        needs no calibration.
        """
        share, lead, _, out = self.hypothesis_features(mask)[0].tolist()
        return float(share + 0.5 * lead - out)


def level_poses(case: Case, levels: LevelPoses) -> dict[str, Pose]:
    """The pose of each level of a case by name, camera from model.

    Args:
      case: the case.
      levels: one pose a level, padded; or one pose for all levels.
    """
    last = len(levels.pose.translation) - 1
    return {
        name: jax.tree.map(lambda leaf, i=i: leaf[min(i, last)], levels.pose)
        for i, name in enumerate(case.model)
    }
