"""``report.html`` of a job: one page that opens offline, with table, curves and 3-D views."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from e2r.datasets import cases
from e2r.geometry import poses
from e2r.results import Result, level_poses

COLORS = {"all": "#8d8d8d", "learnt": "#d1495b", "oracle": "#2e86ab"}
VIEWS = 4
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem;color:#222}
h1{margin-bottom:0}.sub{color:#666;margin-top:0}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.35rem .8rem;text-align:right;
border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}
.views{display:grid;grid-template-columns:1fr 1fr;gap:1rem}.views figure{margin:0}
figcaption{color:#444;font-size:.9rem}img{image-rendering:pixelated;width:100%}
pre{background:#f6f6f6;padding:1rem;overflow:auto;font-size:.8rem}.bad{color:#a00}
"""


def write(
    path: Path,
    figures: dict[str, Any],
    results: Sequence[Result],
    failures: Sequence[str],
    curve: Sequence[dict[str, float]] = (),
) -> None:
    """Writes the page.

    Args:
      path: of the HTML file.
      figures: from :func:`e2r.results.summary`.
      results: for curves and views.
      failures: one sentence a case that could not be registered.
      curve: lines of the training run's ``metrics.jsonl``.
    """
    body = [
        "<h1>e2r evaluation</h1>",
        f'<p class="sub">{figures["cases"]} cases, {figures["failed"]} failed, '
        f"{figures['accepted']} accepted; {html.escape(figures['device'])}</p>",
        _table(figures),
    ]
    scored = [r for r in results if r.errors]
    if scored:
        body += ["<h2>Target registration error</h2>", _figure(_curve(scored, figures), 420)]
        body += [_levels(figures)]
        told = figures["trust"]
        if told["wrong"] is not None:
            body.append(
                f"<h2>Trust</h2><p>{told['coverage']:.1%} of the cases are accepted; "
                f"{told['wrong']:.1%} of those are 5 mm off or more.</p>"
            )
        if told["curve"] is not None:
            body.append(_figure(_risk(told["curve"]), 320))
    shown = _choose(results, figures["mask"])
    if shown:
        body += [
            "<h2>Cases</h2><p>Worst first, then the median and the best. Points: the scene, "
            "the mask in red. Surfaces: the registered model; green: where the targets truly are. "
            "Drag to turn.</p>",
            '<div class="views">',
            *(_view(r, figures["mask"]) for r in shown),
            "</div>",
        ]
    if failures:
        body.append("<h2>Failed</h2><ul>")
        body += [f'<li class="bad">{html.escape(text)}</li>' for text in failures[:100]]
        body.append("</ul>")
    if curve:
        body += ["<h2>Training</h2>", _figure(_training(curve), 420)]
    settings = {k: figures[k] for k in ("settings", "seed", "versions", "seconds_per_frame")}
    body.append(f"<h2>Settings</h2><pre>{html.escape(json.dumps(settings, indent=1))}</pre>")
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>e2r evaluation</title>'
        '<link rel="icon" href="data:,">'
        f"<style>{STYLE}</style><script>{get_plotlyjs()}</script></head><body>"
        + "\n".join(body)
        + "</body></html>"
    )
    path.write_text(page, encoding="utf-8")


def _table(figures: dict[str, Any]) -> str:
    head = (
        "<tr><th>mask</th><th>cases</th><th>kept</th><th>median TRE, mm</th><th>95 % interval</th>"
        "<th>mean</th><th>p95</th><th>&lt; 2 mm</th><th>&lt; 3 mm</th><th>&lt; 5 mm</th></tr>"
    )
    rows = []
    for name, value in figures["masks"].items():
        if not value.get("count"):
            rows.append(f"<tr><td>{html.escape(name)}</td><td>no truth to compare with</td></tr>")
            continue
        tre, hit = value["tre_mm"], value["success"]
        low, high = tre["interval95"]["median"]
        cells = [
            f"{value['count']}", f"{value['keep']:.1%}", f"{tre['median']:.2f}",
            f"{low:.2f} – {high:.2f}", f"{tre['mean']:.2f}", f"{tre['p95']:.2f}",
            *(f"{hit[k]:.1%}" for k in ("2mm", "3mm", "5mm")),
        ]  # fmt: skip
        rows.append(
            f"<tr><td>{html.escape(name)}</td>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>"
        )
    return f'<table id="masks">{head}{"".join(rows)}</table>'


def _levels(figures: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{v['count']}</td><td>{v['tre_mm']['median']:.2f}</td>"
        f"<td>{v['rotation_deg']:.2f}</td><td>{v['translation_mm']:.2f}</td></tr>"
        for name, v in figures["by_level"].items()
    )
    return (
        f"<h2>By level ({html.escape(figures['mask'])} mask)</h2><table><tr><th>level</th>"
        "<th>cases</th><th>median TRE, mm</th><th>rotation, °</th><th>translation, mm</th></tr>"
        f"{rows}</table>"
    )


