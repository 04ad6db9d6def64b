"""One training example, made of a case whose true pose is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import numpy as np
import trimesh
from scipy.spatial import cKDTree

from e2r.config import TrainingConfig
from e2r.datasets.case import Case, scored_targets, true_pose
from e2r.datasets.sampling import sample_scene_points
from e2r.geometry import poses, surfaces
from e2r.networks import region_of_interest
from e2r.networks.build import NetworkConfig
from e2r.training.losses import INTEREST_RADIUS_MM
from e2r.types import Example, Float, Int, Surface, Targets

NUM_TARGETS = 96
"""Every example's targets are padded or thinned to this number."""
ROUND_CROP_SHARE = 0.2
"""Share of the cropped examples that show all points around the centre of the exposed bone."""


def make_targets(case: Case) -> Targets:
    """The targets of a case's scored levels, padded; of the exposed levels only, where given."""
    truth = case.truth
    if truth is None:
        raise ValueError(f"{case.id}: has no truth, so it has no targets; add truth.json")
    scored = scored_targets(case)
    exposed = [level for level in case.exposed or () if level in scored]
    levels = exposed or list(scored)
    points = np.concatenate([scored[level] for level in levels])
    goals = np.concatenate(
        [
            np.asarray(poses.apply(truth[level], scored[level].astype(np.float32)))
            for level in levels
        ]
    )
    if len(points) > NUM_TARGETS:
        kept = np.linspace(0, len(points) - 1, NUM_TARGETS).astype(int)
        points, goals = points[kept], goals[kept]
    padding = ((0, NUM_TARGETS - len(points)), (0, 0))
    return Targets(
        np.pad(points, padding).astype(np.float32),
        np.pad(goals, padding).astype(np.float32),
        np.arange(NUM_TARGETS) < len(points),
    )


def make_example(case: Case, network: NetworkConfig, *, seed: int, cropped: bool) -> Example:
    """A training example of a case with a truth, still without its surface.

    Args:
      case: the case.
      network: sizes of the cloud.
      seed: of the sample, and of the crop.
      cropped: show only the surroundings of the exposed bone, as the second look of inference
        does; else the whole frame, as the first look does.
    """
    targets = make_targets(case)
    rows = None
    if cropped:
        rows = _crop(case.points, targets, np.random.default_rng([seed, 1]))
        if len(rows) < network.points // 4:
            rows = None
    sampled = sample_scene_points(case, network, seed=seed, within=rows)
    cloud, pyramid = jax.tree.map(lambda leaf: leaf[0], (sampled.cloud, sampled.pyramid))
    return Example(cloud, pyramid, None, targets, true_pose(case))  # type: ignore[arg-type]


def _crop(
    points: Float[np.ndarray, "n 3"], targets: Targets, rng: np.random.Generator
) -> Int[np.ndarray, "m"]:
    """Rows of the points near a target, within a random distance: first looks differ, too.

    A share of the crops takes all points around the centre, as where a first look finds little.
    """
    distance = INTEREST_RADIUS_MM * rng.uniform(0.75, 2.0)
    nearest, _ = cKDTree(targets.goals[targets.valid]).query(points, distance_upper_bound=distance)
    rows = np.flatnonzero(np.isfinite(nearest))
    if len(rows) and rng.uniform() < ROUND_CROP_SHARE:
        centre = points[rows].mean(0) + rng.normal(0.0, 12.0, 3)
        rows = region_of_interest.points_within(
            points, centre, rng.uniform(0.75, 1.1) * region_of_interest.ROI_RADIUS_MM
        )
    return rows


def make_surface(model: Mapping[str, trimesh.Trimesh], config: TrainingConfig) -> Surface:
    """The surface of a model, as training uses it."""
    return surfaces.build_surface(
        model, seed=config.seed, nodes=config.scenes.nodes, exact=config.schedule.needs_triangles
    )


def stack_examples(examples: Sequence[Example]) -> Example:
    """Examples as one, with a leading axis; on the host."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *examples)


def shape_example(network: NetworkConfig) -> Example:
    """An example without a surface, of the right shapes; its numbers mean nothing."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(network.points, 3)) + np.array([0.0, 0.0, 500.0])
    case = Case(id="shape", model={}, points=points, colors=np.zeros_like(points), normals=points)
    sampled = sample_scene_points(case, network, seed=0)
    cloud, pyramid = jax.tree.map(lambda leaf: leaf[0], (sampled.cloud, sampled.pyramid))
    zeros = np.zeros((NUM_TARGETS, 3))
    targets = Targets(zeros, zeros, np.zeros(NUM_TARGETS, bool))
    return Example(cloud, pyramid, None, targets, poses.identity())  # type: ignore[arg-type]
