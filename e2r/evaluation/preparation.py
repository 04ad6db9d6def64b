"""Prepares a case for the device: samples, initial pose, level centres."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import trimesh

from e2r.config import EvaluationConfig, InitialPose
from e2r.datasets.case import Case, scored_targets, true_pose
from e2r.datasets.sampling import oracle_weights, sample_scene_points
from e2r.geometry import poses
from e2r.networks.build import NetworkConfig
from e2r.pipeline import PreparedCase, case_key
from e2r.types import Pose, Surface

STRICTER = 1.5
"""Logit above which the learnt mask of a second try keeps a point: where a mask takes other tissue
for bone, the points that it is surest of are bone more often."""


def stable_seed(text: str, number: int = 0) -> int:
    """The same small number for the same text, on every machine; each ``number`` has its own."""
    return zlib.crc32(text.encode(), number)


def read_initial_pose(start: InitialPose) -> Pose | None:
    """The pose in a start's file, or None for a named start.

    Raises:
      ValueError: neither a named start nor a readable file.
    """
    if start.kind in ("auto", "truth"):
        return None
    path = Path(start.kind)
    if not path.is_file():
        raise ValueError(f"--start {start.kind}: use auto, truth, or the path of a pose file")
    try:
        lines = path.read_text().strip()
        try:
            value = json.loads(lines)
        except json.JSONDecodeError:  # a file of predictions: its last line
            value = json.loads(lines.splitlines()[-1])
    except (UnicodeDecodeError, json.JSONDecodeError, IndexError, RecursionError):
        raise ValueError(f"{path}: is not JSON; write a 4x4 matrix, row-major") from None
    if isinstance(value, dict):
        value = value.get("T_camera_model")
    if isinstance(value, dict) and value:  # a prediction or truth file: one matrix a level,
        matrices = list(value.values())  # of which the middle one starts the whole model
        value = matrices[len(matrices) // 2]
    return poses.from_matrix(value, f"{path}: T_camera_model")


def prepare(
    case: Case,
    settings: NetworkConfig,
    *,
    surface: Surface,
    job: EvaluationConfig,
    given: Pose | None,
    within: np.ndarray | None,
    number: int = 0,
) -> PreparedCase:
    """Samples the cloud among some rows of the scene (all without them), and sets the start.

    Each ``number`` has other samples and draws; beyond 0 the learnt mask is stricter.

    Raises:
      ValueError: the start or a mask needs what the case does not have.
    """
    seed = stable_seed(case.id, number)
    seeds = np.array([job.seed % 2**32, seed], np.uint32)
    seen = sample_scene_points(
        case, settings, seed=seed, num_samples=job.num_samples, within=within
    )
    start = job.start
    begin = poses.identity() if given is None else given
    if start.kind == "truth":
        if not case.truth:
            raise ValueError(f"{case.id}: --start truth needs a truth.json; use --start auto")
        goals = np.concatenate(
            [
                np.asarray(poses.apply(case.truth[name], points.astype(np.float32)))
                for name, points in scored_targets(case).items()
            ]
        )
        begin = poses.perturb(
            case_key(seeds), true_pose(case), goals.mean(0), degrees=start.degrees, mm=start.mm
        )
    begin = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), begin)
    if "oracle" in job.masks:
        oracle = oracle_weights(case, seen.rows)
    else:
        oracle = np.zeros(seen.rows.shape, np.float32)
    centres = level_centres(case.model)
    exposed = np.ones(len(centres), bool)
    if case.exposed:
        exposed[: len(case.model)] = [name in case.exposed for name in case.model]
    return PreparedCase(
        seeds,
        seen.cloud,
        seen.pyramid,
        surface,
        begin,
        oracle,
        seen.rows,
        centres,
        exposed,
        np.float32(STRICTER * number),
    )


def level_centres(model: Mapping[str, trimesh.Trimesh]) -> np.ndarray:
    """Middle of each level (L, 3) mm; L is 6, 9 and so on, so that programs are shared."""
    centres = np.full((max(6, len(model) + -len(model) % 3), 3), np.nan, np.float32)
    centres[: len(model)] = [mesh.bounds.mean(0) for mesh in model.values()]
    return centres
