"""The compiled programs of an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from e2r.config import EvaluationConfig
from e2r.geometry import point_clouds
from e2r.networks import mask_estimators, region_of_interest
from e2r.networks.build import NetworkConfig, apply_mask_network
from e2r.pipeline import CasePredictions, PreparedCase, case_key
from e2r.registration import global_search, iterate
from e2r.registration.levels import register_levels
from e2r.registration.schedule import apply_mask, run_schedule
from e2r.runtime import sharding
from e2r.runtime.compile_cache import CachedProgram
from e2r.types import Array, Cloud, Hypotheses, LevelPoses, Params, Pyramid, Registration


class Programs(NamedTuple):
    """The compiled programs of a job; each takes the parameters and a batch."""

    glance: Callable[..., tuple[Array, Array]]
    """(params, cloud, pyramid) of a first look -> interest (B, V * N), and its middle (B, 3) mm"""
    predict: Callable[..., CasePredictions]
    """(params, prepared cases) -> what they come to"""
    over: Mesh


def compile_programs(
    settings: NetworkConfig, job: EvaluationConfig, *, fast_compile: bool = False
) -> Programs:
    """The compiled programs: a first look, and a registration and the weights for each mask.

    Each takes a batch, divided among this process's devices.

    Args:
      settings, job: of the network and the evaluation.
      sooner: for a case or two: compiled in half the time, and half as fast.
    """
    return _programs(settings, job.compiled, fast_compile)


@lru_cache(maxsize=4)
def _programs(settings: NetworkConfig, job: EvaluationConfig, fast_compile: bool) -> Programs:
    """Those of all jobs that are compiled to the same."""

    def glance(params: Params, cloud: Cloud, pyramid: Pyramid) -> tuple[Array, Array]:
        interest = apply_mask_network(settings, params, cloud, pyramid).interest
        return interest, region_of_interest.locate(point_clouds.flatten_samples(cloud), interest)

    def predict(params: Params, item: PreparedCase) -> CasePredictions:
        key, cloud = case_key(item.seeds), point_clouds.flatten_samples(item.cloud)
        reading = apply_mask_network(settings, params, item.cloud, item.pyramid)
        fed = mask_estimators.ensure_keep_ratio(
            reading.logits - item.threshold, cloud.valid, job.min_keep_ratio
        )
        named = {
            "all": jnp.ones(cloud.points.shape[0]),
            "oracle": item.oracle.reshape(-1),
            "learnt": mask_estimators.deterministic(key, fed),
        }
        kept = jnp.stack([jnp.where(cloud.valid, named[name], 0.0) for name in job.masks])
        # The coarse stage's points are drawn by the mask at hand.
        drawn = jnp.stack(
            [
                reading.logits if name == "learnt" else jnp.where(named[name] > 0.5, 4.0, -9.0)
                for name in job.masks
            ]
        )

        def one(mask: tuple[Array, Array]) -> tuple[Registration, LevelPoses, Hypotheses]:
            weights, logits = mask
            scene = iterate.top_weighted(apply_mask(cloud, weights), job.points)
            if job.start.kind == "auto":
                whole, hypotheses = global_search.search(
                    settings,
                    params,
                    key,
                    cloud,
                    scene,
                    reading._replace(logits=logits),
                    item.surface,
                    item.exposed,
                    job.schedule,
                    job.search,
                )
            else:
                whole = run_schedule(scene, item.surface, item.start, job.schedule)
                hypotheses = global_search.single_hypothesis(
                    scene, item.surface, whole, item.exposed, job.search
                )
            if job.per_level:
                levels = register_levels(scene, item.surface, whole, item.centres, job.schedule)
            else:
                first = jax.tree.map(lambda leaf: leaf[None], whole)
                levels = LevelPoses(first.pose, first.inlier_weight, first.residual)
            return whole, levels, hypotheses

        whole, levels, hypotheses = jax.lax.map(one, (kept, drawn))  # one program for all masks

        def by_name(tree: Any) -> dict[str, Any]:
            return {
                name: jax.tree.map(lambda leaf, i=i: leaf[i], tree)
                for i, name in enumerate(job.masks)
            }

        return CasePredictions(by_name(whole), by_name(levels), by_name(hypotheses), by_name(kept))

    over = sharding.make_mesh(job.batch, local=True)

    def batched(one: Callable[..., Any], inputs: int) -> Callable[..., Any]:
        several = jax.vmap(one, (None, *[0] * inputs))
        if over.size == 1:
            return several
        return jax.shard_map(
            several,
            mesh=over,
            in_specs=(sharding.REPLICATED, *[sharding.SHARDED] * inputs),
            out_specs=sharding.SHARDED,
            check_vma=False,
        )

    return Programs(
        CachedProgram(batched(glance, 2), "glance", settings, fast_compile=fast_compile),
        CachedProgram(batched(predict, 1), "predict", settings, job, fast_compile=fast_compile),
        over,
    )
