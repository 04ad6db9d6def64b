"""Streams of work on a Ray cluster: one worker a device, and one driver that deals and collects.

The work is a function from a stream of items to a stream of outcomes. Without a cluster, it is
called once, here. On a cluster, each worker calls it on the items that it is dealt. What happens to
an item is decided by that function alone, and so it is the same in both.

A worker that dies, or whose node does, has its items redone by others. They are dealt in ever
smaller groups, each to a worker of its own, until the item that kills its worker is alone.
"""

from __future__ import annotations

import itertools
import os
import queue
import re
import socket
import sys
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

import jax

from e2r.runtime import freed_memory
from e2r.runtime.compile_cache import enable_cache
from e2r.runtime.provenance import code_differences, code_record
from e2r.runtime.system_errors import REFUSALS

T = TypeVar("T")
U = TypeVar("U")
Serve: TypeAlias = Callable[[Iterator[T]], Iterator[tuple[str, U]]]
"""Items -> the outcome of each, with its name. Any number of items may be taken ahead."""

SPLIT = 4
"""Groups into which the items of a dead worker are split."""
LAST_DEATH = 2
"""Death of a worker with this one item alone, after which the item is given up."""
FAILED_STARTS = 20
"""Workers in a row that may be killed before they are ready."""
LOOK_EVERY_S = 0.5
"""Seconds between two looks at the workers, and at the nodes."""
OBJECT_STORE_BYTES = 2**28
"""Shared memory of a local cluster."""
LOCAL_RAY = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
}
"""Ray's settings of a local cluster. Without the first, its processes listen on all networks, even
where Ray is given a node's address of 127.0.0.1. Without the second, workers give way to any other
process (niceness 15). The last two spare a process for each core, which our workers never become,
for they have an environment of their own."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Ray gives a worker one thread of LAPACK, which then returns other bits than the driver's."""


@dataclass(frozen=True)
class ClusterConfig:
    """Where work is done: in this process, or by workers on a Ray cluster."""

    cluster: str | None = None
    """local, auto (the cluster of this machine, or of RAY_ADDRESS) or ray://HOST:PORT; this process
    does everything without it"""
    workers: int = 0
    """most workers; by default one for each GPU of the cluster, or for each core without GPUs"""

    def __post_init__(self) -> None:
        if self.cluster is not None and not re.fullmatch(
            r"local|auto|ray://[^\s:]+:\d+", self.cluster
        ):
            raise ValueError(f"--cluster {self.cluster}: use local, auto or ray://HOST:PORT")
        if self.workers < 0 or (self.workers and self.cluster is None):
            raise ValueError(f"--workers {self.workers}: use 1 or more, and give --cluster")


def stream(
    serve: Serve[T, U],
    items: Iterable[T],
    *,
    config: ClusterConfig,
    name: Callable[[T], str],
    give_up: Callable[[T, str], U],
    window: int = 1,
    notice: Callable[[str], None] = lambda _: None,
) -> Iterator[U]:
    """The outcomes of items, in any order.

    Args:
      serve: does the work; on a cluster in another process, on its own copy.
      items: are read only as the workers take them.
      config: where the work is done.
      name: of an item; unique.
      give_up: item, sentence -> the outcome of an item whose worker died again and again.
      window: items that a worker holds at most; more than ``serve`` takes before it gives one back.
      notice: is told how the work stands, often.

    Raises:
      ValueError: there is no such cluster, a worker has other code, or ``serve`` refused an item.
    """
    if config.cluster is None:
        yield from (outcome for _, outcome in serve(iter(items)))
        return
    with _connected(config.cluster) as ray:
        driver = _Driver(ray, serve, items, config.workers, name=name, window=window)
        try:
            yield from driver.run(give_up, notice)
        finally:
            driver.dismiss()


def leave_devices(config: ClusterConfig) -> None:
    """Keeps this process off the accelerators, for the workers; call it before any other of JAX."""
    if config.cluster is not None:
        jax.config.update("jax_platforms", "cpu")


