"""One prepared case, from sampled scene points to poses. Pure; batch by ``vmap``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt

from e2r.geometry import point_clouds
from e2r.networks import mask_estimators, region_of_interest
from e2r.networks.build import NetworkConfig, apply_mask_network
from e2r.networks.mask_network import MaskOutput
from e2r.registration import global_search, iterate
from e2r.registration.levels import register_levels
from e2r.registration.schedule import Schedule, apply_mask, run_schedule
from e2r.runtime.registry import PluginName, settle_plugins
from e2r.types import (
    Array,
    Bool,
    Cloud,
    Float,
    Hypotheses,
    LevelPoses,
    MaskEstimator,
    Params,
    Pose,
    PRNGKey,
    Pyramid,
    Registration,
    Surface,
)

MASKS = ("all", "learnt", "oracle")
"""The masks of an evaluation: every point, the network's choice, the true bone."""


@dataclass(frozen=True)
class ProgramConfig:
    """The settings that a compiled program depends on."""

    masks: tuple[str, ...] = ("learnt",)
    """masks to register under: all, learnt, oracle (true bone; simulated cases only)"""
    estimator: PluginName = "soft"
    """how logits become weights of the learnt mask: deterministic, an estimator of training, or
    module:function"""
    mask_threshold: float = 1.0
    """logit that counts as zero: there the soft mask weighs a point by one half"""
    schedule: Schedule = Schedule()
    search: global_search.SearchConfig = global_search.SearchConfig()
    num_samples: int = 2
    """disjoint samples of the scene; each has the network's number of points"""
    max_points: int = 2048
    """largest number of a mask's points that are registered"""
    min_keep_ratio: float = 0.1
    """smallest share of the points that the learnt mask keeps, the most probable first"""
    per_level: bool = True
    """refine one pose a level, for a spine that is not bent as in the scan"""

    def __post_init__(self) -> None:
        settle_plugins(self, "program", estimator=mask_estimators.EVALUATION_ESTIMATORS)
        if not self.masks:
            raise ValueError("--masks is empty; give at least one mask")
        for name in self.masks:
            if name not in MASKS:
                raise ValueError(f"--masks {name!r}: use some of {', '.join(MASKS)}")
        if not 0 <= self.min_keep_ratio < 1:
            raise ValueError(
                f"--min-keep-ratio is {self.min_keep_ratio}; use a share, 0 to below 1"
            )
        if not np.isfinite(self.mask_threshold):
            raise ValueError(f"--mask-threshold is {self.mask_threshold}; use a number")
        for name, value in (("--num-samples", self.num_samples), ("--max-points", self.max_points)):
            if value < 1:
                raise ValueError(f"{name} is {value}; use 1 or more")

    def mask_estimator(self) -> MaskEstimator:
        """The mask estimator that is named."""
        return mask_estimators.EVALUATION_ESTIMATORS.find(self.estimator)

    def reached_code(self) -> tuple[Any, ...]:
        """The function that is named, for :mod:`e2r.runtime.code_digest`."""
        return (self.mask_estimator(),)


class PreparedCase(NamedTuple):
    """One case as arrays for the device: S samples of N points each, L levels."""

    seeds: UInt[Array, "2"]  # uint32: the job's seed, the case's seed
    cloud: Cloud  # leading axis S
    pyramid: Pyramid  # leading axis S
    surface: Surface
    initial_pose: Pose | None  # camera from model; None: a global search finds the pose
    oracle_weights: Float[Array, "s n"]  # of the oracle mask; zeros unless the job asks for it
    level_centres: Float[Array, "l 3"]  # mm, model frame; NaN where padded
    exposed: Bool[Array, "l"]  # levels that may lie in the wound


class FirstLook(NamedTuple):
    """The network's guess of where the wound is."""

    interest: Float[Array, "p"]  # logit of each point of the first sample
    centre: Float[Array, "3"]  # mm, camera frame: centre of the region of interest


class CasePredictions(NamedTuple):
    """The results of one case, by name of the mask."""

    registrations: dict[str, Registration]  # of the whole model
    levels: dict[str, LevelPoses]
    hypotheses: dict[str, Hypotheses]  # of the whole model
    weights: dict[str, Float[Array, "p"]]  # of the points of all samples


