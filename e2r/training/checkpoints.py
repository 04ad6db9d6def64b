"""Checkpoints by Orbax: the train state, with its settings, a digest and the files' checksums."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from e2r.runtime import sharding
from e2r.runtime.atomic_files import atomic_write

State = TypeVar("State")

CHECKSUMS = "sums.json"
"""File beside a checkpoint's files with the checksum of each; a broken checkpoint is not opened."""


@dataclass(frozen=True)
class Checkpoint(Generic[State]):
    """A checkpoint that was read."""

    step: int
    settings: dict[str, Any]
    state: State


class _Metadata(NamedTuple):
    """What a checkpoint says about itself."""

    custom: dict[str, Any]  # settings and digest; empty where another program wrote it
    shapes: dict[str, Any]  # the arrays it holds, as nested dictionaries


@contextmanager
def open_writer(folder: Path, *, keep: int) -> Iterator[ocp.training.Checkpointer]:
    """Opens a folder for checkpoints, of which the latest ``keep`` stay."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = ocp.training.Checkpointer(
        folder.resolve(),
        preservation_policy=ocp.training.preservation_policies.LatestN(keep),
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
        cleanup_tmp_directories=True,
    )
    try:
        yield writer
    except BaseException:
        with _no_logging(), suppress(Exception):  # closing repeats the error of a failed save
            writer.close()
        raise
    writer.close()


def save(
    writer: ocp.training.Checkpointer, step: int, state: Any, settings: Mapping[str, Any]
) -> None:
    """Writes the state after ``step`` steps atomically, unless that step is already there.

    Args:
      writer: by :func:`open_writer`.
      step: number of steps done.
      state: a pytree of arrays.
      settings: JSON values that are kept beside it.

    Raises:
      OSError: the checkpoint cannot be written; earlier checkpoints are unchanged.
    """
    latest = writer.latest
    if latest is not None and latest.step >= step:
        return
    folder = Path(writer.directory) / str(step)
    try:
        with _no_logging():
            metadata = {"settings": dict(settings), "digest": digest(state)}
            writer.save(step, state, custom_metadata=metadata)
        if sharding.is_primary():
            with atomic_write(folder / CHECKSUMS) as part:
                part.write_text(json.dumps(_checksums(folder)))
    except (ValueError, OSError) as error:
        reason = "the disk is full" if "No space left" in str(error) else str(error)
        earlier = "no earlier one is there"
        if latest is not None:
            earlier = f"that of step {latest.step} is whole"
        raise OSError(
            f"{folder}: cannot be written, {reason}; {earlier}. Make room, and give the same "
            "command again"
        ) from None
    sharding.barrier(f"saved {step}")


def digest(state: Any) -> str:
    """SHA-256 of a pytree's arrays, with their paths, types and shapes."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        array = np.asarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def locate(folder: Path) -> Path:
    """The folder that holds the checkpoints: ``folder/checkpoint``, or ``folder`` itself.

    Raises:
      ValueError: there is no checkpoint.
    """
    for candidate in (folder / "checkpoint", folder):
        if saved_steps(candidate):
            return candidate
    reason = "holds no checkpoint" if folder.is_dir() else "no such folder"
    raise ValueError(f"{folder}: {reason}; give the output folder of e2r train")


def saved_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, whole or broken, the newest first."""
    if not folder.is_dir():
        return []
    return sorted((int(c.name) for c in folder.iterdir() if c.name.isdigit()), reverse=True)


def latest_step(folder: Path) -> int | None:
    """Step of the newest whole checkpoint of a run, or None."""
    try:
        found = locate(folder)
    except ValueError:
        return None
    return next((step for step in saved_steps(found) if _is_whole(found / str(step))), None)


def read_settings(folder: Path) -> tuple[int, Any] | None:
    """Step and settings of the newest whole checkpoint of a run, without its state.

    None where there is no whole checkpoint, or it has no settings.
    """
    step = latest_step(folder)
    if step is None:
        return None
    with _no_logging(), ocp.training.Checkpointer(locate(folder).resolve()) as reader:
        found = _read_metadata(reader, step)
    return (step, found.custom["settings"]) if found and "settings" in found.custom else None


def restore(
    folder: Path, abstract_state: Callable[[dict[str, Any], dict[str, Any]], State]
) -> Checkpoint[State]:
    """Reads the newest whole checkpoint of a run. Each broken one is reported and passed over.

    Args:
      folder: of the run.
      abstract_state: (settings of a checkpoint, the shapes it says it holds) -> the shapes of the
        state; raises ValueError for settings it cannot use.

    Raises:
      ValueError: there is no checkpoint, none is whole, or e2r did not write it.
    """
    place = locate(folder)
    steps = saved_steps(place)
    reason = ""
    with _no_logging(), ocp.training.Checkpointer(place.resolve()) as reader:
        for step, earlier in zip(steps, [*steps[1:], None], strict=True):
            found = _read_metadata(reader, step) if _is_whole(place / str(step)) else None
            if found is None:
                reason = "it is broken"
            elif "settings" not in found.custom:
                reason = "it holds no e2r settings; train it with e2r"
            else:
                settings = found.custom["settings"]
                state = _load(reader, step, abstract_state(settings, found.shapes))
                if state is not None and found.custom.get("digest") in (None, digest(state)):
                    return Checkpoint(step, settings, state)
                reason = "it is broken, or its shapes are not those of its settings"
            if earlier is not None:
                print(
                    f"e2r: {place / str(step)}: cannot be used, {reason}; step {earlier} before it "
                    "is tried",
                    file=sys.stderr,
                )
    raise ValueError(
        f"{place / str(steps[-1])}: cannot be used, {reason}; train again in another folder, or "
        "put a whole checkpoint there"
    )


def set_aside(folder: Path, step: int) -> None:
    """Renames the checkpoints after ``step``, which are broken, so that training can redo them."""
    for later in saved_steps(folder):
        if later > step:
            (folder / str(later)).rename(_unused(folder / f"{later}.broken"))


def _checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a checkpoint."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(CHECKSUMS)
    }


def _is_whole(folder: Path) -> bool:
    """Whether a checkpoint's files are as they were written; True without checksums."""
    if not (folder / CHECKSUMS).exists():
        return True
    try:
        return bool(json.loads((folder / CHECKSUMS).read_text()) == _checksums(folder))
    except (ValueError, OSError, RecursionError):
        return False


def _read_metadata(reader: ocp.training.Checkpointer, step: int) -> _Metadata | None:
    """What a checkpoint says about itself; None if that cannot be read, for whatever reason."""
    try:
        found = reader.metadata(step)
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), found.metadata
        )
    except Exception:
        return None
    custom = found.custom_metadata
    return _Metadata(
        custom if isinstance(custom, dict) else {}, shapes if isinstance(shapes, dict) else {}
    )


def _load(reader: ocp.training.Checkpointer, step: int, shapes: State) -> State | None:
    """A state on every device; None if it cannot be read, for whatever reason."""
    everywhere = jax.sharding.NamedSharding(
        sharding.make_mesh(jax.device_count()), sharding.REPLICATED
    )
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), shapes
    )
    try:
        state: State = reader.load(step, placed)
    except Exception:
        return None
    return state


@contextmanager
def _no_logging() -> Iterator[None]:
    """Silences logging: this module reports a broken checkpoint itself, in one sentence."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _unused(path: Path) -> Path:
    """The path, or one with a number appended that does not exist."""
    paths: Iterator[Path] = (path.with_name(f"{path.name}{n or ''}") for n in range(10_000))
    return next(candidate for candidate in paths if not candidate.exists())
