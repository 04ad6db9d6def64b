"""Plots of numbers: success rate, risk–coverage, training, heat maps, box plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from e2r.evaluation.summary import RiskCoverageCurve
from e2r.types import Array
from e2r.visualisation.colors import MASK_COLORS

PANEL_COLORS = ("#2e86ab", "#d1495b")
"""Colours of the panels of box plots, in turn."""
_MARGIN = {"l": 60, "r": 10, "t": 20, "b": 50}


def success_curves(errors: Mapping[str, Array | Sequence[float]]) -> go.Figure:
    """The success rate (share of cases below a TRE) over that TRE.

    Args:
      errors: mask name -> TRE of each case in mm; values that are not finite are left out.
    """
    figure = go.Figure()
    for name, values in errors.items():
        tre = np.ravel(np.asarray(values, np.float64))
        tre = np.sort(tre[np.isfinite(tre)])
        figure.add_scatter(
            x=np.maximum(tre, 0.01),
            y=np.arange(1, len(tre) + 1) / max(len(tre), 1),
            name=name,
            mode="lines",
            line_shape="hv",
            line_color=MASK_COLORS.get(name),
            hovertemplate="%{y:.1%} below %{x:.2f} mm",
        )
    figure.add_vline(x=2.0, line_dash="dot", line_color="#999")
    figure.add_annotation(  # on a logarithmic axis, plotly places an annotation by the logarithm
        x=float(np.log10(2.0)), y=0.02, text="2 mm", showarrow=False, xanchor="left"
    )
    figure.update_xaxes(type="log", title="TRE, mm", dtick="D2")  # ticks at 1, 2 and 5
    figure.update_yaxes(title="success rate", range=[0, 1.02], tickformat=".0%")
    figure.update_layout(legend={"x": 0.02, "y": 0.98, "bgcolor": "rgba(255,255,255,0.7)"})
    return _styled(figure, 400)


def risk_coverage_curve(curve: RiskCoverageCurve) -> go.Figure:
    """The risk (share of wrong predictions) over the coverage (share of cases accepted).

    Args:
      curve: of an evaluation with a calibration.
    """
    figure = go.Figure()
    figure.add_scatter(
        x=curve.coverage,
        y=curve.wrong,
        customdata=curve.expected_tre_mm,
        mode="lines",
        hovertemplate="expected TRE up to %{customdata:.2f} mm:<br>"
        "coverage %{x:.1%}, risk %{y:.1%}<extra></extra>",
        line_color=MASK_COLORS["learnt"],
        name="TRE of 5 mm or more",
    )
    figure.update_xaxes(
        title="coverage (least expected TRE first)", range=[0, 1.02], tickformat=".0%"
    )
    figure.update_yaxes(
        title="risk: TRE of 5 mm or more", rangemode="tozero", tickformat=".0%", minallowed=0
    )
    return _styled(figure, 320)


def training_curves(log: Sequence[Mapping[str, float | int]]) -> go.Figure:
    """Loss, TRE and mask statistics over the steps of a training run.

    Each point is the median over a hundredth of the run. A measure that the log lacks is empty.

    Args:
      log: lines of ``metrics.jsonl``, in order.
    """
    panels = {
        "loss": [("loss", "loss", "#555")],
        "training TRE, mm": [
            ("tre_mm", "after the unrolled steps", MASK_COLORS["learnt"]),
            ("start_mm", "initial pose", MASK_COLORS["all"]),
            ("coarse_mm", "coarse stage", MASK_COLORS["oracle"]),
        ],
        "mask": [
            ("keep", "share of points kept", "#2a9d4a"),
            ("entropy", "entropy, bits", "#e09f3e"),
        ],
        "effective number of points": [("effective", "effective number", "#6a4c93")],
    }
    figure = make_subplots(2, 2, subplot_titles=[*panels], vertical_spacing=0.16)
    width = max(1, len(log) // 100)
    blocks = [log[i : i + width] for i in range(0, len(log), width)]
    for i, lines in enumerate(panels.values()):
        for field, title, color in lines:
            found = [(b[-1]["step"], [m[field] for m in b if field in m]) for b in blocks]
            figure.add_scatter(
                x=[step for step, values in found if values],
                y=[float(np.median(values)) for _, values in found if values],
                name=title,
                line_color=color,
                mode="lines",
                row=i // 2 + 1,
                col=i % 2 + 1,
            )
    figure.update_xaxes(title="step", row=2)
    figure.update_yaxes(type="log", row=1, col=2)
    figure.update_layout(legend={"orientation": "h", "y": -0.12})
    return _styled(figure, 560, margin={"l": 50, "r": 10, "t": 40, "b": 80})


def heat_maps(
    maps: Mapping[str, Any],
    x: Sequence[float | str],
    y: Sequence[float | str],
    *,
    x_title: str,
    y_title: str,
    columns: int | None = None,
    unit: str = "%",
    limits: tuple[float, float] = (0.0, 100.0),
) -> go.Figure:
    """Heat maps side by side on one colour scale, with the value in each cell.

    Args:
      maps: title -> values of shape (len(y), len(x)).
      x: label of each column.
      y: label of each row.
      x_title: title of the x axes.
      y_title: title of the y axes.
      columns: number of maps in a row; all of them if None.
      unit: of the values, for the colour bar.
      limits: of the colour scale.
    """
    columns = columns or len(maps)
    rows = -(-len(maps) // columns)
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[*maps],
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=min(0.06, 0.3 / rows),
    )
    for i, values in enumerate(maps.values()):
        figure.add_trace(
            go.Heatmap(
                z=np.asarray(values, np.float64),
                x=[_label(v) for v in x],
                y=[_label(v) for v in y],
                zmin=limits[0],
                zmax=limits[1],
                colorscale="Viridis",
                showscale=i == 0,
                colorbar={"title": unit},
                texttemplate="%{z:.3~g}",
            ),
            i // columns + 1,
            i % columns + 1,
        )
    figure.update_xaxes(title_text=x_title, row=rows, type="category")
    figure.update_yaxes(title_text=y_title, col=1, type="category")
    figure.update_layout(width=260 * columns + 160, font={"size": 11})
    return _styled(figure, 260 * rows + 120, margin={"l": 60, "r": 10, "t": 60, "b": 60})


def error_boxes(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    lines: Mapping[str, float],
    *,
    title: str,
    solid: frozenset[str] = frozenset(),
) -> go.Figure:
    """Box plots of the TRE by group, with other results as horizontal lines.

    Args:
      panels: title of the panel -> group -> TRE of each case in mm.
      lines: label -> TRE in mm, drawn through all panels.
      title: title of the figure.
      solid: labels of the lines that are solid; the others are dotted.
    """
    figure = make_subplots(1, len(panels), subplot_titles=[*panels])
    for column, groups in enumerate(panels.values(), 1):
        color = PANEL_COLORS[(column - 1) % len(PANEL_COLORS)]
        for name, errors in groups.items():
            figure.add_box(y=[*errors], name=name, line_color=color, row=1, col=column)
    for label, mm in lines.items():
        dash = "solid" if label in solid else "dot"
        figure.add_hline(y=mm, line_dash=dash, annotation_text=f"{label} {mm:.2f} mm")
    figure.update_yaxes(type="log", title="TRE, mm")
    figure.update_layout(template="plotly_white", showlegend=False, title=title)
    return figure


def growth_curves(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> go.Figure:
    """How time and memory grow, on logarithmic axes; a panel a quantity.

    Args:
      panels: title of the panel -> "values" of the quantity, "time, ms" and "memory, MB".
    """
    figure = make_subplots(1, len(panels), subplot_titles=[*panels], horizontal_spacing=0.04)
    lines = ("time, ms", "memory, MB")
    for column, panel in enumerate(panels.values(), 1):
        for name, color in zip(lines, PANEL_COLORS, strict=True):
            figure.add_scatter(
                x=panel["values"],
                y=panel[name],
                name=name,
                line_color=color,
                mode="lines+markers",
                showlegend=column == 1,
                row=1,
                col=column,
            )
        ticks = [*panel["values"]]
        text = [f"{value:,.0f}" for value in ticks]
        figure.update_xaxes(type="log", tickvals=ticks, ticktext=text, row=1, col=column)
    figure.update_yaxes(type="log", dtick=1)
    figure.update_layout(legend={"orientation": "h", "y": -0.15})
    return _styled(figure, 360, margin={"l": 50, "r": 10, "t": 40, "b": 60})


def _styled(figure: go.Figure, height: int, margin: Mapping[str, int] = _MARGIN) -> go.Figure:
    return figure.update_layout(template="plotly_white", height=height, margin=margin)


def _label(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
