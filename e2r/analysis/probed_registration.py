"""The registration of one case whose gradient is probed: initial pose, mask and error."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from e2r.analysis import gradient_paths
from e2r.analysis.stages import StageConfig
from e2r.geometry import poses
from e2r.networks import mask_estimators
from e2r.networks.build import build_mask_network
from e2r.registration.schedule import apply_mask, run_schedule
from e2r.training import losses
from e2r.types import Array, Example, Float, Int, Params, Pose, PRNGKey


class ProbeKeys(NamedTuple):
    """The random keys of the probes."""

    start: PRNGKey
    order: PRNGKey
    stages: PRNGKey
    masks: PRNGKey


class ProbedRegistration(NamedTuple):
    """The registration of one case under the soft mask, from near the true pose."""

    config: StageConfig
    params: Params  # of both networks
    example: Example
    centres: Float[Array, "l 3"]  # of the levels, mm, model frame
    error_scale_mm: float  # of the training loss
    keys: ProbeKeys
    start: Pose  # initial pose, camera from model
    logits: Float[Array, "n"]  # of the mask
    weights: Float[Array, "n"]  # of the mask
    order: Int[Array, "m"]  # the valid points in random order

    def trajectory(self, weights: Float[Array, "n"], start: Pose) -> Pose:
        """The pose after each step, from an initial pose and under a mask."""
        masked = apply_mask(self.example.cloud, weights)
        return run_schedule(masked, self.example.surface, start, self.config.schedule).trajectory

    def final_tre(self, weights: Float[Array, "n"], start: Pose) -> Float[Array, ""]:
        """TRE after the last step, mm."""
        return gradient_paths.final_error(self.example.targets)(self.trajectory(weights, start))

    def loss(self, weights: Float[Array, "n"]) -> Float[Array, ""]:
        """The training loss under a mask."""
        return losses.trajectory_loss(
            self.trajectory(weights, self.start),
            self.example.targets,
            error_scale_mm=self.error_scale_mm,
        )


def make_probed_registration(
    seed: int,
    example: Example,
    params: Params,
    *,
    config: StageConfig,
    centres: Float[Array, "l 3"],
    error_scale_mm: float,
    degrees: float,
    mm: float,
) -> ProbedRegistration:
    """Draws an initial pose near the true one, and computes the mask.

    Args:
      seed: of all random numbers.
      example: the case.
      params: of both networks.
      config: of the networks and the registration.
      centres: of the levels, mm, model frame.
      error_scale_mm: of the training loss.
      degrees: standard deviation of the initial pose's rotation per axis.
      mm: standard deviation of its translation per axis.
    """
    keys = ProbeKeys(*jax.random.split(jax.random.key(seed), 4))
    cloud, targets = example.cloud, example.targets
    centre = jnp.mean(targets.goals[np.asarray(targets.valid)], axis=0)
    start = poses.perturb(keys.start, example.pose, centre, degrees=degrees, mm=mm)
    network = build_mask_network(config.network)
    logits = jax.jit(network.apply)(params["mask"], cloud, example.pyramid).logits
    weights = mask_estimators.soft(keys.masks, logits)
    order = jax.random.permutation(keys.order, np.flatnonzero(cloud.valid))
    return ProbedRegistration(
        config, params, example, centres, error_scale_mm, keys, start, logits, weights, order
    )


def in_double_precision(tree: Any) -> Any:
    """A pytree on the device, with float64 in place of float32; call it where x64 is on."""

    def convert(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)
        return leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf

    return jax.tree.map(convert, tree)
