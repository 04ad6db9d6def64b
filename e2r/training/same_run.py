"""Whether a folder's run may go on with some settings: it may only be lengthened or shortened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from e2r.config import config_from_json, migrate

LENGTHENED = "lengthened"
"""Key of the changes of length in a checkpoint's settings: a list, the first change first."""
PLUGINS = ".plugins."
"""Part of the dotted name of a plug-in's digest."""
MAX_NAMED = 6
"""Fields that a refusal names; the others are only counted."""
ABSENT = object()


def continued_settings(
    found: Mapping[str, Any], wanted: Mapping[str, Any], *, output: Path, done: int
) -> dict[str, Any]:
    """The settings with which the run of a folder goes on.

    Only ``optimisation.steps`` may differ, and not fall below the steps done. A field that the run
    was begun without has its default.

    Args:
      found: settings of the folder's newest checkpoint.
      wanted: settings of the run that is to go on.
      output: the folder, for the message.
      done: steps done.

    Returns:
      the wanted settings. Each change of length is noted under :data:`LENGTHENED`.

    Raises:
      ValueError: the folder holds a run with other settings, or one that has done more steps.
    """
    if found.get("exported"):
        raise ValueError(
            f"{output}: holds a run with other settings: an exported model, which cannot be "
            "trained on; name another output folder, and begin with this model by --begin"
        )
    history = list(found.get(LENGTHENED, []))
    begun = filled(found)
    before, after = begun["optimisation"]["steps"], wanted["optimisation"]["steps"]
    same_length = {**wanted, "optimisation": {**wanted["optimisation"], "steps": before}}
    differing = differences(begun, same_length)
    if differing:
        only_code = all(PLUGINS in name for name in differing)
        what, remedy = "settings", "give the run's own values"
        if only_code:
            what, remedy = "code", "restore that code"
        raise ValueError(
            f"{output}: holds a run with other {what}: {_sentence(differing, output)}; {remedy}, "
            "name another output folder, or delete this one"
        )
    if after < done:
        raise ValueError(
            f"{output}: optimisation.steps is {after}, but the run has done {done} steps; give "
            f"{done} or more, or name another output folder"
        )
    if after != before:
        history.append({"after": done, "from": before, "to": after})
    return {**wanted, **({LENGTHENED: history} if history else {})}


def filled(found: Mapping[str, Any]) -> dict[str, Any]:
    """Stored settings under today's names, with the defaults of fields that they lack.

    Args:
      found: settings of a checkpoint, of this version or an earlier one.

    Raises:
      ValueError: fields are unknown or refused.
    """
    stored = {name: value for name, value in found.items() if name != LENGTHENED}
    config_from_json(stored)  # refuses what cannot be read
    return migrate(stored)


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields that differ: dotted name -> (value found, value wanted).

    Args:
      found: JSON values.
      wanted: JSON values; a field that only one of both has differs.
    """
    old, new = _flat(found), _flat(wanted)
    return {
        name: (old.get(name, ABSENT), new.get(name, ABSENT))
        for name in dict.fromkeys([*old, *new])
        if old.get(name, ABSENT) != new.get(name, ABSENT)
    }


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            flat |= _flat(inner, f"{prefix}{name}.")
        else:
            flat[prefix + name] = inner
    return flat


def _sentence(differing: Mapping[str, tuple[Any, Any]], output: Path) -> str:
    parts = [
        f"{name.partition(PLUGINS)[2]} has other code than when the run in {output} was begun"
        if PLUGINS in name
        else f"{name} is {_shown(new)}, the run in {output} was begun with {_shown(old)}"
        for name, (old, new) in differing.items()
    ]
    more = len(parts) - MAX_NAMED
    return "; ".join([*parts[:MAX_NAMED], *([f"and {more} more differ"] if more > 0 else [])])


def _shown(value: Any) -> str:
    return "not given" if value is ABSENT else json.dumps(value)
