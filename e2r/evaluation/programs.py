"""The compiled programs of an evaluation: the pipeline, batched and divided among devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from e2r import pipeline
from e2r.geometry import surfaces
from e2r.networks.build import NetworkConfig
from e2r.pipeline import CasePredictions, FirstLook, PreparedCase, ProgramConfig
from e2r.runtime import sharding
from e2r.runtime.compile_cache import CachedProgram


class Programs(NamedTuple):
    """The compiled programs of a job. Each takes the parameters, then a batch."""

    first_look: Callable[..., FirstLook]
    """(params, clouds, pyramids) -> the region of interest of each case"""
    register: Callable[..., CasePredictions]
    """(params, prepared cases) -> the results of each case"""
    mesh: Mesh
    """the devices among which a batch is divided"""


@lru_cache(maxsize=4)
def compile_programs(
    network: NetworkConfig, program: ProgramConfig, *, batch: int, fast_compile: bool = False
) -> Programs:
    """Makes the programs, which compile at their first call.

    Args:
      network: the networks' settings.
      program: the settings of the registration.
      batch: cases in a batch, a multiple of this process's devices.
      fast_compile: compile in half the time a program that is half as fast.

    Raises:
      ValueError: the batch cannot be divided evenly among the devices.
    """
    mesh = sharding.make_mesh(batch, local=True)

    def batched(function: Callable[..., Any], *, inputs: int) -> Callable[..., Any]:
        """Maps a function of the parameters and ``inputs`` arguments over the batch."""
        mapped = jax.vmap(function, (None, *[0] * inputs))
        if mesh.size == 1:
            return mapped
        return jax.shard_map(
            mapped,
            mesh=mesh,
            in_specs=(sharding.REPLICATED, *[sharding.SHARDED] * inputs),
            out_specs=sharding.SHARDED,
            check_vma=False,
        )

    look = partial(pipeline.first_look, network=network)
    register = partial(pipeline.register_case, network=network, program=program)
    return Programs(
        CachedProgram(batched(look, inputs=2), fast_compile=fast_compile),
        CachedProgram(batched(register, inputs=1), fast_compile=fast_compile),
        mesh,
    )


def stack_batch(items: Sequence[Any], size: int) -> Any:
    """Stacks pytrees on the host, with the last one repeated: one shape, one compilation.

    Args:
      items: one or more, of the same shapes.
      size: items of the batch.
    """
    padded = [*items, *[items[-1]] * (size - len(items))]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *padded)


def stack_prepared(cases: Sequence[PreparedCase], size: int) -> PreparedCase:
    """Stacks prepared cases of any number of levels and triangles.

    Args:
      cases: one or more.
      size: cases of the batch; the last one is repeated up to it.
    """
    models = [case.surface for case in cases]
    surface = surfaces.stack([*models, *[models[-1]] * (size - len(models))], shared=True)
    levels = max(len(case.level_centres) for case in cases)

    def padded(case: PreparedCase) -> PreparedCase:
        missing = levels - len(case.level_centres)
        return case._replace(
            surface=None,  # type: ignore[arg-type]
            level_centres=np.pad(
                case.level_centres, ((0, missing), (0, 0)), constant_values=np.nan
            ),
            exposed=np.pad(case.exposed, (0, missing), constant_values=True),
        )

    batch: PreparedCase = stack_batch([padded(case) for case in cases], size)
    return batch._replace(surface=surface)
