"""Pictures: plotly figures and images of arrays. Nothing here computes what it shows."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import trimesh
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots
from scipy import ndimage

from e2r.datasets.case import Case
from e2r.types import Array, Pose

MASK_COLORS = {"all": "#8d8d8d", "learnt": "#d1495b", "oracle": "#2e86ab"}
"""Of each mask, in every picture."""
PALETTE = ("#e9dcc0", "#b8d0c8", "#d9b48f", "#b9bfd9", "#dcc5d3", "#cfd3a6", "#c9c2b6")
"""Of the levels, in their order."""
RED = np.array([214.0, 40.0, 60.0])
_REDS = [[0.0, "#f7dade"], [1.0, "#d6283c"]]
Surfaces = Mapping[str, trimesh.Trimesh]
_EYE = {"eye": {"x": 0.0, "y": 0.0, "z": -1.7}, "up": {"x": 0.0, "y": -1.0, "z": 0.0}}


# A scene in three dimensions ----------------------------------------------------------------------


def scene_figure(
    points: Array,
    colours: Array | None = None,
    weights: Array | None = None,
    surfaces: Surfaces | None = None,
    poses: Mapping[str, Pose] | Pose | None = None,
    error: Array | None = None,
    targets: Array | None = None,
) -> go.Figure:
    """A cloud under the surgeon's eyes (camera frame: x right, y down), with registered surfaces.

    Each layer is switched by a click on its name. Of mask and error, the last one given is shown.

    Args:
      points: (N, 3) mm, camera frame; rows that are not finite are left out.
      colours: (N, 3) in [0, 1]; grey without.
      weights: (N,) in [0, 1], the mask.
      surfaces: level name -> surface, mm, model frame.
      poses: camera from model, one for all levels or one each; without, the surfaces are placed.
      error: (N,) a figure a point, such as its distance from the surface, mm.
      targets: (T, 3) mm, camera frame: where the truth puts the targets.
    """
    points = np.asarray(points, np.float32)
    seen = np.isfinite(points).all(axis=1)
    if colours is None:
        colours = np.full(points.shape, 0.6)
    figure = go.Figure()
    figure.add_scatter3d(
        **_xyz(points[seen]),
        mode="markers",
        name="scene",
        hoverinfo="skip",
        marker={"size": 2, "color": _css(np.asarray(colours)[seen])},
    )
    for name, given, scale in (("mask", weights, _REDS), ("error", error, "Viridis")):
        if given is None:
            continue
        values = np.asarray(given, np.float32)
        shown = seen & (values > 0.05 if name == "mask" else np.isfinite(values))
        limits = (0.0, 1.0) if name == "mask" else (0.0, _upper(values[shown]))
        figure.add_scatter3d(
            **_xyz(points[shown]),
            mode="markers",
            name=name,
            text=values[shown].round(3),
            hovertemplate=name + " %{text}<extra></extra>",
            visible=True if name == "error" or error is None else "legendonly",
            marker={
                "size": 3,
                "color": values[shown].round(3),
                "colorscale": scale,
                "cmin": limits[0],
                "cmax": limits[1],
                "showscale": name == "error",
                "colorbar": {"thickness": 10, "len": 0.6, "x": 0.0},
            },
        )
    for i, (name, mesh) in enumerate((surfaces or {}).items()):
        pose = poses.get(name) if isinstance(poses, Mapping) else poses
        vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces, np.int32)
        figure.add_mesh3d(
            **_xyz(vertices if pose is None else place_points(pose, vertices)),
            **dict(zip("ijk", faces.T, strict=True)),
            name=name,
            showlegend=True,
            color=PALETTE[i % len(PALETTE)],
            opacity=0.6,
            hoverinfo="name",
            lighting={"ambient": 0.7, "diffuse": 0.6, "specular": 0.1},
        )
    if targets is not None:
        figure.add_scatter3d(
            **_xyz(np.asarray(targets, np.float32)),
            mode="markers",
            name="true targets",
            hoverinfo="name",
            marker={"size": 3, "color": "#2a9d4a", "symbol": "diamond"},
        )
    figure.update_scenes(
        aspectmode="data",
        xaxis_visible=False,
        yaxis_visible=False,
        zaxis_visible=False,
        camera=_EYE,
        dragmode="orbit",
    )
    return _plain(figure, 480, margin={"l": 0, "r": 0, "t": 0, "b": 0})


def place_points(pose: Pose, points: Array) -> np.ndarray:
    """Points (N, 3) of the model in the camera's frame, on the host, as float32."""
    rotation = np.asarray(pose.rotation, np.float64)
    moved = np.asarray(points) @ rotation.T + np.asarray(pose.translation, np.float64)
    return np.asarray(moved, np.float32)


