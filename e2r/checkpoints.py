"""Checkpoints by Orbax: the train state, with the settings that made it beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
from orbax.checkpoint import v1 as ocp

State = TypeVar("State")


def writer(folder: Path, *, keep: int) -> ocp.training.Checkpointer:
    """Opens a folder for checkpoints, of which the latest ``keep`` stay; close it after use."""
    folder.mkdir(parents=True, exist_ok=True)
    return ocp.training.Checkpointer(
        folder.resolve(),
        preservation_policy=ocp.training.preservation_policies.LatestN(keep),
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
        cleanup_tmp_directories=True,
    )


def save(
    checkpointer: ocp.training.Checkpointer, step: int, state: Any, settings: Mapping[str, Any]
) -> None:
    """Writes the state after ``step`` steps, atomically, unless that step is there already."""
    latest = checkpointer.latest
    if latest is None or latest.step < step:
        checkpointer.save(step, state, custom_metadata={"settings": dict(settings)})


def locate(folder: Path) -> Path:
    """The folder that holds the steps: the one given, or its ``checkpoint``.

    Raises:
      ValueError: no checkpoint there.
    """
    for candidate in (folder / "checkpoint", folder):
        if candidate.is_dir() and any(
            child.name.isdigit() and (child / "_CHECKPOINT_METADATA").exists()
            for child in candidate.iterdir()
        ):
            return candidate
    what = "holds no checkpoint" if folder.is_dir() else "no such folder"
    raise ValueError(f"{folder}: {what}; give the output folder of experiments.train")


def latest_step(folder: Path) -> int | None:
    """The step of the newest checkpoint below ``folder``, or None."""
    try:
        place = locate(folder)
    except ValueError:
        return None
    with ocp.training.Checkpointer(place.resolve()) as checkpointer:
        return None if checkpointer.latest is None else checkpointer.latest.step


def settings(folder: Path) -> dict[str, Any]:
    """The settings saved with the newest checkpoint of ``folder``.

    Raises:
      ValueError: no checkpoint, or one that e2r did not write.
    """
    with ocp.training.Checkpointer(locate(folder).resolve()) as checkpointer:
        metadata = checkpointer.metadata().custom_metadata
    if not isinstance(metadata, dict) or "settings" not in metadata:
        raise ValueError(f"{folder}: the checkpoint holds no e2r settings; train it with e2r")
    found: dict[str, Any] = metadata["settings"]
    return found


def restore(folder: Path, abstract: State) -> State:
    """The newest state of ``folder``, in the shape of ``abstract`` (``jax.eval_shape``).

    Raises:
      ValueError: no checkpoint, or one of another network or optimiser.
    """
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), abstract
    )
    with ocp.training.Checkpointer(locate(folder).resolve()) as checkpointer:
        try:
            state: State = checkpointer.load(None, placed)
        except (ValueError, KeyError, TypeError) as error:
            first = str(error).strip().splitlines()[0][:200]
            raise ValueError(
                f"{folder}: the checkpoint does not fit these settings ({first}); "
                "use the network it was trained with, or another output folder"
            ) from None
    return state
