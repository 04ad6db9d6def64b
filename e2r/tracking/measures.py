"""What is measured of a played recording: errors, recoveries, jitter and lag of its track."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
import trimesh

from e2r.datasets.case import vertex_targets
from e2r.evaluation.metrics import distances_apart
from e2r.formats.scenes import RgbdImage
from e2r.geometry import poses
from e2r.registration.tracking import TrackingSettings
from e2r.simulation.sequence_paths import SequenceConfig
from e2r.simulation.sequences import SequenceFrame
from e2r.tracking.finder import Found, ModelFinder
from e2r.tracking.settings import TrackerConfig
from e2r.tracking.summary import WRONG_MM, frame_errors, seen_errors
from e2r.tracking.tracked_frame import TrackedFrame
from e2r.tracking.tracker import Tracker

VISIBLE = 0.95
"""The wound is visible while so much of its picture is."""
RIGHT_FRAMES = 3
"""The levels are found again once they are right in so many frames in a row."""
RECOVERY_SECONDS = 1.0


class Played(NamedTuple):
    """A recording, and what the tracker said of it."""

    frames: list[SequenceFrame]
    images: list[RgbdImage]
    model: dict[str, trimesh.Trimesh]
    exposed: tuple[str, ...]
    config: SequenceConfig
    tracked: list[TrackedFrame | None]  # None: dropped, for the one before took too long
    first: Found | str  # a registration of the first frame, or why there is none


def errors_of(played: Played) -> list[dict[str, float]]:
    """TRE of the seen levels in each frame, mm; empty where nothing is said."""
    targets = vertex_targets(played.model)
    found: list[dict[str, float]] = []
    for frame, tracked in zip(played.frames, played.tracked, strict=True):
        truth = frame.level_poses(played.model)
        if tracked is None or tracked.state != "tracking":
            found.append({})
        else:
            found.append(seen_errors(tracked, frame_errors(tracked, truth, targets)))
    return found


def alone_errors(
    played: Played, finder: ModelFinder, every: int
) -> tuple[dict[int, dict[str, float]], list[float]]:
    """Frames by themselves: number -> TRE of each exposed level (mm); and seconds.

    Args:
      played: the recording; frames in which the wound is not visible are left out.
      finder: of its model.
      every: so many-th frame is taken.
    """
    targets, names = vertex_targets(played.model), list(played.model)
    errors: dict[int, dict[str, float]] = {}
    seconds: list[float] = []
    for number in range(every // 2, len(played.frames), every):
        if played.frames[number].visible < VISIBLE:
            continue
        began = time.perf_counter()
        found = finder.find(played.images[number], number)
        seconds.append(time.perf_counter() - began)
        if isinstance(found, str):
            continue
        truth = played.frames[number].level_poses(names)
        errors[number] = {}
        for name in played.exposed:
            level = names.index(name)
            pose = jax.tree.map(lambda leaf, i=level: leaf[i], found.pose)
            apart = distances_apart(pose, truth[name], targets[name])
            errors[number][name] = float(apart.mean())
    return errors, seconds


def of_both(
    alone: Mapping[int, Mapping[str, float]], tracked: Sequence[Mapping[str, float]]
) -> list[tuple[float, float]]:
    """Mean TRE alone and tracked, mm, of the same levels in the same frames.

    Args:
      alone: number of a frame -> TRE of each level.
      tracked: TRE of the levels that are followed in each frame.
    """
    pairs = []
    for number, errors in alone.items():
        common = errors.keys() & tracked[number].keys()
        if common:
            pair = [float(np.mean([one[k] for k in common])) for one in (errors, tracked[number])]
            pairs.append((pair[0], pair[1]))
    return pairs


class _Once:
    """A finder that finds the first frame, and then nothing."""

    def __init__(self, finder: ModelFinder, first: Found) -> None:
        self.levels, self.surface = finder.levels, finder.surface
        self._first = first

    def find(self, image: RgbdImage, number: int) -> Found | str:
        return self._first if number == 0 else "is not asked again"


def undisturbed(played: Played, finder: ModelFinder, *, filtered: bool = True) -> Played:
    """The recording with no registration but the first, until a frame is hidden.

    Args:
      played: the recording.
      finder: of its model.
      filtered: whether small motions are taken for noise, as usual.
    """
    settings = TrackingSettings() if filtered else TrackingSettings(quiet_mm=1e-9)
    tracked: list[TrackedFrame | None] = []
    if not isinstance(played.first, str):
        once, config = _Once(finder, played.first), TrackerConfig(tracking=settings)
        with Tracker(once, config=config, beside=False) as tracker:
            for frame, image in zip(played.frames, played.images, strict=True):
                if frame.visible < VISIBLE:
                    break
                tracked.append(tracker.update(image, frame.seconds))
    return played._replace(frames=played.frames[: len(tracked)], tracked=tracked)


class Recovery(NamedTuple):
    """What came after the wound was hidden or left."""

    kind: str  # hand, cut
    seconds: float  # until the levels are right; infinite where they are not any more
    before: bool  # whether they were right when they were last seen


def recoveries(played: Played, errors: Sequence[dict[str, float]]) -> list[Recovery]:
    """The recovery after each time at which the wound was not visible."""
    visible = np.array([frame.visible for frame in played.frames])
    right = np.array([bool(e) and max(e.values()) < WRONG_MM for e in errors])
    followed = [t is not None and t.state == "tracking" for t in played.tracked]
    found = []
    seen = False  # whether the levels were right in the last frame with a visible wound
    for number in range(1, len(visible)):
        if visible[number - 1] >= VISIBLE:
            seen = bool(right[number - 1])
        if not (visible[number] >= VISIBLE > visible[number - 1]):
            continue
        if not any(followed[:number]):
            continue  # nothing was found yet that could be lost
        until = number
        while until < len(visible) and visible[until] >= VISIBLE:
            until += 1
        if until - number < played.config.rate * RECOVERY_SECONDS and until < len(visible):
            continue  # hidden again within the second
        if len(visible) - number < played.config.rate * RECOVERY_SECONDS:
            continue
        was_cut = (visible[max(number - 15, 0) : number] == 0.0).any()
        rows = range(number, until - RIGHT_FRAMES + 1)
        first = next((row for row in rows if right[row : row + RIGHT_FRAMES].all()), None)
        seconds = np.inf if first is None else (first - number) / played.config.rate
        found.append(Recovery("cut" if was_cut else "hand", float(seconds), seen))
    return found


def middles(played: Played) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of tracked frames, and the levels' middles as tracked and in truth, (F, L, 3) mm."""
    names = played.exposed
    centre = {name: np.asarray(played.model[name].vertices).mean(0) for name in names}
    rows, ours, truth = [], [], []
    for row, (frame, tracked) in enumerate(zip(played.frames, played.tracked, strict=True)):
        if tracked is None or tracked.state != "tracking":
            continue
        levels = frame.level_poses(played.model)
        rows.append(row)
        ours.append([poses.apply_host(tracked.levels[n].pose, centre[n][None])[0] for n in names])
        truth.append([poses.apply_host(levels[n], centre[n][None])[0] for n in names])
    return np.array(rows), np.array(ours), np.array(truth)


