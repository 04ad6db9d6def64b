"""Simulated cases and training examples; the differentiable core under its short names."""

from __future__ import annotations

import os

import jax

from e2r.datasets.case import Case
from e2r.datasets.case_folder import as_case
from e2r.geometry import surfaces
from e2r.networks.build import NetworkConfig
from e2r.registration.schedule import register_cloud
from e2r.runtime.compile_cache import enable_cache
from e2r.runtime.seeds import require_seed
from e2r.simulation import simulator
from e2r.training import examples
from e2r.training.losses import mean_target_error
from e2r.types import Example

CLOSE_UP = simulator.SimulationConfig(wound_fraction=(0.2, 0.8), min_bone_fraction=0.02)
"""The settings of :func:`simulate`: small frames, the wound in the foreground."""


def simulate(
    count: int = 1, *, seed: int = 0, config: simulator.SimulationConfig = CLOSE_UP
) -> list[Case]:
    """Simulates cases of open spine surgery, one specimen each, with truth and bone.

    Args:
      count: number of cases.
      seed: the same seed gives the same cases.
      config: image size, wound, posture, levels.

    Raises:
      ValueError: there is no such seed.
    """
    require_seed(seed)
    enable_cache()
    groups = simulator.simulate_specimens(
        jax.random.key(seed), config, specimens=count, frames=1, prefix=f"seed{seed}_"
    )
    return [case for group in groups for case in group]


def make_example(
    case: Case | str | os.PathLike[str], network: NetworkConfig = NetworkConfig(), *, seed: int = 0
) -> Example:
    """Makes a training example of a case: cloud, neighbours, surface, targets, true pose.

    Args:
      case: a case with a truth, or its folder.
      network: sizes of the cloud and its neighbourhoods.
      seed: draws the cloud's points, about the exposed bone, and the surface's samples.

    Raises:
      ValueError: the case cannot be read, or has no truth.
    """
    case = as_case(case)
    if case.truth is None:
        raise ValueError(f"{case.id}: has no truth.json, which an example needs")
    example = examples.make_example(case, network, seed=seed, cropped=True)
    surface = surfaces.build_surface(
        case.model, seed=seed, nodes=surfaces.PROJECTION_NODES, exact=False
    )
    return jax.tree.map(jax.numpy.asarray, example._replace(surface=surface))


icp = register_cloud
"""Registers a weighted cloud to a surface; see :func:`e2r.registration.schedule.register_cloud`."""
target_error = mean_target_error
"""Mean target registration error; see :func:`e2r.training.losses.mean_target_error`."""
