"""The curves of several training runs beside each other, and a table of where each run is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from e2r.evaluation.text_table import text_table

Log = Sequence[Mapping[str, float | int]]

PANELS = {
    "loss": "loss",
    "loss_mask": "loss: mask",
    "loss_coarse": "loss: coarse stage",
    "loss_interest": "loss: region of interest",
    "loss_keep": "loss: kept share",
    "tre_mm": "training TRE, mm",
    "held_out_tre_mm": "held-out TRE, mm",
    "held_out_success_2mm": "held-out success rate, 2\N{NO-BREAK SPACE}mm",
    "coarse_mm": "coarse stage's TRE, mm",
    "keep": "share of points kept",
    "learning_rate": "learning rate",
}
"""Figure -> title of its panel, in order; another term of a loss has a panel, too."""
RARE = ("held_out_", "learning_rate")
"""Figures that are drawn as they are; of the others each point is a median over several lines."""
COLORS = ("#2e86ab", "#d1495b", "#2a9d4a", "#e09f3e", "#6a4c93", "#00798c", "#8d6a4f", "#555")
"""Colours of the runs, in turn."""
POINTS = 100
"""Points of a curve, about."""


def run_curves(logs: Mapping[str, Log]) -> go.Figure:
    """One panel a figure, one colour a run; buttons choose steps or hours for the x axis.

    A figure that no run has is left out.

    Args:
      logs: name of the run -> lines of its ``metrics.jsonl``, in order.
    """
    found = dict.fromkeys(name for log in logs.values() for line in log for name in line)
    terms = {name: f"loss: {name.removeprefix('loss_')}" for name in found if name[:5] == "loss_"}
    panels = {name: title for name, title in {**PANELS, **terms, **PANELS}.items() if name in found}
    rows = max(1, -(-len(panels) // 2))
    figure = make_subplots(
        rows, 2, subplot_titles=[*panels.values()], vertical_spacing=min(0.1, 0.3 / rows)
    )
    in_steps: list[list[float]] = []
    in_hours: list[list[float]] = []
    named: set[str] = set()
    for number, (name, log) in enumerate(logs.items()):
        for place, field in enumerate(panels):
            steps, hours, values = _curve(log, field)
            in_steps.append(steps)
            in_hours.append(hours)
            figure.add_scatter(
                x=steps,
                y=values,
                name=name,
                legendgroup=name,
                showlegend=bool(steps) and name not in named,
                line_color=COLORS[number % len(COLORS)],
                mode="lines+markers" if len(steps) < 2 else "lines",
                hovertemplate="%{y:.4~g} at %{x:.5~g}",
                row=place // 2 + 1,
                col=place % 2 + 1,
            )
            named |= {name} if steps else set()
    titles = {"step": in_steps, "hours": in_hours}
    figure.update_xaxes(title="step", rangemode="tozero")
    figure.update_layout(
        template="plotly_white",
        height=260 * rows + 120,
        margin={"l": 50, "r": 10, "t": 90, "b": 50},
        legend={"orientation": "h", "y": 1, "yanchor": "top", "yref": "container"},
        updatemenus=[_buttons(titles, axes=len(panels))],
    )
    return figure


def last_figures(logs: Mapping[str, Log]) -> str:
    """A table of text: of each run its steps, its hours, and the latest value of some figures.

    Args:
      logs: name of the run -> lines of its ``metrics.jsonl``, in order.
    """
    fields = {
        "loss": "loss",
        "TRE, mm": "tre_mm",
        "held-out TRE, mm": "held_out_tre_mm",
        "held-out success": "held_out_success_2mm",
    }
    rows = []
    for name, log in logs.items():
        latest = [_curve(log, field)[2] for field in fields.values()]
        hours = _hours(log)
        rows.append(
            [
                name,
                log[-1]["step"] if log else 0,
                f"{hours[-1]:.2f}" if hours else "",
                *(f"{values[-1]:.3f}" if values else "" for values in latest),
            ]
        )
    return text_table(["run", "steps", "hours", *fields], rows)


def _curve(log: Log, field: str) -> tuple[list[float], list[float], list[float]]:
    """Steps, hours and values of one figure of a run."""
    hours = _hours(log)
    found = [
        (float(line["step"]), hour, float(line[field]))
        for line, hour in zip(log, hours, strict=True)
        if field in line
    ]
    width = 1 if field.startswith(RARE) else max(1, len(found) // POINTS)
    blocks = [found[i : i + width] for i in range(0, len(found), width)]
    return (
        [block[-1][0] for block in blocks],
        [block[-1][1] for block in blocks],
        [float(np.median([value for *_, value in block])) for block in blocks],
    )


def _hours(log: Log) -> list[float]:
    """Hours of each line; a run of an earlier version counted anew when it was resumed."""
    hours: list[float] = []
    before = last = 0.0
    for line in log:
        seconds = float(line.get("seconds", last))
        before += last if seconds < last else 0.0
        last = seconds
        hours.append((before + seconds) / 3600)
    return hours


def _buttons(titles: Mapping[str, list[list[float]]], *, axes: int) -> dict[str, Any]:
    """Buttons that put other values on all x axes: title of the axes -> values of each curve."""
    names = [f"xaxis{number or ''}.title.text" for number in (0, *range(2, axes + 1))]
    return {
        "type": "buttons",
        "direction": "right",
        "x": 1,
        "xanchor": "right",
        "y": 1,
        "yanchor": "bottom",
        "pad": {"b": 34},
        "buttons": [
            {"label": title, "method": "update", "args": [{"x": x}, dict.fromkeys(names, title)]}
            for title, x in titles.items()
        ],
    }
