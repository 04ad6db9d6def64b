"""Devices and processes: one code path for one device, many devices and many processes.

Shared values (parameters, optimiser state, the run's key) are on every device. A batch is divided
along the one named axis of a mesh. Processes find each other by :func:`join_processes`.
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
"""The same value on every device."""
SHARDED = PartitionSpec(AXIS)
"""The leading axis is divided among the devices."""

T = TypeVar("T")


def join_processes(coordinator: str = "", processes: int = 0, process: int = 0) -> None:
    """Makes this process one of several that train together; call it before any other of JAX.

    Args:
      coordinator: "auto" where JAX recognises the cluster (TPU pods, Slurm, MPI, GKE), or the
        first process's host:port, or "" for a single process.
      processes: with an address, the number of processes.
      process: with an address, the number of this process, from 0.

    Raises:
      ValueError: the numbers do not fit together, or the other processes cannot be reached.
    """
    if not coordinator:
        if processes or process:
            raise ValueError(
                f"--processes {processes} --process {process}: give --coordinator, too, the first "
                "process's host:port"
            )
        return
    arguments: dict[str, Any] = {}
    if coordinator != "auto":
        if processes < 1 or not 0 <= process < processes:
            raise ValueError(
                f"--processes {processes} --process {process}: with --coordinator {coordinator} "
                "give how many processes there are, and which one this is, from 0"
            )
        arguments = {
            "coordinator_address": coordinator,
            "num_processes": processes,
            "process_id": process,
        }
    try:
        jax.distributed.initialize(**arguments)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"--coordinator {coordinator}: {error}") from None
    barrier("joined")  # all meet before one of them compiles for a minute


def make_mesh(batch: int, *, local: bool = False) -> Mesh:
    """A mesh of all devices of all processes, or of this process only.

    Args:
      batch: number of rows that the devices divide among them.
      local: this process's devices only.

    Raises:
      ValueError: the batch cannot be divided evenly.
    """
    devices = jax.local_devices() if local else jax.devices()
    if batch % len(devices):
        raise ValueError(
            f"a batch of {batch} cannot be divided among {len(devices)} devices; use a multiple of "
            f"{len(devices)}"
        )
    return Mesh(np.array(devices), (AXIS,))


def process_rows(batch: int) -> slice:
    """This process's rows of a batch of all processes."""
    share = batch // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def replicate(tree: T, mesh: Mesh) -> T:
    """Puts a pytree on every device; each process gives the whole of it."""
    return _put(tree, NamedSharding(mesh, REPLICATED))


def shard(tree: T, mesh: Mesh) -> T:
    """Divides a batch among the devices; each process gives its own rows."""
    return _put(tree, NamedSharding(mesh, SHARDED))


def _put(tree: T, sharding: NamedSharding) -> T:
    def put(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)))
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

    return jax.tree.map(put, tree)


def is_primary() -> bool:
    """Whether this process is the one that writes files."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until all processes have reached the barrier of this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; all of them get the same answer."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))
