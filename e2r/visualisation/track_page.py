"""The page of a track: its timeline, and pictures of its worst moments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from e2r.datasets.recordings import Recording
from e2r.visualisation.figures import Surfaces
from e2r.visualisation.pages import data_url, figure_html, render
from e2r.visualisation.timeline import timeline
from e2r.visualisation.track_pictures import TrackLine, coarse_surfaces, draw_frames, readable

MAX_MOMENTS = 6
MIN_APART_SECONDS = 0.5
"""Moments of one kind are no nearer to each other, nor nearer than a tenth of the track."""
WIDTH = 360
"""Of a picture, pixels, at most."""


class Moment(NamedTuple):
    """A frame that is shown."""

    number: int
    text: str  # second, state and figure


class ShownMoment(NamedTuple):
    """A moment with its picture."""

    text: str
    url: str  # a data URL


def track_page(
    title: str, recording: Recording, lines: Sequence[TrackLine], surfaces: Surfaces
) -> str:
    """The page of a track.

    Args:
      title: heading of the page.
      recording: that was tracked; the worst moments are read from it.
      lines: of the track.
      surfaces: level -> surface, mm, model frame.
    """
    moments = {moment.number: moment.text for moment in worst_moments(lines)}
    drawn = draw_frames(
        recording.read(list(moments)),
        {line["number"]: line for line in lines},
        coarse_surfaces(surfaces),
        width=WIDTH,
    )
    shown = [ShownMoment(moments[number], data_url(one, "JPEG")) for number, one in drawn]
    figure = figure_html(timeline(lines), "timeline")
    return render("track.html.jinja", title=title, figure=figure, moments=shown)


def worst_moments(lines: Sequence[TrackLine]) -> list[Moment]:
    """The frames that a reader should see, in order of time.

    They are the first frames of losses, at most half of them, and those with the largest TRE. Where
    no truth is known, they are those where least agrees while the levels are followed.

    Args:
      lines: of the track, in order of time.
    """
    frames = readable(lines)
    if not frames:
        return []
    apart = max(MIN_APART_SECONDS, (frames[-1]["seconds"] - frames[0]["seconds"]) / 10)
    losses = [
        line
        for before, line in zip([None, *frames], frames, strict=False)
        if line["state"] == "lost" and (before is None or before["state"] != "lost")
    ]
    followed = [line for line in frames if line["state"] == "tracking"]
    known = [line for line in followed if _worst_level(line) is not None]
    if known:
        known.sort(key=lambda line: -max(_errors(line).values()))
    else:
        known = sorted(followed, key=lambda line: line["agreeing"])
    chosen = _spread(losses, MAX_MOMENTS // 2, apart)
    numbers = {line["number"] for line in chosen}
    known = [line for line in known if line["number"] not in numbers]
    chosen += _spread(known, MAX_MOMENTS - len(chosen), apart)
    chosen.sort(key=lambda line: line["number"])
    return [Moment(line["number"], _text(line)) for line in chosen]


def _spread(candidates: Sequence[TrackLine], most: int, apart: float) -> list[TrackLine]:
    """The first candidates that are so many seconds apart."""
    chosen: list[TrackLine] = []
    for line in candidates:
        near = any(abs(line["seconds"] - one["seconds"]) < apart for one in chosen)
        if len(chosen) < most and not near:
            chosen.append(line)
    return chosen


def _errors(line: TrackLine) -> dict[str, float]:
    """TRE of the levels that the camera sees, mm; of all where no level says that it is seen."""
    levels = {name: level for name, level in line["levels"].items() if "tre_mm" in level}
    seen = [name for name, level in levels.items() if level["expected_tre_mm"] is not None]
    return {name: levels[name]["tre_mm"] for name in seen or levels}


def _worst_level(line: TrackLine) -> str | None:
    errors = _errors(line)
    return max(errors, key=errors.__getitem__) if errors else None


def _text(line: TrackLine) -> str:
    followed = line["state"] == "tracking"
    doubtful = followed and not line["accepted"]
    words = f"{line['seconds']:.1f} s, {line['state']}" + (", not accepted" if doubtful else "")
    worst = _worst_level(line) if followed else None
    if worst is not None:
        return f"{words}: TRE {_errors(line)[worst]:.2f} mm ({worst})"
    return f"{words}: {line['agreeing']:.0%} agrees, {line['covered']:.0%} covered"
