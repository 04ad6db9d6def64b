"""Scores the frames of a track, and sums them up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from e2r.evaluation.metrics import distances_apart
from e2r.evaluation.text_table import text_table
from e2r.tracking.tracked_frame import TrackedFrame
from e2r.types import Float, Pose

WRONG_MM = 5.0
"""A level is wrong from this TRE on."""


class Scored(NamedTuple):
    """What the summary keeps of one frame."""

    state: str
    accepted: bool
    latency: float  # s
    tre_mm: Mapping[str, float]  # of the levels that are seen; empty without a truth or poses
    wrong: bool  # an accepted level is wrong


def frame_errors(
    frame: TrackedFrame, truth: Mapping[str, Pose], targets: Mapping[str, Float[np.ndarray, "_ 3"]]
) -> dict[str, float]:
    """TRE of each followed level, mm.

    Args:
      frame: what the tracker says.
      truth: level -> true pose, camera from model.
      targets: level -> points, mm, model frame.
    """
    found = {}
    for name, level in frame.levels.items():
        if name in truth:
            found[name] = float(distances_apart(level.pose, truth[name], targets[name]).mean())
    return found


def score(frame: TrackedFrame, errors: Mapping[str, float]) -> Scored:
    """What the summary keeps of a frame.

    Args:
      frame: what the tracker says; poses that are held while something covers them do not count.
      errors: TRE of each followed level, mm.
    """
    accepted = [e for name, e in errors.items() if frame.levels[name].accepted]
    return Scored(
        frame.state,
        frame.accepted,
        frame.latency,
        seen_errors(frame, errors) if frame.state == "tracking" else {},
        max(accepted, default=0.0) >= WRONG_MM,
    )


def seen_errors(frame: TrackedFrame, errors: Mapping[str, float]) -> dict[str, float]:
    """The errors of the levels that the camera sees; the others' poses are only guessed.

    Args:
      frame: what the tracker says; it expects no error of a level that is not seen.
      errors: TRE of each followed level, mm.
    """
    seen = {name for name, level in frame.levels.items() if level.expected_tre_mm is not None}
    return {name: error for name, error in errors.items() if name in seen or not seen}


def summary_table(frames: list[Scored], broken: int, dropped: int = 0) -> str:
    """States, acceptance, latency and errors of a track, as a table.

    Args:
      frames: those that were read.
      broken: number of those that were not.
      dropped: number of those that came too soon, in a track that is played live.
    """
    states = Counter(frame.state for frame in frames)
    latency = 1e3 * np.array([frame.latency for frame in frames] or [np.nan])
    rows = [["frames", str(len(frames) + broken + dropped)]]
    rows += [[state, str(count)] for state, count in states.most_common()]
    rows += [["not readable", str(broken)]] if broken else []
    rows += [["dropped", str(dropped)]] if dropped else []
    rows.append(["accepted", str(sum(frame.accepted for frame in frames))])
    rows.append(["latency, median (ms)", f"{np.median(latency):.1f}"])
    rows.append(["latency, 95 % (ms)", f"{np.quantile(latency, 0.95):.1f}"])
    errors = [value for frame in frames for value in frame.tre_mm.values()]
    if errors:
        wrong = sum(frame.wrong for frame in frames)
        rows.append(["median TRE (mm)", f"{np.median(errors):.2f}"])
        rows.append([f"an accepted level {WRONG_MM:g} mm off or more", str(wrong)])
    return text_table(["", ""], rows)
