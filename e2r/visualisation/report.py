"""``report.html`` of a job: one page that opens offline, from what the job's files hold."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from PIL import Image

from e2r.visualisation import figures, snapshots
from e2r.visualisation.figures import html_page, risk_coverage, success_curves, training_curves
from e2r.visualisation.snapshots import Snapshot

ANCHORS = (
    ("median TRE, mm", ("tre_mm", "median"), "1.83", "End2Reg (Pettinari et al.), ex vivo"),
    ("median TRE, mm", ("tre_mm", "median"), "2.73", "Liebmann et al., on SpineDepth"),
    ("mean RMSE, mm", ("rmse_mm",), "3.95", "End2Reg, in vivo (61 % less in its second version)"),
)
"""Published figures: measure, where it stands in a summary, value, of whom."""
LISTED = 100
"""Failed cases that are listed; the others are counted."""
STYLE = """
:root{--ink:#1f2428;--soft:#66707a;--line:#e3e6e8;--red:#c63d53}
body{font:16px/1.55 system-ui,sans-serif;max-width:1120px;margin:2.5rem auto;padding:0 1.25rem;
color:var(--ink);background:#fff}
h1{margin:0;font-size:2rem}h2{margin:2.6rem 0 .4rem;font-size:1.25rem}
p{max-width:50rem}.sub,figcaption,.note{color:var(--soft)}.sub{margin:.2rem 0 1.4rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:.8rem}
.card{border:1px solid var(--line);border-radius:8px;padding:.8rem 1rem}
.card b{display:block;font-size:1.7rem;line-height:1.3}.card span{color:var(--soft);font-size:.9rem}
table{border-collapse:collapse;margin:.8rem 0;font-variant-numeric:tabular-nums;font-size:.92rem}
td,th{padding:.35rem .55rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
#anchors td:last-child,#anchors th:last-child{text-align:left}
th{color:var(--soft);font-weight:600}td:first-child,th:first-child{text-align:left;padding-left:0}
.scroll{max-height:26rem;overflow:auto}
.scroll th{position:sticky;top:0;background:#fff}
.two{display:grid;grid-template-columns:1fr 1fr;gap:1rem}.two>div,.case>div{min-width:0}
.case{display:grid;grid-template-columns:minmax(0,2fr) minmax(0,3fr);margin:1rem 0;
border:1px solid var(--line);border-radius:8px;overflow:hidden}
.case figcaption{grid-column:1/-1;padding:.6rem 1rem;border-bottom:1px solid var(--line)}
.case figcaption b{color:var(--ink)}
.case img{width:100%;height:100%;object-fit:contain;background:#14161a;image-rendering:pixelated}
.case .cloud{grid-column:1/-1}
.bad,.case .far{color:var(--red)}summary{cursor:pointer;margin:.6rem 0}
pre{background:#f6f7f8;padding:1rem;overflow:auto;font-size:.8rem;max-height:30rem}
"""


def write_report(
    path: Path,
    figures: dict[str, Any],
    lines: Sequence[Mapping[str, Any]],
    errors: Sequence[Mapping[str, Any]],
    shown: Sequence[Snapshot] = (),
    curve: Sequence[Mapping[str, float]] = (),
) -> None:
    """Writes the page.

    Args:
      path: of the HTML file.
      figures: from :func:`e2r.evaluation.summary.summarise_job`.
      lines: of ``predictions.jsonl``, one a case.
      errors: of ``errors.jsonl``, one a registered case.
      shown: the cases to draw, worst first.
      curve: lines of the training run's ``metrics.jsonl``.
    """
    text = html.escape
    mask = figures["mask"]
    scored = [line for line in errors if mask in line]
    origin = {k: Path(figures["settings"][k]).name for k in ("cases", "checkpoint")}
    body = [
        "<h1>e2r evaluation</h1>",
        f'<p class="sub">{figures["cases"]} cases: {figures["predicted"]} registered, '
        f"{figures['failed']} failed. From <i>{text(origin['cases'])}</i>, checkpoint "
        f"<i>{text(origin['checkpoint'])}</i>, on {text(figures['device'])}.</p>",
        _cards(figures),
        "<h2>Masks</h2><p>The same starts and cases under each mask. Intervals (95 %) are of a "
        "bootstrap over specimens.</p>",
        _masks(figures),
    ]
    if scored:
        body += [_anchors(figures), _curves(figures, scored)]
    if shown:
        body += [
            f"<h2>Worst cases</h2><p>Worst first, under the {text(mask)} mask. Left: the mask in "
            "red over the picture. Right: the scene from the camera, the mask in red, the "
            "registered surfaces by level; green: where the targets truly are. Drag to turn, "
            "click a name to hide a layer.</p>",
            *(_case(view, f"case{i}") for i, view in enumerate(shown)),
        ]
    if scored:
        body += [
            f"<h2>By level</h2>{_groups(figures['by_level'], 'level')}",
            f"<h2>By specimen</h2>{_groups(figures['by_specimen'], 'specimen')}",
        ]
    body += [_failed(lines), _every(lines, errors, mask)]
    if curve:
        body += ["<h2>Training of the checkpoint</h2>", _figure(training_curves(curve), "training")]
    settings = {k: figures[k] for k in ("settings", "seed", "versions", "seconds_per_frame")}
    body.append(
        f"<h2>Settings and versions</h2>{_versions(figures)}<details><summary>All settings"
        f"</summary><pre>{text(json.dumps(settings, indent=1))}</pre></details>"
    )
    path.write_text(html_page("e2r evaluation", "\n".join(body), STYLE), encoding="utf-8")


def _cards(figures: dict[str, Any]) -> str:
    cards = []
    if figures.get("tre_mm"):
        low, high = figures["tre_mm"]["interval95"]["median"]
        cards = [
            (
                f"{figures['tre_mm']['median']:.2f} mm",
                f"median TRE, {html.escape(figures['mask'])} mask; 95 %: {low:.2f} to {high:.2f}",
            ),
            (f"{figures['success']['2mm']:.1%}", "of the cases below 2 mm"),
        ]
    told = figures["trust"]
    if told is None or told["wrong"] is None:
        cards.append((f"{figures['accepted']} of {figures['cases']}", "accepted"))
    else:
        cards.append(
            (f"{told['coverage']:.1%}", f"accepted; {told['wrong']:.1%} of them 5 mm off or more")
        )
    took = figures["seconds_per_frame"]
    cards.append(
        (f"{took['median']:.2f} s", f"a frame, all masks; the first batch {took['first']:.1f} s")
    )
    return (
        '<div class="cards">'
        + "".join(f'<div class="card"><b>{a}</b><span>{b}</span></div>' for a, b in cards)
        + "</div>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], name: str = "") -> str:
    """Cells are HTML."""
    lines = ["".join(f"<th>{cell}</th>" for cell in head)]
    lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    label = f' id="{name}"' if name else ""
    return f"<table{label}>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


MEASURES = (
    "cases",
    "median TRE, mm",
    "95 %",
    "mean",
    "p95",
    "RMSE",
    "rotation, °",
    "shift, mm",
    "&lt; 2 mm",
    "&lt; 3 mm",
    "&lt; 5 mm",
)


def _measures(value: Mapping[str, Any]) -> list[str]:
    """The cells under :data:`MEASURES` of a :func:`e2r.evaluation.metrics.summarise`."""
    tre, hit = value["tre_mm"], value["success"]
    return [
        f"{value['count']}",
        f"{tre['median']:.2f}",
        _interval(tre["interval95"]["median"]),
        f"{tre['mean']:.2f}",
        f"{tre['p95']:.2f}",
        f"{value['rmse_mm']:.2f}",
        f"{value['rotation_deg']:.2f}",
        f"{value['translation_mm']:.2f}",
        *(f"{hit[k]:.1%}" for k in ("2mm", "3mm", "5mm")),
    ]


def _masks(figures: dict[str, Any]) -> str:
    rows = []
    for name, value in figures["masks"].items():
        keep = "" if value["keep"] is None else f"{value['keep']:.1%}"
        scored = bool(value.get("count"))
        cells = _measures(value) if scored else ["0", "no truth to compare with"]
        rows.append([html.escape(name), keep, *cells])
    return _table(["mask", "kept", *MEASURES], rows, "masks")


def _anchors(figures: dict[str, Any]) -> str:
    rows = []
    for measure, field, value, whom in ANCHORS:
        ours = figures
        for key in field:
            ours = ours[key]
        spread = _interval(figures["tre_mm"]["interval95"]["median"]) if len(field) > 1 else ""
        rows.append([measure, f"{ours:.2f}", spread, value, html.escape(whom)])
    return (
        "<h2>Beside what is published</h2>"
        + _table(["measure", "here", "95 %", "published", "of"], rows, "anchors")
        + '<p class="note">Each is of its own data; where the cases above are not theirs, the '
        "figures stand side by side for orientation, not as a comparison. SpineDepth's own labels "
        "are not exact either: what is nearer than they are cannot be seen on it.</p>"
    )


def _curves(figures: dict[str, Any], scored: Sequence[Mapping[str, Any]]) -> str:
    series = {
        name: np.array([line[name]["tre_mm"] for line in scored]) for name in figures["masks"]
    }
    success = _figure(success_curves(series), "success", 340)
    parts = [f"<div><h2>How often how near</h2>{success}</div>"]
    if figures["trust"] and figures["trust"]["curve"]:
        risk = _figure(risk_coverage(figures["trust"]["curve"]), "risk", 340)
        parts.append(f"<div><h2>What its own word is worth</h2>{risk}</div>")
    layout = ' class="two"' if len(parts) > 1 else ""
    return f"<div{layout}>{''.join(parts)}</div>"


def _groups(groups: Mapping[str, Mapping[str, Any]], what: str) -> str:
    rows = [[html.escape(name), *_measures(value)] for name, value in groups.items()]
    return f'<div class="scroll">{_table([what, *MEASURES], rows, "by_" + what)}</div>'


def _failed(lines: Sequence[Mapping[str, Any]]) -> str:
    failed = [f"{line['id']}: {line['error']}" for line in lines if line["error"]]
    if not failed:
        return ""
    items = "".join(f'<li class="bad">{html.escape(text)}</li>' for text in failed[:LISTED])
    more = f"<p>and {len(failed) - LISTED} more</p>" if len(failed) > LISTED else ""
    return f"<h2>Failed</h2><ul>{items}</ul>{more}"


def _every(
    lines: Sequence[Mapping[str, Any]], errors: Sequence[Mapping[str, Any]], mask: str
) -> str:
    """All registered cases, the worst first."""
    told = {line["id"]: line for line in lines}
    rows = []
    for line in sorted(errors, key=lambda e: -e[mask]["tre_mm"] if mask in e else 0.0):
        word = told[line["id"]]
        expected = word["expected_tre_mm"]
        cells = (
            [
                f"{line[mask][k]:.2f}"
                for k in ("tre_mm", "rmse_mm", "rotation_deg", "translation_mm")
            ]
            if mask in line
            else [""] * 4
        )
        rows.append(
            [
                html.escape(line["id"]),
                html.escape(line["source"]),
                *cells,
                "" if expected is None else f"{expected:.2f}",
                "yes" if word["accepted"] else "no",
            ]
        )
    head = [
        "case",
        "specimen",
        "TRE, mm",
        "RMSE, mm",
        "rotation, °",
        "shift, mm",
        "expected TRE, mm",
        "accepted",
    ]
    return (
        f"<h2>Every case</h2><details><summary>{len(rows)} cases, the worst first</summary>"
        f'<div class="scroll">{_table(head, rows, "cases")}</div></details>'
    )


def _case(view: Snapshot, name: str) -> str:
    figure = figures.scene_figure(
        view.points,
        view.colours,
        view.weights,
        view.surfaces,
        view.found,
        targets=snapshots.true_targets(view) if view.truth else None,
    )
    figure.update_layout(legend={"itemsizing": "constant", "x": 0, "y": 1, "font": {"size": 11}})
    far = "" if view.tre_mm is None else f' <span class="far">TRE {view.tre_mm:.2f} mm</span>'
    kept = int((view.weights > 0.5).sum())
    picture, place = "", ' class="cloud"'
    if view.image is not None:
        picture, place = f'<img alt="the mask over the picture" src="{_png(view.image)}">', ""
    return (
        f'<figure class="case"><figcaption><b>{html.escape(view.id)}</b>{far}; {kept} of '
        f"{len(view.weights)} points kept</figcaption>{picture}"
        f"<div{place}>{_figure(figure, name, 380)}</div></figure>"
    )


def _versions(figures: dict[str, Any]) -> str:
    rows = [["seed", f"{figures['seed']}"], ["device", html.escape(figures["device"])]]
    rows += [[html.escape(k), html.escape(str(v))] for k, v in figures["versions"].items()]
    return _table(["", ""], rows, "versions")


def _interval(pair: Sequence[float]) -> str:
    return f"{pair[0]:.2f} – {pair[1]:.2f}"


def _png(image: np.ndarray) -> str:
    """An image (H, W, 3) uint8 as the address of itself."""
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def _figure(figure: go.Figure, name: str, height: int | None = None) -> str:
    if height:
        figure.update_layout(height=height)
    return figures.html_fragment(figure, name)
