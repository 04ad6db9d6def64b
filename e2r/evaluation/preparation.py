"""Prepares a case for the device: samples, initial pose, level centres."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import jax
import numpy as np
import trimesh

from e2r.config import EvaluationConfig
from e2r.datasets.case import Case, scored_targets, true_pose
from e2r.datasets.sampling import SampledScene, oracle_weights
from e2r.geometry import poses
from e2r.pipeline import PreparedCase, case_key
from e2r.types import Float, Pose, Surface


def stable_seed(text: str, attempt: int = 0) -> int:
    """A small number that is the same for the same text on every machine.

    Args:
      text: for example a case's id.
      attempt: each attempt has another number.
    """
    return zlib.crc32(text.encode(), attempt)


def prepare_case(
    case: Case,
    sample: SampledScene,
    surface: Surface,
    *,
    job: EvaluationConfig,
    initial_pose: Pose | None = None,
    attempt: int = 0,
) -> PreparedCase:
    """Puts a case into the arrays that the device takes.

    Args:
      case: the case.
      sample: its scene points.
      surface: its model.
      job: masks and seed.
      initial_pose: camera from model; None: it is searched for.
      attempt: each attempt draws other random numbers.

    Raises:
      ValueError: a mask needs data that the case does not have.
    """
    seeds = _seeds(case, job, attempt)
    if initial_pose is not None:
        initial_pose = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), initial_pose)
    if "oracle" in job.program.masks:
        oracle = oracle_weights(case, sample.rows)
    else:
        oracle = np.zeros(sample.rows.shape, np.float32)
    centres = level_centres(case.model)
    exposed = np.ones(len(centres), bool)
    if case.exposed:
        exposed[: len(case.model)] = [name in case.exposed for name in case.model]
    return PreparedCase(
        seeds=seeds,
        cloud=sample.cloud,
        pyramid=sample.pyramid,
        surface=surface,
        initial_pose=initial_pose,
        oracle_weights=oracle,
        level_centres=centres,
        exposed=exposed,
    )


def _seeds(case: Case, job: EvaluationConfig, attempt: int) -> np.ndarray:
    return np.array([job.seed, stable_seed(case.id, attempt)], np.uint32)


def initial_pose(
    case: Case, job: EvaluationConfig, given: Pose | None, *, attempt: int = 0
) -> Pose | None:
    """The initial pose of a case, camera from model; None: it is searched for.

    Args:
      case: the case.
      job: says whether it is the true pose, perturbed.
      given: the pose from a file.
      attempt: each attempt draws other random numbers.

    Raises:
      ValueError: the true pose is asked for, and the case does not know it.
    """
    if job.start == "truth":
        return _perturbed_truth(case, job, _seeds(case, job, attempt))
    return given


def _perturbed_truth(case: Case, job: EvaluationConfig, seeds: np.ndarray) -> Pose:
    """The true pose, perturbed about the targets' centroid."""
    if not case.truth:
        raise ValueError(f"{case.id}: --start truth needs a truth.json; use --start auto")
    goals = np.concatenate(
        [
            np.asarray(poses.apply(case.truth[name], points.astype(np.float32)))
            for name, points in scored_targets(case).items()
        ]
    )
    return poses.perturb(
        case_key(seeds),
        true_pose(case),
        goals.mean(0),
        degrees=job.start_noise_deg,
        mm=job.start_noise_mm,
    )


def level_centres(model: Mapping[str, trimesh.Trimesh]) -> Float[np.ndarray, "l 3"]:
    """The centre of each level's bounding box, mm, padded with NaN.

    The number of rows is 6, 9, 12 and so on, so that models of similar size share programs.

    Args:
      model: level -> surface, mm, model frame.
    """
    centres = np.full((max(6, len(model) + -len(model) % 3), 3), np.nan, np.float32)
    centres[: len(model)] = [mesh.bounds.mean(0) for mesh in model.values()]
    return centres
