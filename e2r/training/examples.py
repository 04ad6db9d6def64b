"""Scenes held in memory for training: made, drawn from, augmented."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import trimesh
from scipy.spatial import cKDTree
from tqdm import tqdm

from e2r.config import TrainingConfig
from e2r.datasets import case_folder
from e2r.datasets.case import Case, scored_targets, true_pose
from e2r.datasets.sampling import sample_scene_points
from e2r.geometry import poses, surfaces
from e2r.networks import region_of_interest
from e2r.networks.build import NetworkConfig
from e2r.simulation import simulator
from e2r.training import losses
from e2r.types import Array, Example, Pose, Surface, Targets

NUM_TARGETS = 96
"""Targets of an example, padded or thinned to this."""
ROUND_CROP_SHARE = 0.2
"""Share of the close looks that take all about the middle."""
WHOLE_FRAME_EVERY = 3
"""Every so many examples one shows the whole frame, as the first look of inference does."""


class ExampleBank(NamedTuple):
    """Scenes held in memory: examples with a leading axis, models once a specimen."""

    examples: Example  # surface: None
    surfaces: Surface
    specimen: Array  # (scenes,) int32, row of `surfaces`
    names: tuple[str, ...]  # (scenes,) of the cases


def make_targets(case: Case) -> Targets:
    """The points a case is judged at, in both frames, padded; of exposed levels, if it says so."""
    model, goals = [], []
    scored = scored_targets(case)
    shown = [name for name in case.exposed or () if name in scored]
    for name in shown or scored:
        points = scored[name]
        model.append(points)
        goals.append(np.asarray(poses.apply(case.truth[name], points.astype(np.float32))))  # type: ignore[index]
    rows, ends = np.concatenate(model), np.concatenate(goals)
    if len(rows) > NUM_TARGETS:
        pick = np.linspace(0, len(rows) - 1, NUM_TARGETS).astype(int)
        rows, ends = rows[pick], ends[pick]
    pad = ((0, NUM_TARGETS - len(rows)), (0, 0))
    return Targets(
        np.pad(rows, pad).astype(np.float32),
        np.pad(ends, pad).astype(np.float32),
        np.arange(NUM_TARGETS) < len(rows),
    )


def make_example(case: Case, settings: NetworkConfig, *, seed: int, close: bool) -> Example:
    """A training example of a case that has a truth, without its surface.

    Args:
      case: the scene.
      settings: sizes.
      seed: of the sample, and of the place looked at.
      close: look at about the exposed bone only, as the second look of inference does.
    """
    targets = make_targets(case)
    within = None
    if close:
        within = _close(case.points, targets, np.random.default_rng([seed, 1]))
        if len(within) < settings.points // 4:
            within = None
    seen = sample_scene_points(case, settings, seed=seed, within=within)
    cloud, pyramid = jax.tree.map(lambda leaf: leaf[0], (seen.cloud, seen.pyramid))
    return Example(cloud, pyramid, None, targets, true_pose(case))  # type: ignore[arg-type]


def _close(points: np.ndarray, targets: Targets, rng: np.random.Generator) -> np.ndarray:
    """Rows near a target, by a reach that differs as what a first look finds does; or now and then
    all about their middle, as where a first look finds little."""
    reach = losses.INTEREST_RADIUS_MM * rng.uniform(0.75, 2.0)
    apart, _ = cKDTree(targets.goals[targets.valid]).query(points, distance_upper_bound=reach)
    rows = np.flatnonzero(np.isfinite(apart))
    if len(rows) and rng.uniform() < ROUND_CROP_SHARE:
        centre = points[rows].mean(0) + rng.normal(0.0, 12.0, 3)
        rows = region_of_interest.points_within(
            points, centre, rng.uniform(0.75, 1.1) * region_of_interest.ROI_RADIUS_MM
        )
    return rows


def make_bank(
    groups: Iterable[Iterable[Case]], config: TrainingConfig, *, total: int | None = None
) -> ExampleBank:
    """Prepares scenes for training.

    Args:
      groups: cases that share one model, a group a specimen.
      config: network and scene sizes.
      total: number of groups, for the progress bar.
    """
    examples: list[Example] = []
    models: list[Surface] = []
    specimen: list[int] = []
    names: list[str] = []
    for group in tqdm(groups, total=total, desc="scenes", unit="specimen"):
        for number, case in enumerate(group):
            if number == 0:
                models.append(make_surface(case.model, config))
            looks = (True, False) if len(examples) % WHOLE_FRAME_EVERY == 0 else (True,)
            for close in looks:
                examples.append(make_example(case, config.network, seed=len(examples), close=close))
                specimen.append(len(models) - 1)
                names.append(case.id)
    stacked = surfaces.stack(models)
    return ExampleBank(
        stack_examples(examples), stacked, np.array(specimen, np.int32), tuple(names)
    )


def stack_examples(examples: Sequence[Example]) -> Example:
    """Examples as one, with a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *examples)


