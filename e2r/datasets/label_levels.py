"""Which label is which level: by names, by a numbering, or by what the labels look like."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from e2r.datasets.label_bodies import Body, complaint, is_small
from e2r.formats import label_numberings, notices
from e2r.formats.file_checks import PathLike
from e2r.formats.label_numberings import NUMBERINGS, VERSE, Numbering
from e2r.formats.level_names import SACRUM, level_of_name
from e2r.formats.voxels import LabelVolume
from e2r.geometry.anatomical_frame import sort_levels

REMEDY = "name the numbers with --numbering, or with --labels and --levels"
DEFAULT_NAMES = re.compile(r"(label|segment)[ _-]?\d*", re.IGNORECASE)
"""Names that ITK-SNAP and 3D Slicer give to unnamed labels."""
LIKELY: tuple[Numbering, ...] = (
    "verse",
    "totalsegmentator-v1",
    "totalsegmentator-v2",
    "totalsegmentator-mr",
)
"""Numberings that are tried; v3 differs from v2 only in label 26."""
DOUBTFUL_IN_V2 = (25, 26)
"""26 is S1 in v2 and L6 in v3; 25 is the rest of the sacrum or all of it."""


def by_names(volume: LabelVolume, path: PathLike) -> dict[int, str] | None:
    """Levels by the names and coded concepts in the file.

    Args:
      volume: of the file.
      path: the file, for messages.

    Returns:
      label -> level, or None if the file names nothing, or only as programs name by default.

    Raises:
      ValueError: a name and its code say different levels.
    """
    levels = {}
    for label in {**volume.names, **volume.codes}:
        name, code = volume.names.get(label, ""), volume.codes.get(label)
        named = level_of_name(name)
        if named and code and named != code and SACRUM not in (named, code):
            raise ValueError(
                f"{path}: calls label {label} {name!r}, but its code says {code}; correct one"
            )
        if level := named or code:
            levels[label] = level
    if levels or not all(DEFAULT_NAMES.fullmatch(name) for name in volume.names.values()):
        return levels
    return None


def settle_sacrum(levels: Mapping[int, str]) -> dict[int, str]:
    """Calls the sacrum S1, or leaves it out where another label is S1.

    Args:
      levels: label -> level, or `SACRUM`.
    """
    has_s1 = "S1" in levels.values()
    return {
        label: "S1" if level == SACRUM else level
        for label, level in levels.items()
        if not (has_s1 and level == SACRUM)
    }


def by_evidence(
    bodies: Mapping[int, Body], path: PathLike, *, wanted: Sequence[str] = (), oriented: bool = True
) -> dict[int, str]:
    """Levels by the only numbering under which the labels make a spine.

    VerSe counts from head to tail and TotalSegmentator from tail to head, so two levels tell them
    apart. Two numberings of TotalSegmentator are told apart by the volumes.

    Args:
      bodies: label -> its voxels.
      path: the file, for messages and hints.
      wanted: levels that the user names.
      oriented: whether the file says where the head is. If not, only VerSe's numbers are accepted.

    Returns:
      label -> level.

    Raises:
      ValueError: no numbering fits, or several do.
    """
    known = {name: _levels(bodies, name) for name in LIKELY}
    whole = {
        name: {k: level for k, level in levels.items() if not is_small(level, bodies[k])}
        for name, levels in known.items()
    }
    verse = known["verse"]
    if not verse and max((len(some) for some in known.values()), default=0) < 2:
        there = ", ".join(map(str, bodies)) or "none"
        raise ValueError(f"{path}: has none of the labels {sorted(VERSE)} (but {there}); {REMEDY}")
    why = {name: _complaint(bodies, whole[name] or known[name], name) for name in LIKELY}
    fitting = {name: whole[name] for name in LIKELY if whole[name] and why[name] is None}
    if not oriented and len(bodies) > 1 and fitting and "verse" not in fitting:
        raise ValueError(
            f"{path}: its labels lie as {' or '.join(fitting)} numbers them, but the file does not "
            f"say where the head is; {REMEDY}"
        )
    if len(fitting) > 1:
        fitting = _narrow(fitting, bodies, path)
    if len(fitting) == 1:
        ((name, levels),) = fitting.items()
        if len(levels) > 1 or (name == "verse" and next(iter(levels.values()))[0] == "L"):
            return _said(name, known[name], bodies, path=path)
        fitting = {}
    missing = [level for level in wanted if level not in verse.values()]
    if not fitting and missing and verse:
        raise ValueError(
            f"{path}: has no {', '.join(missing)} (but {', '.join(sort_levels([*verse.values()]))})"
            f"; {REMEDY}"
        )
    there = ", ".join(map(str, bodies))
    if fitting:
        some = "; ".join(f"{name}: {_list(levels)}" for name, levels in fitting.items())
        raise ValueError(f"{path}: its labels {there} fit several numberings ({some}); {REMEDY}")
    first: Numbering = max(LIKELY, key=lambda name: len(known[name]))
    reason = why[first] or "one level alone proves nothing"
    raise ValueError(
        f"{path}: its labels {there} fit no known numbering (by {first}, {reason}); {REMEDY}, or "
        "correct the map"
    )


def _levels(bodies: Mapping[int, Body], name: Numbering) -> dict[int, str]:
    """label -> level under a numbering."""
    levels = {label: level for label, level in NUMBERINGS[name].items() if label in bodies}
    if name == "totalsegmentator-v2" and DOUBTFUL_IN_V2[1] in bodies:
        levels = {label: level for label, level in levels.items() if label not in DOUBTFUL_IN_V2}
    return settle_sacrum(levels)


def _complaint(
    bodies: Mapping[int, Body], levels: Mapping[int, str], name: Numbering
) -> str | None:
    """Why a numbering does not fit, or None."""
    if name != "verse" or len(levels) < 3:
        for label in bodies:
            if not label_numberings.allows(name, label):
                return f"there is no label {label}"
    if name == "totalsegmentator-mr" and levels.get(1) == "S1" and bodies[1].volume_cm3 < 90:
        return f"the sacrum has {bodies[1].volume_cm3:.3g} cm3"
    return complaint({level: bodies[label] for label, level in levels.items()}, guessed=True)


def _narrow(
    fitting: Mapping[Numbering, dict[int, str]], bodies: Mapping[int, Body], path: PathLike
) -> dict[Numbering, dict[int, str]]:
    """The numberings that remain of those that fit.

    One that explains more labels beats those that explain a part of these. The file's name may
    name one.
    """
    most = {
        name: levels
        for name, levels in fitting.items()
        if not any(set(levels) < set(other) for other in fitting.values())
    }
    hint = Path(path).name.lower()
    hinted = {name: levels for name, levels in most.items() if name in hint}
    if len(most) > 1 and not hinted:
        is_ts = "totalseg" in hint
        hinted = {
            name: levels
            for name, levels in most.items()
            if (is_ts and name != "verse") or (name == "verse" and "verse" in hint)
        }
    return hinted or most


def _said(
    name: Numbering, levels: dict[int, str], bodies: Mapping[int, Body], *, path: PathLike
) -> dict[int, str]:
    """The levels, after a notice where they are not VerSe's."""
    if name != "verse":
        notices.say(
            path,
            f"its labels lie as {name} numbers them ({_list(levels)}); --numbering names another",
        )
    if name == "totalsegmentator-v2" and DOUBTFUL_IN_V2[1] in bodies:
        notices.say(
            path,
            "label 26 was left out, as it is S1 in TotalSegmentator v2 and L6 in v3; --numbering "
            "says which",
        )
    return levels


def _list(levels: Mapping[int, str]) -> str:
    """``27 is L5, 28 is L4``."""
    return ", ".join(f"{label} is {level}" for label, level in levels.items())