@contextmanager
def _connected(cluster: str) -> Iterator[Any]:
    """Starts or joins a cluster, and gives the module ``ray``; one that was joined stays so."""
    if cluster == "local":
        for variable, value in LOCAL_RAY.items():
            os.environ.setdefault(variable, value)
    try:
        import ray  # noqa: PLC0415 - it is an extra
    except ImportError:
        raise ValueError("--cluster needs Ray: pip install 'e2r[cluster]'") from None
    if ray.is_initialized():
        yield ray
        return
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if cluster == "local":
        where: dict[str, Any] = {
            "address": "local",
            "include_dashboard": None if _has_dashboard() else False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    else:
        where = {"address": cluster}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called")
            ray.init(**where, **quiet)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"--cluster {cluster}: cannot be reached ({reason}); is it up?") from None
    try:
        if cluster == "local" and ray.util.get_node_ip_address() != "127.0.0.1":
            raise ValueError(
                "--cluster local: Ray was imported before, and would listen on all networks; set "
                "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before Python starts"
            )
        yield ray
    finally:
        ray.shutdown()


def _has_dashboard() -> bool:
    """Whether the packages of Ray's dashboard are installed: ``ray[default]``."""
    from importlib.util import find_spec  # noqa: PLC0415

    return find_spec("aiohttp_cors") is not None


class _Server:
    """Runs in a worker's process: a thread works, and calls bring items and take outcomes."""

    def __init__(self, serve: Serve[Any, Any]) -> None:
        enable_cache()
        self._items: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._work, args=(serve,), daemon=True).start()

    def ready(self) -> tuple[str, dict[str, str]]:
        """Name of this process, and its code."""
        return f"{socket.gethostname()}:{os.getpid()}", code_record()

    def exchange(self, items: list[Any], last: bool) -> list[tuple[str, Any]]:
        """Takes items, and gives the outcomes that are there, after a short wait for one.

        Args:
          items: more work.
          last: nothing follows that the outcomes could wait for.
        """
        for item in items:
            self._items.put((item,))
        if last:
            self._items.put(())
        found: list[tuple[str, Any]] = []
        try:
            found.append(self._outcomes.get(timeout=LOOK_EVERY_S))
            while True:
                found.append(self._outcomes.get_nowait())
        except queue.Empty:
            pass
        for outcome in found:
            if isinstance(outcome, BaseException):
                raise outcome
        return found

    def _work(self, serve: Serve[Any, Any]) -> None:
        try:
            while True:
                for outcome in serve(item for (item,) in iter(self._items.get, ())):
                    self._outcomes.put(outcome)
        except jax.errors.JaxRuntimeError as error:  # a device that broke, or is full
            print(error, file=sys.stderr, flush=True)
            os._exit(1)  # others redo the items
        except BaseException as error:
            self._outcomes.put(error)


def _environment() -> dict[str, str]:
    """Variables of a worker's process, from its first moment on."""
    default = str(os.cpu_count())
    threads = {variable: os.environ.get(variable, default) for variable in THREADS}
    return {**threads, **freed_memory.ENVIRONMENT}


@dataclass
class _Worker(Generic[T]):
    """What the driver knows of a worker."""

    actor: Any
    kind: str  # of its device, GPU or CPU
    call: Any  # the running call
    where: str = ""  # host and process; empty until it is ready
    held: dict[str, T] = field(default_factory=dict)  # name -> item, without its outcome yet
    alone: bool = False  # it holds a group of a dead worker, and gets nothing else
    ended: bool = True  # it was told that nothing follows