def simulated_bank(config: TrainingConfig) -> ExampleBank:
    """The scenes that ``config`` describes; the same for the same seed."""
    settings = config.scenes
    groups = simulator.simulate_specimens(
        jax.random.fold_in(jax.random.key(config.seed), 1),
        settings.simulation,
        specimens=settings.specimens,
        frames=settings.frames,
        prefix="train",
    )
    return make_bank(groups, config, total=settings.specimens)


def bank_from_folder(
    folder: Path, config: TrainingConfig, *, without: Collection[str] = ()
) -> ExampleBank:
    """Scenes from case folders; cases of one model that follow each other share it.

    Args:
      folder: of the cases.
      config: network and scene sizes.
      without: sources (specimens, sequences) to leave out.

    Raises:
      ValueError: a case is broken or has no truth to learn from, or all are left out.
    """
    paths = find_training_cases(folder, without=without)
    groups = itertools.groupby(
        map(read_training_case, paths), key=lambda case: surfaces.fingerprint(case.model)
    )
    return make_bank((group for _, group in groups), config)


def find_training_cases(folder: Path, *, without: Collection[str] = ()) -> list[Path]:
    """The cases of a folder but for those of some sources.

    Raises:
      ValueError: there are none.
    """
    paths = [
        path
        for path in case_folder.find_cases(folder)
        if case_folder.read_source(path) not in without
    ]
    if not paths:
        raise ValueError(f"{folder}: holds no case of another source to train on; add one")
    return paths


def read_training_case(path: Path) -> Case:
    """A case to train on.

    Raises:
      ValueError: it is broken, or has no truth to learn from.
    """
    case = case_folder.read_case(path)
    if case.truth is None:
        raise ValueError(f"{path}: has no truth.json, which training needs; leave it out")
    return case


def make_surface(model: Mapping[str, trimesh.Trimesh], config: TrainingConfig) -> Surface:
    """The search lattice of a model, as training uses it."""
    return surfaces.build(
        model,
        seed=config.seed,
        nodes=config.scenes.nodes,
        exact=config.schedule.correspondence == "closest",
    )


def draw_examples(bank: ExampleBank, rows: np.ndarray) -> Example:
    """These examples of the bank, with their surfaces; on the host."""
    models = bank.specimen[rows]
    examples = jax.tree.map(lambda leaf: leaf[rows], bank.examples)
    return examples._replace(surface=jax.tree.map(lambda leaf: leaf[models], bank.surfaces))


def augment_example(key: Array, example: Example) -> Example:
    """Turns the scene about its middle (any roll, a little tilt) and changes its colours.

    Light, lamps and cameras differ: gain of each channel and of all, contrast, saturation.
    """
    k_roll, k_tilt, k_gain = jax.random.split(key, 3)
    valid = example.cloud.valid[:, None]
    centre = jnp.sum(jnp.where(valid, example.cloud.points, 0.0), 0) / jnp.maximum(valid.sum(), 1)
    roll = jax.random.uniform(k_roll, (), maxval=2 * jnp.pi)
    tilt = jnp.deg2rad(8.0) * jax.random.normal(k_tilt, (2,))
    still = jnp.zeros(3)
    spin = Pose(poses.exp_rotation(jnp.stack([0.0 * roll, 0.0 * roll, roll])), still)
    lean = Pose(poses.exp_rotation(jnp.append(tilt, 0.0)), still)
    motion = poses.about(poses.compose(lean, spin), centre)
    k_gain, k_contrast, k_saturation = jax.random.split(k_gain, 3)
    gain = jnp.exp(0.15 * jax.random.normal(k_gain, (4,)))
    power = jnp.exp(0.15 * jax.random.normal(k_contrast))
    colors = jnp.clip(example.cloud.colors * gain[:3] * gain[3], 0.0, 1.0)
    colors = jnp.maximum(colors, 1e-4) ** power
    grey = jnp.mean(colors, axis=1, keepdims=True)
    colors = grey + jax.random.uniform(k_saturation, minval=0.5, maxval=1.2) * (colors - grey)
    colors = jnp.clip(colors, 0.0, 1.0)
    cloud = example.cloud._replace(
        points=poses.apply(motion, example.cloud.points),
        normals=poses.rotate(motion, example.cloud.normals),
        colors=colors,
    )
    targets = example.targets._replace(goals=poses.apply(motion, example.targets.goals))
    return example._replace(cloud=cloud, targets=targets, pose=poses.compose(motion, example.pose))


def shape_example(settings: NetworkConfig) -> Example:
    """An example with the shapes of ``settings`` and meaningless numbers, without a surface."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(settings.points, 3)) + np.array([0.0, 0.0, 500.0])
    case = Case(id="shape", model={}, points=points, colors=np.zeros_like(points), normals=points)
    seen = sample_scene_points(case, settings, seed=0)
    cloud, pyramid = jax.tree.map(lambda leaf: leaf[0], (seen.cloud, seen.pyramid))
    targets = Targets(
        np.zeros((NUM_TARGETS, 3)), np.zeros((NUM_TARGETS, 3)), np.zeros(NUM_TARGETS, bool)
    )
    return Example(cloud, pyramid, None, targets, poses.identity())  # type: ignore[arg-type]