def jitter_mm(played: Played, seconds: float = np.inf) -> float:
    """RMS of the levels' middles around their mean, mm; of a still recording.

    Args:
      played: nothing moves in it.
      seconds: the mean is taken over so long; over the whole recording by default.
    """
    rows, ours, _ = middles(played)
    size = max(16, int(min(seconds * played.config.rate, len(played.frames))))
    parts = [ours[(rows >= a) & (rows < a + size)] for a in range(0, len(played.frames), size)]
    squares = [((p - p.mean(0)) ** 2).sum(-1).mean() for p in parts if len(p) > 15]
    return float(np.sqrt(np.mean(squares))) if squares else np.nan


def lag_frames(played: Played) -> float:
    """Delay of the track, frames, at which it fits the truth best; of a moving recording."""
    rows, ours, truth = middles(played)
    whole = np.zeros((len(played.frames), *truth.shape[1:]))
    levels = [frame.level_poses(played.model) for frame in played.frames]
    for i, name in enumerate(played.exposed):
        centre = np.asarray(played.model[name].vertices).mean(0)[None]
        whole[:, i] = [poses.apply_host(level[name], centre)[0] for level in levels]
    shifts = np.arange(-2.0, 3.01, 0.05)

    def misfit(shift: float) -> float:
        at = np.clip(rows - shift, 0, len(whole) - 1)
        low = np.minimum(at.astype(int), len(whole) - 2)
        then = whole[low] + (at - low)[:, None, None] * (whole[low + 1] - whole[low])
        apart = ours - then
        apart = apart - np.median(apart, axis=0)
        return float(np.median((apart**2).sum(-1)))

    return float(min(shifts, key=misfit))
