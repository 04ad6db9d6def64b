"""Why a registration was not accepted, where one can tell: wrong inputs leave traces.

A frame in which the network saw no wound has that cause. Any other case is registered again under
trials: with a mirrored scene, with a larger or smaller one, with other focal lengths. A trial that
is accepted where the case itself is not names the cause. Without one, hardly any bone may be it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

from e2r.datasets.case import Case
from e2r.evaluation.results import Failed, Registered

SCALES = (0.8, 0.9, 1.11, 1.25)
"""Sizes of the model, and of the focal lengths, that are tried. A registration forgives 5 %."""


MIN_SHARE = 0.5
"""A fit that leaves more of the mask's points off the model tells no cause: a mask that learnt
nothing fits many sizes."""


class Cause(NamedTuple):
    """The likely cause of a registration that was not accepted."""

    name: str  # mirrored, size, focal length, no wound, little bone
    sentence: str  # for the user: what was seen, and the remedy


class Trial(NamedTuple):
    """A change of the inputs under which a case may register."""

    name: str
    factor: float  # of the size or of the focal lengths; -1 for the mirrored scene
    case: Case


def find_cause(
    result: Registered,
    mask: str,
    *,
    attempt: Callable[[list[Case]], Iterable[Registered | Failed]],
    accepts: Callable[[Registered], bool],
    min_keep_ratio: float,
) -> Cause | None:
    """The likely cause of a registration that was not accepted; None where none can be told.

    Args:
      result: the registration.
      mask: its mask.
      attempt: registers cases, with the settings of the first registration.
      accepts: whether a registration may be used.
      min_keep_ratio: smallest share of the points that the learnt mask keeps.
    """
    if result.interest < 0:  # before the trials: an empty drape fits a model of some size
        return Cause(
            "no wound",
            "no wound was found in the frame; show the exposed bone, nearer and in focus",
        )
    tried = {id(trial.case): trial for trial in trials(result.case)}
    found = [
        (tried[id(again.case)], again)
        for again in attempt([trial.case for trial in tried.values()])
        if isinstance(again, Registered) and accepts(again) and fits(again, mask)
    ]
    if found:
        trial, again = max(found, key=lambda pair: pair[1].inlier_share(mask))
        factor = trial.factor * (again.scales[mask].lateral if trial.name == "size" else 1.0)
        return _cause(trial.name, factor)
    if fits(result, mask) and result.is_mirrored(mask):
        return _cause("mirrored", -1.0)
    if fits(result, mask) and not result.scales[mask].plausible:
        return _cause("size", result.scales[mask].lateral)
    kept = result.mask_points(mask) / float(result.cloud.valid.sum())
    if kept <= 1.01 * min_keep_ratio:
        return Cause(
            "little bone",
            f"the mask found bone in fewer than {min_keep_ratio:.0%} of the wound's points; "
            "clear the bone of tissue and blood",
        )
    return None


def fits(result: Registered, mask: str) -> bool:
    """Whether most of a mask's points lie on the model, once its size is free.

    Args:
      result: a registration.
      mask: its mask.
    """
    return result.scales[mask].share >= MIN_SHARE


def trials(case: Case) -> list[Trial]:
    """The changed cases under which a case may register; only their scenes differ from it.

    A mirrored scene fits the model where the scene fits the mirrored model. A scene that is
    shrunk fits where the model is too small.

    Args:
      case: the case. Its trials have no truth and no folder, but its id: they draw the same points.
    """
    changes = [("mirrored", -1.0, (-1.0, 1.0, 1.0))]
    changes += [("size", factor, (1 / factor,) * 3) for factor in SCALES]
    changes += [("focal length", factor, (1 / factor, 1 / factor, 1.0)) for factor in SCALES]
    bare = replace(case, image=None, normals=None, truth=None, targets=None, folder=None)
    return [
        Trial(name, factor, replace(bare, points=case.points * scaling))
        for name, factor, scaling in changes
    ]


def _cause(name: str, factor: float) -> Cause:
    """The sentence of a cause that a trial or the fitted size tells."""
    sentences = {
        "mirrored": "the mirror image of the model fits; export it in axes that are not mirrored",
        "size": (
            f"the frame shows the model {factor:.2f} times as large; check the depth's scale, and "
            "the unit and voxel size of the model"
        ),
        "focal length": (
            f"the frame fits with focal lengths about {factor:.2f} times as large; check fx and "
            "fy, and whether they belong to this picture size"
        ),
    }
    return Cause(name, sentences[name])