def case_key(seeds: UInt[Array, "2"]) -> PRNGKey:
    """The random key of a case in a job.

    Args:
      seeds: the job's seed and the case's seed.
    """
    return jax.random.fold_in(jax.random.key(seeds[0]), seeds[1])


def first_look(
    params: Params, cloud: Cloud, pyramid: Pyramid, *, network: NetworkConfig
) -> FirstLook:
    """Finds the region of interest in a first sample of the scene.

    Args:
      params: the networks' parameters.
      cloud: the samples of the first look, leading axis S.
      pyramid: their neighbours, leading axis S.
      network: the networks' settings.
    """
    interest = apply_mask_network(network, params, cloud, pyramid).interest
    centre = region_of_interest.locate(point_clouds.flatten_samples(cloud), interest)
    return FirstLook(interest, centre)


def register_case(
    params: Params, prepared: PreparedCase, *, network: NetworkConfig, program: ProgramConfig
) -> CasePredictions:
    """Registers one case under each mask of the program.

    Args:
      params: the networks' parameters.
      prepared: the case; without an initial pose, the pose is searched for.
      network: the networks' settings.
      program: masks, search and schedule.
    """
    key, cloud = case_key(prepared.seeds), point_clouds.flatten_samples(prepared.cloud)
    output = apply_mask_network(network, params, prepared.cloud, prepared.pyramid)
    weights, logits = _stacked_masks(key, prepared, output, program=program)

    def register_mask(mask: tuple[Array, Array]) -> tuple[Registration, LevelPoses, Hypotheses]:
        mask_weights, mask_logits = mask
        masked = iterate.top_weighted(apply_mask(cloud, mask_weights), program.max_points)
        if prepared.initial_pose is None:
            whole, hypotheses = global_search.search(
                key,
                global_search.ObservedScene(cloud, masked, output._replace(logits=mask_logits)),
                prepared.surface,
                exposed=prepared.exposed,
                params=params,
                network=network,
                schedule=program.schedule,
                config=program.search,
            )
        else:
            whole = run_schedule(masked, prepared.surface, prepared.initial_pose, program.schedule)
            hypotheses = global_search.single_hypothesis(
                masked, prepared.surface, whole, exposed=prepared.exposed, config=program.search
            )
        if program.per_level:
            levels = register_levels(
                masked,
                prepared.surface,
                whole,
                centres=prepared.level_centres,
                schedule=program.schedule,
            )
        else:
            first = jax.tree.map(lambda leaf: leaf[None], whole)
            levels = LevelPoses(first.pose, first.inlier_weight, first.residual)
        return whole, levels, hypotheses

    # A loop, so that XLA compiles one registration for all masks.
    stacked = jax.lax.map(register_mask, (weights, logits))
    by_mask = [
        {
            name: jax.tree.map(lambda leaf, i=i: leaf[i], tree)
            for i, name in enumerate(program.masks)
        }
        for tree in (*stacked, weights)
    ]
    return CasePredictions(*by_mask)


def _stacked_masks(
    key: PRNGKey, prepared: PreparedCase, output: MaskOutput, *, program: ProgramConfig
) -> tuple[Float[Array, "m p"], Float[Array, "m p"]]:
    """Weights of the program's masks, and the logits by which the coarse stage draws its points."""
    cloud = point_clouds.flatten_samples(prepared.cloud)
    learnt = mask_estimators.ensure_keep_ratio(
        output.logits - program.mask_threshold, cloud.valid, program.min_keep_ratio
    )
    weights = {
        "all": jnp.ones(cloud.points.shape[0]),
        "oracle": prepared.oracle_weights.reshape(-1),
        # the search splits the key in two, and child i of a split is fold_in(key, i)
        "learnt": program.mask_estimator()(jax.random.fold_in(key, 2), learnt),
    }
    logits = [
        output.logits if name == "learnt" else jnp.where(weights[name] > 0.5, 4.0, -9.0)
        for name in program.masks
    ]
    valid_weights = [jnp.where(cloud.valid, weights[name], 0.0) for name in program.masks]
    return jnp.stack(valid_weights), jnp.stack(logits)