def thinned(mesh: trimesh.Trimesh, most: int) -> trimesh.Trimesh:
    """A surface of at most so many triangles, for drawing: vertices of one cell become one."""
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    cell = float(np.sqrt(2.0 * mesh.area / max(most, 1)))
    while len(faces) > most:
        _, first, group = np.unique(
            np.floor(mesh.vertices / cell), axis=0, return_index=True, return_inverse=True
        )
        vertices, faces = np.asarray(mesh.vertices)[first], group.ravel()[mesh.faces]
        a, b, c = faces.T
        faces = faces[(a != b) & (b != c) & (c != a)]
        cell *= 1.2
    return trimesh.Trimesh(vertices, faces, process=False)


# The mask in the picture --------------------------------------------------------------------------


def overlay(case: Case, weights: Array, rows: Array) -> np.ndarray:
    """The mask in red over the colour picture, (H, W, 3) uint8.

    A pixel that the network did not sample takes the weight of the nearest one that it did, where
    that is about as near as samples are to each other.

    Args:
      case: one with a picture.
      weights: (N,) in [0, 1].
      rows: (N,) row of each in the case's points, -1 where padded.

    Raises:
      ValueError: the case is a cloud.
    """
    if case.image is None:
        raise ValueError(f"{case.id}: is a cloud without a picture; draw it with pictures.scene")
    color, depth = case.image.color, case.image.depth
    rows, weights = np.asarray(rows), np.asarray(weights, np.float64)
    pixels = np.flatnonzero(depth.ravel() > 0)[rows[rows >= 0]]
    if not len(pixels):
        return color.copy()
    sampled = np.zeros(depth.size)
    sampled[pixels] = weights[rows >= 0]
    free = np.ones(depth.size, bool)
    free[pixels] = False
    away, nearest = ndimage.distance_transform_edt(free.reshape(depth.shape), return_indices=True)
    extent = np.ptp(np.stack(np.unravel_index(pixels, depth.shape)), axis=1) + 1.0
    reach = max(1.0, float(np.sqrt(np.prod(extent) / len(pixels))))
    weight = sampled.reshape(depth.shape)[tuple(nearest)]
    alpha = 0.65 * np.where((away <= reach) & (depth > 0), weight, 0.0)[..., None]
    mixed: np.ndarray = ((1.0 - alpha) * color + alpha * RED).round().astype(np.uint8)
    return mixed


# Curves and maps ----------------------------------------------------------------------------------


def residual_curves(series: Mapping[str, Array], unit: str = "mm") -> go.Figure:
    """Histograms over one another, of distances in ``unit``; values not finite are left out."""
    figure = go.Figure()
    found = {name: _finite(values) for name, values in series.items()}
    every = np.concatenate([*found.values(), np.zeros(1)])
    edge = max(float(np.quantile(np.abs(every), 0.99)), 1e-6)
    low = -edge if (every < 0).any() else 0.0
    bins = np.linspace(low, edge, 61)
    for name, values in found.items():
        count, _ = np.histogram(np.clip(values, low, edge), bins)
        figure.add_bar(
            x=(bins[:-1] + bins[1:]) / 2,
            y=count / max(len(values), 1),
            name=name,
            opacity=0.6,
            marker_color=MASK_COLORS.get(name),
            width=bins[1] - bins[0],
        )
    figure.update_layout(barmode="overlay", bargap=0.0)
    figure.update_xaxes(title=f"residual, {unit} (the last bin: and beyond)")
    figure.update_yaxes(title="share of points")
    return _plain(figure, 320)


def success_curves(series: Mapping[str, Array]) -> go.Figure:
    """Share of cases below a TRE, over that TRE in mm: name -> (n,) errors in mm."""
    figure = go.Figure()
    for name, errors in series.items():
        tre = np.sort(_finite(errors))
        share = np.arange(1, len(tre) + 1) / max(len(tre), 1)
        figure.add_scatter(
            x=np.maximum(tre, 0.01),
            y=share,
            name=name,
            mode="lines",
            line_shape="hv",
            line_color=MASK_COLORS.get(name),
            hovertemplate="%{y:.1%} below %{x:.2f} mm",
        )
    figure.add_vline(x=2.0, line_dash="dot", line_color="#999")
    figure.add_annotation(  # of a logarithmic axis, an annotation's place is the logarithm
        x=float(np.log10(2.0)), y=0.02, text="2 mm", showarrow=False, xanchor="left"
    )
    figure.update_xaxes(type="log", title="TRE, mm")
    figure.update_yaxes(title="share of cases", range=[0, 1.02], tickformat=".0%")
    figure.update_layout(legend={"x": 0.02, "y": 0.98, "bgcolor": "rgba(255,255,255,0.7)"})
    return _plain(figure, 400)