def _curve(scored: Sequence[Result], figures: dict[str, Any]) -> go.Figure:
    figure = go.Figure()
    for name in figures["masks"]:
        tre = np.sort([r.errors[name]["tre_mm"] for r in scored])
        share = np.arange(1, len(tre) + 1) / len(tre)
        figure.add_scatter(
            x=np.maximum(tre, 0.01), y=share, name=name, line_shape="hv",
            line_color=COLORS.get(name),
        )  # fmt: skip
    figure.add_vline(x=2.0, line_dash="dot", line_color="#999", annotation_text="2 mm")
    figure.update_xaxes(type="log", title="TRE, mm")
    figure.update_yaxes(title="share of cases at most this far off", range=[0, 1])
    return figure


def _training(curve: Sequence[dict[str, float]]) -> go.Figure:
    """Medians over windows of the run: TRE of mask and coarse stage, share kept, entropy."""
    figure = make_subplots(1, 2, subplot_titles=("TRE while training, mm", "the mask"))
    width = max(1, len(curve) // 100)
    blocks = [curve[i : i + width] for i in range(0, len(curve), width)]
    steps = [block[-1]["step"] for block in blocks]
    for name, title, column, color in (
        ("tre_mm", "after the unrolled steps", 1, "#d1495b"),
        ("start_mm", "where they start", 1, "#8d8d8d"),
        ("coarse_mm", "coarse stage", 1, "#2e86ab"),
        ("keep", "share kept", 2, "#2a9d4a"),
        ("entropy", "entropy, bits", 2, "#e09f3e"),
    ):
        values = [float(np.median([line[name] for line in block])) for block in blocks]
        figure.add_scatter(x=steps, y=values, name=title, line_color=color, row=1, col=column)
    figure.update_xaxes(title="step")
    figure.update_yaxes(type="log", row=1, col=1)
    return figure


def _risk(curve: dict[str, list[float]]) -> go.Figure:
    figure = go.Figure()
    figure.add_scatter(
        x=curve["coverage"], y=curve["wrong"], customdata=curve["expected_tre_mm"],
        hovertemplate="up to %{customdata:.2f} mm expected: %{x:.1%} of cases, %{y:.1%} wrong",
        line_color="#d1495b", name="5 mm off or more",
    )  # fmt: skip
    figure.update_xaxes(title="coverage: share of cases, least expected TRE first", range=[0, 1])
    figure.update_yaxes(title="of them 5 mm off or more", rangemode="tozero")
    return figure


def _choose(results: Sequence[Result], mask: str) -> list[Result]:
    ranked = sorted(results, key=lambda r: -r.errors[mask]["tre_mm"] if r.errors else 0.0)
    if len(ranked) <= VIEWS:
        return ranked
    return [ranked[0], ranked[1], ranked[len(ranked) // 2], ranked[-1]]


def _view(result: Result, mask: str) -> str:
    cloud = result.cloud
    valid = np.asarray(cloud.valid)
    points = np.asarray(cloud.points)[valid]
    kept = result.weights[mask][valid] > 0.5
    rgb = (255 * np.asarray(cloud.colors)[valid]).astype(int)
    tint = [f"rgb({r},{g},{b})" for r, g, b in rgb]
    figure = go.Figure()
    figure.add_scatter3d(
        **_xyz(points[~kept]), mode="markers", name="dropped",
        marker={"size": 2, "color": [c for c, k in zip(tint, kept, strict=True) if not k]},
    )  # fmt: skip
    figure.add_scatter3d(
        **_xyz(points[kept]), mode="markers", name="kept", marker={"size": 3, "color": "#d1495b"}
    )
    targets = cases.scored_targets(result.case)
    placed_by = level_poses(result.case, result.levels[mask])
    for name in targets or result.case.model:
        mesh = result.case.model[name]
        vertices = np.asarray(mesh.vertices, np.float32)
        faces = np.asarray(mesh.faces, np.int32)
        placed = np.asarray(poses.apply(placed_by[name], vertices))
        figure.add_mesh3d(**_xyz(placed), **_ijk(faces), name=name, color="#e9dcc0", opacity=0.55)
        if result.case.truth:
            true = np.asarray(poses.apply(result.case.truth[name], targets[name]))
            figure.add_scatter3d(
                **_xyz(true), mode="markers", name=f"true targets {name}",
                marker={"size": 4, "color": "#2a9d4a", "symbol": "diamond"},
            )  # fmt: skip
    figure.update_scenes(
        aspectmode="data", xaxis_visible=False, yaxis_visible=False, zaxis_visible=False,
        camera={"eye": {"x": 0.0, "y": 0.0, "z": -1.6}, "up": {"x": 0, "y": -1, "z": 0}},
    )  # fmt: skip
    figure.update_layout(showlegend=False)
    far = f"TRE {result.errors[mask]['tre_mm']:.2f} mm" if result.errors else "no truth"
    caption = f"{html.escape(result.case.id)}: {far}, {kept.sum()} of {valid.sum()} points kept"
    return f"<figure>{_figure(figure, 420)}<figcaption>{caption}</figcaption></figure>"


def _xyz(points: np.ndarray) -> dict[str, np.ndarray]:
    columns = np.asarray(points, np.float32).round(2)
    return dict(zip("xyz", columns.T, strict=True))


def _ijk(faces: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip("ijk", faces.T, strict=True))


def _figure(figure: go.Figure, height: int) -> str:
    figure.update_layout(
        height=height, margin={"l": 50, "r": 10, "t": 20, "b": 40}, template="plotly_white"
    )
    text: str = figure.to_html(include_plotlyjs=False, full_html=False)
    return text
