"""Simulated scenes that a training run never draws, on which it is watched.

The scenes, their initial poses and their number are fixed by the run's seed and settings. They
share no specimen with training, calibration or evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from e2r.config import OptimisationConfig, TrainingConfig
from e2r.datasets.case import Case
from e2r.networks import mask_estimators
from e2r.networks.build import build_mask_network
from e2r.pipeline import ProgramConfig
from e2r.registration.schedule import register_cloud
from e2r.simulation import simulator
from e2r.training import losses, sources
from e2r.training.examples import stack_examples
from e2r.training.problems import draw_initial_pose
from e2r.types import Array, Example, Float, Int, Params, Pose, Surface

SPECIMENS, FRAMES = 8, 2
"""Specimens of the held-out set, at most as many as in training, and scenes of each."""
SUCCESS_MM = 2.0
"""A scene is a success where its TRE is below this, mm."""


class HeldOutFigures(NamedTuple):
    """Figures over the held-out set."""

    tre_mm: Float[Array, ""]  # median TRE after the last registration step
    start_mm: Float[Array, ""]  # median TRE of the initial poses; the same at every step
    success_2mm: Float[Array, ""]  # share of the scenes whose TRE is below SUCCESS_MM


def make_held_out(
    config: TrainingConfig, *, specimens: int | None = None, frames: int = FRAMES
) -> Callable[[Params], HeldOutFigures]:
    """Simulates the held-out set, and gives the compiled function that registers it.

    Scenes, samples and initial poses have the settings of the training's own, and each shows a crop
    about its bone. There is no other view and no other colour, and the mask is deterministic.

    Args:
      config: of the run.
      specimens: number of specimens; :data:`SPECIMENS` by default, or as many as the training has.
      frames: scenes of each.
    """
    specimens = specimens or min(SPECIMENS, config.scenes.specimens)
    cases = simulator.held_out_cases(
        config.scenes.simulation,
        specimens=specimens,
        frames=frames,
        seed=config.seed,
        kind=simulator.WATCHED,
    )
    return watch(cases, config, total=specimens * frames)


def watch(
    cases: Iterable[Case], config: TrainingConfig, *, total: int | None = None
) -> Callable[[Params], HeldOutFigures]:
    """The compiled function that registers some cases, from initial poses near the true ones.

    Args:
      cases: with a truth, which the training does not see.
      config: of the run.
      total: number of cases, for the progress bar.
    """
    bank = sources.from_cases(
        cases, config, total=total, what="held-out scenes", whole_frames=False
    )
    examples = stack_examples([bank.read(row, row) for row in range(len(bank))])
    key = jax.random.fold_in(jax.random.key(config.seed), simulator.WATCHED)
    starts = initial_poses(key, examples, config.optimisation)
    rows = np.asarray(bank.surface_rows, np.int32)
    evaluate = jax.jit(partial(held_out_figures, config=config))
    return lambda params: evaluate(params, examples, bank.surfaces, rows, starts)


def initial_poses(key: Array, examples: Example, options: OptimisationConfig) -> Pose:
    """An initial pose of each example, near its true one; on the host.

    Args:
      key: consumed.
      examples: leading axis B.
      options: noise of the initial pose.
    """
    keys = jax.random.split(key, len(examples.pose.translation))
    draw = jax.jit(jax.vmap(partial(draw_initial_pose, options=options)))
    poses: Pose = jax.tree.map(np.asarray, draw(keys, examples.pose, examples.targets))
    return poses


def held_out_figures(
    params: Params,
    examples: Example,
    surfaces: Surface,
    surface_rows: Int[Array, "b"],
    starts: Pose,
    *,
    config: TrainingConfig,
) -> HeldOutFigures:
    """Registers the held-out set; pure.

    Args:
      params: of both networks.
      examples: without their surfaces, leading axis B.
      surfaces: the different ones, leading axis M.
      surface_rows: index of each example's surface.
      starts: initial poses, leading axis B.
      config: of the run.
    """

    def register(item: tuple[Example, Array, Pose]) -> tuple[Array, Array]:
        example, row, start = item
        surface = jax.tree.map(lambda leaf: jnp.asarray(leaf)[row], surfaces)
        output = build_mask_network(config.network).apply(
            params["mask"], example.cloud, example.pyramid
        )
        logits = mask_estimators.ensure_keep_ratio(
            output.logits, example.cloud.valid, ProgramConfig().min_keep_ratio
        )
        weights = (logits > 0).astype(logits.dtype)  # mask_estimators.deterministic needs a key
        found = register_cloud(example.cloud, weights, surface, start, config.schedule)
        return (
            losses.mean_target_error(found.pose, example.targets),
            losses.mean_target_error(start, example.targets),
        )

    count = surface_rows.shape[0]
    tre, start_tre = jax.lax.map(
        register,
        (examples, surface_rows, starts),
        batch_size=math.gcd(count, config.optimisation.batch),  # a remainder compiles twice
    )
    return HeldOutFigures(
        tre_mm=jnp.median(tre),
        start_mm=jnp.median(start_tre),
        success_2mm=jnp.mean((tre < SUCCESS_MM).astype(tre.dtype)),
    )