def heat_maps(
    maps: Mapping[str, Array],
    x: Sequence[float | str],
    y: Sequence[float | str],
    *,
    x_title: str,
    y_title: str,
    columns: int | None = None,
    unit: str = "%",
    limits: tuple[float, float] = (0.0, 100.0),
) -> go.Figure:
    """Heat maps side by side under one scale, each cell with its number.

    Args:
      maps: title -> (len(y), len(x)) values.
      x, y: what columns and rows of a map stand for.
      x_title, y_title: of the axes.
      columns: maps in a row, all in one without it.
      unit: of the values.
      limits: of the colour scale.
    """
    columns = columns or len(maps)
    rows = -(-len(maps) // columns)
    sheet = make_subplots(
        rows,
        columns,
        subplot_titles=[*maps],
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=min(0.06, 0.3 / rows),
    )
    for i, values in enumerate(maps.values()):
        sheet.add_trace(
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
    sheet.update_xaxes(title_text=x_title, row=rows, type="category")
    sheet.update_yaxes(title_text=y_title, col=1, type="category")
    sheet.update_layout(width=260 * columns + 160, font={"size": 11})
    return _plain(sheet, 260 * rows + 120, margin={"l": 60, "r": 10, "t": 60, "b": 60})


def training_curves(metrics: Sequence[Mapping[str, float]]) -> go.Figure:
    """A run's ``metrics.jsonl``, as medians over a hundredth of the run each.

    Loss, TRE of mask and coarse stage, and of the mask: share kept, effective number of points,
    entropy. What the lines do not hold is left out.
    """
    panels = {
        "loss": [("loss", "loss", "#555")],
        "TRE while training, mm": [
            ("tre_mm", "after the unrolled steps", MASK_COLORS["learnt"]),
            ("start_mm", "where they start", MASK_COLORS["all"]),
            ("coarse_mm", "coarse stage", MASK_COLORS["oracle"]),
        ],
        "the mask": [("keep", "share kept", "#2a9d4a"), ("entropy", "entropy, bits", "#e09f3e")],
        "effective number of points": [("effective", "effective number", "#6a4c93")],
    }
    figure = make_subplots(2, 2, subplot_titles=[*panels], vertical_spacing=0.16)
    width = max(1, len(metrics) // 100)
    blocks = [metrics[i : i + width] for i in range(0, len(metrics), width)]
    for i, lines in enumerate(panels.values()):
        for field, title, color in lines:
            found = [(b[-1]["step"], [m[field] for m in b if field in m]) for b in blocks]
            steps = [step for step, values in found if values]
            figure.add_scatter(
                x=steps,
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
    return _plain(figure, 560, margin={"l": 50, "r": 10, "t": 40, "b": 80})


def risk_coverage(curve: Mapping[str, Sequence[float]]) -> go.Figure:
    """How often a prediction is wrong, over the share of cases that are trusted.

    Args:
      curve: of :func:`e2r.evaluation.summary.risk_coverage`: ``coverage``, ``wrong`` and ``expected_tre_mm``.
    """
    figure = go.Figure()
    figure.add_scatter(
        x=curve["coverage"],
        y=curve["wrong"],
        customdata=curve["expected_tre_mm"],
        mode="lines",
        hovertemplate="up to %{customdata:.2f} mm expected: %{x:.1%} of cases, %{y:.1%} wrong",
        line_color=MASK_COLORS["learnt"],
        name="5 mm off or more",
    )
    figure.update_xaxes(
        title="coverage: share of cases, least expected TRE first",
        range=[0, 1.02],
        tickformat=".0%",
    )
    figure.update_yaxes(
        title="of them 5 mm off or more", rangemode="tozero", tickformat=".0%", minallowed=0
    )
    return _plain(figure, 320)


# Pages --------------------------------------------------------------------------------------------


def html_fragment(figure: go.Figure, name: str) -> str:
    """A figure as HTML, for a page that :func:`html_page` makes; ``name`` is its element's id."""
    text: str = figure.to_html(
        include_plotlyjs=False,
        full_html=False,
        div_id=name,
        config={"displayModeBar": False, "responsive": True},
    )
    return text


def html_page(title: str, body: str, style: str = "") -> str:
    """A page that opens from a file, offline: plotly once, nothing fetched. ``body`` is HTML."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f'<title>{html.escape(title)}</title><link rel="icon" href="data:,">'
        f"<style>{style}</style><script>{get_plotlyjs()}</script></head><body>{body}</body></html>"
    )


def _plain(figure: go.Figure, height: int, margin: dict[str, int] | None = None) -> go.Figure:
    margin = margin or {"l": 60, "r": 10, "t": 20, "b": 50}
    return figure.update_layout(template="plotly_white", height=height, margin=margin)


def _xyz(points: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip("xyz", np.asarray(points, np.float32).T, strict=True))


def _css(colours: np.ndarray) -> list[str]:
    levels = np.clip(np.round(255 * colours), 0, 255).astype(int)
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in levels]


def _finite(values: Any) -> np.ndarray:
    flat = np.ravel(np.asarray(values, np.float64))
    return flat[np.isfinite(flat)]


def _upper(values: np.ndarray) -> float:
    return float(np.quantile(values, 0.95)) or 1.0 if len(values) else 1.0


def _label(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
