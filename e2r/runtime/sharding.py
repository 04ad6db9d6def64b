"""Devices and processes: one code path for a single device, many of them, and many processes.

What all share (parameters, optimiser, the run's key) is on every device; a batch is divided among
them along one named axis of a mesh. Processes find each other by :func:`join_processes`.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"
"""The mesh's one axis."""
REPLICATED = PartitionSpec()
SHARDED = PartitionSpec(AXIS)

T = TypeVar("T")


def join_processes(coordinator: str = "", processes: int = 0, process: int = 0) -> None:
    """Makes this process one of many that train together; before anything else of JAX.

    Args:
      coordinator: "auto" where JAX recognises the cluster (TPU pods, Slurm, MPI, GKE); else the
        first process's address, host:port; "" for a process of its own.
      processes: how many there are, with an address.
      process: which this is, from 0, with an address.

    Raises:
      ValueError: they do not fit together, or the others cannot be reached.
    """
    if not coordinator:
        return
    given: dict[str, Any] = {}
    if coordinator != "auto":
        if processes < 1 or not 0 <= process < processes:
            raise ValueError(
                f"--processes {processes} --process {process}: with --coordinator {coordinator} "
                "give how many processes there are, and which one this is, from 0"
            )
        given = {
            "coordinator_address": coordinator,
            "num_processes": processes,
            "process_id": process,
        }
    try:
        jax.distributed.initialize(**given)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"--coordinator {coordinator}: {error}") from None
    barrier("joined")  # they meet before one of them has compiled for a minute


def make_mesh(batch: int, *, local: bool = False) -> Mesh:
    """All devices, of all processes or of this one, for batches of so many.

    Raises:
      ValueError: the batch cannot be divided evenly among them.
    """
    devices = jax.local_devices() if local else jax.devices()
    if batch % len(devices):
        raise ValueError(
            f"a batch of {batch} cannot be divided among {len(devices)} devices; use a multiple of "
            f"{len(devices)}"
        )
    return Mesh(np.array(devices), (AXIS,))


def process_rows(batch: int) -> slice:
    """The rows of a batch of all processes that are this process's."""
    each = batch // jax.process_count()
    return slice(jax.process_index() * each, (jax.process_index() + 1) * each)


def replicate(tree: T, over: Mesh) -> T:
    """Puts the same onto every device; each process gives the whole of it."""
    return _put(tree, NamedSharding(over, REPLICATED))


def shard(tree: T, over: Mesh) -> T:
    """Puts a batch onto the devices; each process gives the rows that are its own."""
    return _put(tree, NamedSharding(over, SHARDED))


def _put(tree: T, sharding: NamedSharding) -> T:
    def one(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(leaf)))
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

    return jax.tree.map(one, tree)


def is_primary() -> bool:
    """Whether this process is the one that writes for all."""
    return jax.process_index() == 0


def barrier(what: str) -> None:
    """Until all processes have come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def any_process(yes: bool) -> bool:
    """Whether one process or more say yes; all of them learn it."""
    if jax.process_count() == 1:
        return yes
    return bool(np.any(multihost_utils.process_allgather(np.array(yes))))
