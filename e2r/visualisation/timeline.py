"""A track as a timeline: states, evidence, errors and latency, one below the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from e2r.visualisation.colors import line_color

STATE_COLORS = {
    "searching": "#c9c9c9",
    "tracking": "#a6d8a8",
    "occluded": "#f4d58d",
    "lost": "#e8a0a0",
}
"""Colour of each state's band."""


def timeline(lines: Sequence[Mapping[str, Any]]) -> go.Figure:
    """The figure of a track.

    Args:
      lines: of ``poses.jsonl``, in order; those of unreadable frames are left out.
    """
    frames = [line for line in lines if "error" not in line]
    levels = list(dict.fromkeys(name for frame in frames for name in frame["levels"]))
    field = "tre_mm" if any("tre_mm" in _level(f, n) for f in frames for n in levels) else None
    titles = ["evidence", "TRE (mm)" if field else "expected TRE (mm)", "latency (ms)"]
    figure = make_subplots(3, 1, shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.08)
    seconds = [frame["seconds"] for frame in frames]
    for name, color in (("agreeing", "#2a9d4a"), ("covered", "#d1495b")):
        figure.add_scatter(
            x=seconds,
            y=[frame[name] for frame in frames],
            name=name,
            line={"color": color},
            row=1,
            col=1,
        )
    for number, name in enumerate(levels):
        figure.add_scatter(
            x=seconds,
            y=[_level(frame, name).get(field or "expected_tre_mm") for frame in frames],
            name=name,
            line={"color": line_color(number)},
            row=2,
            col=1,
        )
    figure.add_scatter(
        x=seconds,
        y=[frame["latency_ms"] for frame in frames],
        name="latency",
        line={"color": "#555"},
        row=3,
        col=1,
    )
    for row in (2, 3):
        figure.update_yaxes(type="log", row=row, col=1)
    figure.update_xaxes(title_text="seconds", row=3, col=1)
    for state, begin, end in _bands(frames):
        figure.add_vrect(
            x0=begin,
            x1=end,
            fillcolor=STATE_COLORS.get(state, "#fff"),
            opacity=0.45,
            line_width=0,
            layer="below",
        )
    for state, color in STATE_COLORS.items():
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            marker={"color": color, "size": 12, "symbol": "square"},
            name=state,
        )
    figure.update_layout(height=760, template="plotly_white", margin={"t": 40})
    return figure


def _level(frame: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What a frame says of a level; empty where it says nothing."""
    found: Mapping[str, Any] = frame["levels"].get(name, {})
    return found


def _bands(frames: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, float]]:
    """The stretches of one state: name, first and last second."""
    bands: list[tuple[str, float, float]] = []
    for number, frame in enumerate(frames):
        end = frames[min(number + 1, len(frames) - 1)]["seconds"]
        if bands and bands[-1][0] == frame["state"]:
            bands[-1] = (frame["state"], bands[-1][1], end)
        else:
            bands.append((frame["state"], frame["seconds"], end))
    return bands