class _Driver(Generic[T, U]):
    """Deals items to workers, and collects outcomes."""

    def __init__(
        self,
        ray: Any,
        serve: Serve[T, U],
        items: Iterable[T],
        limit: int,
        *,
        name: Callable[[T], str],
        window: int,
    ) -> None:
        self._ray, self._limit, self._name, self._window = ray, limit, name, window
        self._serve = ray.put(serve)
        self._items: Iterator[T] | None = iter(items)  # None: all are dealt
        self._groups: deque[dict[str, T]] = deque()  # of dead workers
        self._workers: list[_Worker[T]] = []
        self._deaths: Counter[str] = Counter()  # of workers that held one item only
        self._failures: Counter[str] = Counter()  # host -> workers that died there
        self._failed_starts = 0
        self._code = code_record()
        self._looked = 0.0  # when, by the monotonic clock

    def run(self, give_up: Callable[[T, str], U], notice: Callable[[str], None]) -> Iterator[U]:
        """Yields the outcomes of all items."""
        while self._items is not None or self._groups or any(w.held for w in self._workers):
            self._hire()
            for worker in self._workers:
                self._deal(worker)
            calls = {worker.call: worker for worker in self._workers if worker.call is not None}
            if not calls:
                time.sleep(LOOK_EVERY_S)
            found, _ = self._ray.wait([*calls], timeout=LOOK_EVERY_S) if calls else ([], [])
            for call in found:
                try:
                    yield from self._collect(calls[call])
                except self._ray.exceptions.RayError as error:
                    yield from self._bury(calls[call], error, give_up)
            notice(self.status())

    def status(self) -> str:
        """How the work stands, in a few words."""
        waiting = sum(len(held) for held in (*self._groups, *(w.held for w in self._workers)))
        ready = sum(bool(worker.where) for worker in self._workers)
        died = ", ".join(f"{host} {count}" for host, count in self._failures.items())
        return f"{ready} workers, {waiting} in hand, died: {died or 'none'}"

    def dismiss(self) -> None:
        """Ends all workers."""
        for worker in self._workers:
            self._ray.kill(worker.actor)

    def _hire(self) -> None:
        """Starts as many workers as there are devices, also on nodes that have joined."""
        if time.monotonic() - self._looked < LOOK_EVERY_S:
            return
        self._looked = time.monotonic()
        if self._items is None and not self._groups:
            return  # nothing is left for another one
        there = self._ray.cluster_resources()
        kind = "GPU" if there.get("GPU") else "CPU"
        count = int(there.get(kind, 0))
        if self._limit:
            count = min(count, self._limit)
        for _ in range(count - sum(worker.kind == kind for worker in self._workers)):
            options: dict[str, Any] = {"num_gpus" if kind == "GPU" else "num_cpus": 1}
            actor = (
                self._ray.remote(_Server)
                .options(**options, runtime_env={"env_vars": _environment()})
                .remote(self._serve)
            )
            self._workers.append(_Worker(actor, kind, actor.ready.remote()))

    def _deal(self, worker: _Worker[T]) -> None:
        """Gives an idle worker items, and asks it for outcomes."""
        if not worker.where or worker.call is not None:
            return
        more: dict[str, T] = {}
        if not worker.held:
            worker.alone = bool(self._groups)
            more = self._groups.popleft() if self._groups else {}
        if not worker.alone and self._items is not None and not self._groups:
            room = min(self._window - len(worker.held), -(-self._window // SPLIT))
            taken = [*itertools.islice(self._items, room)]
            if len(taken) < room:
                self._items = None
            more = {self._name(item): item for item in taken}
        worker.held |= more
        worker.ended = worker.ended and not more
        last = not worker.ended and (worker.alone or self._items is None or bool(self._groups))
        worker.ended = worker.ended or last
        if worker.held:
            worker.call = worker.actor.exchange.remote([*more.values()], last)

    def _collect(self, worker: _Worker[T]) -> Iterator[U]:
        """The outcomes of a call that has ended."""
        try:
            found = self._ray.get(worker.call)
        except self._ray.exceptions.RayTaskError as error:  # of ``serve``, not of the worker
            if isinstance(error.cause, REFUSALS):
                raise error.cause from None
            raise RuntimeError(f"{worker.where}: {error}") from None
        worker.call = None
        if not worker.where:
            worker.where, code = found
            self._failed_starts = 0
            if changed := code_differences(self._code, code):
                raise ValueError(
                    f"{worker.where}: has other code than this process ({'; '.join(changed)}); "
                    "install the same e2r and packages on every node"
                )
            return
        for name, outcome in found:
            if worker.held.pop(name, None) is not None:
                yield outcome

    def _bury(self, worker: _Worker[T], error: Any, give_up: Callable[[T, str], U]) -> Iterator[U]:
        """Splits the items of a dead worker; yields that of an item that is given up."""
        self._workers.remove(worker)
        self._ray.kill(worker.actor)  # it may only be out of reach
        reason = " ".join(str(error).split())[-300:]
        if not worker.where:
            self._failed_starts += 1
            if getattr(error, "actor_init_failed", False) or self._failed_starts == FAILED_STARTS:
                raise ValueError(f"--cluster: workers die while they start: {reason}")
            return
        self._failures[worker.where.split(":")[0]] += 1
        held = [*worker.held.items()]
        size = -(-len(held) // SPLIT)
        if len(held) == 1:
            ((name, item),) = held
            self._deaths[name] += 1
            if self._deaths[name] == LAST_DEATH:
                yield give_up(
                    item,
                    f"{name}: the worker that had nothing else in hand died, {LAST_DEATH} times "
                    f"(last {worker.where}); try it alone, without --cluster, to see why",
                )
                return
        self._groups.extend(dict(held[k : k + size]) for k in range(0, len(held), size or 1))
