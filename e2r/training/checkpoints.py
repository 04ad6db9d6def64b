"""Checkpoints by Orbax: the train state, with the settings that made it and a digest beside it."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from e2r.runtime import sharding
from e2r.runtime.atomic_files import atomic_write

State = TypeVar("State")

SUMS = "sums.json"
"""Beside a checkpoint's files, what each of them holds: so that none that is broken is opened."""


@contextmanager
def writer(folder: Path, *, keep: int) -> Iterator[ocp.training.Checkpointer]:
    """A folder opened for checkpoints, of which the latest ``keep`` stay."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpointer = ocp.training.Checkpointer(
        folder.resolve(),
        preservation_policy=ocp.training.preservation_policies.LatestN(keep),
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
        cleanup_tmp_directories=True,
    )
    try:
        yield checkpointer
    except BaseException:
        with _quiet(), suppress(Exception):  # it would tell again what went wrong with a save
            checkpointer.close()
        raise
    checkpointer.close()


def save(
    checkpointer: ocp.training.Checkpointer, step: int, state: Any, settings: Mapping[str, Any]
) -> None:
    """Writes the state after ``step`` steps, atomically, unless that step is there already.

    Raises:
      OSError: it cannot be written; those before it are as they were.
    """
    latest = checkpointer.latest
    if latest is not None and latest.step >= step:
        return
    about = {"settings": dict(settings), "digest": digest(state)}
    place = Path(checkpointer.directory) / str(step)
    try:
        with _quiet():
            checkpointer.save(step, state, custom_metadata=about)
        if sharding.is_primary():
            with atomic_write(place / SUMS) as part:
                part.write_text(json.dumps(_sums(place)))
    except (ValueError, OSError) as error:
        full = "No space left" in str(error)
        before = "none is there yet" if latest is None else f"that of step {latest.step} is whole"
        raise OSError(
            f"{place}: cannot be written, {'the disk is full' if full else error}; {before}. Make "
            "room, and give the same command again"
        ) from None
    sharding.barrier(f"saved {step}")


def digest(state: Any) -> str:
    """What a state is known by: of all its numbers, and where they belong."""
    sums = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        array = np.asarray(leaf)
        sums.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        sums.update(np.ascontiguousarray(array).tobytes())
    return sums.hexdigest()


def _sums(place: Path) -> dict[str, str]:
    """Of each file of a checkpoint, what its bytes are known by."""
    return {
        str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(place.rglob("*"))
        if path.is_file() and not path.name.startswith(SUMS)
    }


def _is_whole(place: Path) -> bool:
    """Whether a checkpoint's files are as they were written; True where that is not known."""
    if not (place / SUMS).exists():
        return True
    try:
        return bool(json.loads((place / SUMS).read_text()) == _sums(place))
    except (ValueError, OSError):
        return False


def locate(folder: Path) -> Path:
    """The folder that holds the steps: the one given, or its ``checkpoint``.

    Raises:
      ValueError: no checkpoint there.
    """
    for candidate in (folder / "checkpoint", folder):
        if steps(candidate):
            return candidate
    what = "holds no checkpoint" if folder.is_dir() else "no such folder"
    raise ValueError(f"{folder}: {what}; give the output folder of experiments.train")


def steps(place: Path) -> list[int]:
    """The steps below a folder, whole or broken, the newest first."""
    if not place.is_dir():
        return []
    return sorted((int(c.name) for c in place.iterdir() if c.name.isdigit()), reverse=True)


def latest_step(folder: Path) -> int | None:
    """The step of the newest checkpoint below ``folder`` whose files are whole, or None."""
    try:
        place = locate(folder)
    except ValueError:
        return None
    return next((step for step in steps(place) if _is_whole(place / str(step))), None)


def read_settings(folder: Path) -> tuple[int, Any] | None:
    """Step and settings of the newest checkpoint below ``folder`` whose files are whole, without
    its state; None where there is none, or it has no settings."""
    step = latest_step(folder)
    if step is None:
        return None
    with _quiet(), ocp.training.Checkpointer(locate(folder).resolve()) as checkpointer:
        found = _about(checkpointer, step)
    return (step, found[0]["settings"]) if found and "settings" in found[0] else None


class Saved(NamedTuple, Generic[State]):
    """A checkpoint, read."""

    step: int
    settings: dict[str, Any]
    state: State


def restore(
    folder: Path, shapes: Callable[[dict[str, Any], dict[str, Any]], State]
) -> Saved[State]:
    """The newest whole checkpoint of ``folder``; one that is broken is passed over, and said so.

    Args:
      folder: of a run.
      shapes: (settings of a checkpoint, the shapes it says it holds, in dictionaries) -> its
        state's shapes; raises ValueError for settings it cannot use.

    Raises:
      ValueError: no checkpoint, none that is whole, or one that e2r did not write.
    """
    place = locate(folder)
    there = steps(place)
    why = ""
    with _quiet(), ocp.training.Checkpointer(place.resolve()) as checkpointer:
        for step, older in zip(there, [*there[1:], None], strict=True):
            found = _about(checkpointer, step) if _is_whole(place / str(step)) else None
            if found is None:
                why = "it is broken"
            elif "settings" not in found[0]:
                why = "it holds no e2r settings; train it with e2r"
            else:
                about, stored = found
                wanted = shapes(about["settings"], stored)
                state = _load(checkpointer, step, wanted)
                if state is not None and about.get("digest") in (None, digest(state)):
                    return Saved(step, about["settings"], state)
                why = "it is broken, or of other shapes than its settings say"
            if older is not None:
                print(
                    f"e2r: {place / str(step)}: cannot be used, {why}; step {older} before it is "
                    "tried",
                    file=sys.stderr,
                )
    raise ValueError(
        f"{place / str(there[-1])}: cannot be used, {why}; train again in another folder, or put a "
        "whole checkpoint there"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Lets nobody log: what is wrong with a checkpoint is said here, in one sentence."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _about(
    checkpointer: ocp.training.Checkpointer, step: int
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """What stands beside a checkpoint, and the shapes of what it holds; or None if that cannot be
    read, whatever is wrong."""
    try:
        found = checkpointer.metadata(step)
        stored = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), found.metadata
        )
    except Exception:
        return None
    about = found.custom_metadata
    return about if isinstance(about, dict) else {}, stored if isinstance(stored, dict) else {}


def _load(checkpointer: ocp.training.Checkpointer, step: int, shapes: State) -> State | None:
    """A state, or None if it cannot be read, whatever is wrong with it."""
    everywhere = jax.sharding.NamedSharding(
        sharding.make_mesh(jax.device_count()), sharding.REPLICATED
    )
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), shapes
    )
    try:
        state: State = checkpointer.load(step, placed)
    except Exception:
        return None
    return state


def set_aside(folder: Path, step: int) -> None:
    """Renames the checkpoints after ``step``, which are broken, so that they can be made again."""
    for later in steps(folder):
        if later > step:
            (folder / str(later)).rename(_free(folder / f"{later}.broken"))


def _free(path: Path) -> Path:
    """The path, or one like it that is not there yet."""
    names: Iterator[Path] = (path.with_name(f"{path.name}{n or ''}") for n in range(10_000))
    return next(name for name in names if not name.exists())
