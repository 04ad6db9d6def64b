"""The report and a 3-D view in a real browser: silent, offline, not blank, and true."""

import browser
import numpy as np
import pytest
from test_report import JOB, NAME, job, made_up

from e2r.visualisation import figures, report, snapshots, viewer
from e2r.visualisation.figures import RED


@pytest.fixture(scope="module")
def tab():
    if browser.find() is None:
        pytest.skip("there is no Chromium (apt-get install chromium)")
    with browser.launch() as found:
        yield found


def drawn(image):
    """Whether a picture of a scene shows more than a few colours on much of its area."""
    flat = image.reshape(-1, 3)
    white = (flat > 245).all(axis=1)
    return (~white).mean() > 0.02 and len(np.unique(flat[~white] // 16, axis=0)) > 8


def has(image, color, within=40):
    """Whether a colour is there, in any brightness."""
    lit = image.reshape(-1, 3).astype(float)
    lit = lit[lit.sum(1) > 150]
    unit = lit / np.linalg.norm(lit, axis=1, keepdims=True)
    wanted = np.asarray(color, float) / np.linalg.norm(color)
    return (np.linalg.norm(unit - wanted, axis=1) * 255 < within).sum() > 30


def test_a_blank_picture_is_not_drawn():
    assert not drawn(np.full((200, 300, 3), 255, np.uint8))
    assert not drawn(np.full((200, 300, 3), 90, np.uint8))


def test_what_a_page_does_wrong_is_noted(tab, tmp_path):
    """Else the other tests here would say nothing."""
    path, far = tmp_path / "bad.html", "http://127.0.0.1:9/far.png"
    path.write_text(f"<script>console.error('a'); b(); </script><img src='{far}'>")
    tab.open(path.as_uri())
    tab.wait("document.readyState == 'complete'")
    assert far in tab.requests
    assert any('"a"' in text for text in tab.errors)
    assert any("b is not defined" in text for text in tab.errors)


def test_the_report_in_a_browser(tab, tmp_path):
    done = [made_up(i, off) for i, off in enumerate((0.5, 1.0, 9.0))]
    done[2] = made_up(2, 9.0, identity=NAME)
    figures, lines, errors = job(done, [("lost", f"{NAME}: no scene")])
    path = tmp_path / "report.html"
    curve = [{"step": i, "loss": 1.0 + i, "tre_mm": 2.0, "keep": 0.1} for i in range(20)]
    shown = [snapshots.make_snapshot(done[2], "learnt"), snapshots.make_snapshot(done[1], "learnt")]
    report.write_report(path, figures, lines, errors, shown, curve)
    tab.open(path.as_uri())
    plots = 3 + len(shown)  # success, risk and coverage, training
    tab.wait(f"document.querySelectorAll('.js-plotly-plot .main-svg').length >= {plots}")
    tab.wait(f"document.querySelectorAll('.js-plotly-plot canvas').length >= {len(shown)}")
    for name in ("case0", "case1"):
        image = tab.picture(f"#{name} canvas")
        assert drawn(image) and has(image, RED)
    # The figures of the table are those of the summary.
    cells = tab.run(
        "[...document.querySelectorAll('#masks tr')].map(r => [...r.cells].map(c => c.innerText))"
    )
    head, rows = cells[0], {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[1:]}
    assert head[0] == "mask" and set(rows) == set(JOB.masks)
    for mask, row in rows.items():
        told = figures["masks"][mask]
        for name, value in (
            ("cases", told["count"]),
            ("median TRE, mm", told["tre_mm"]["median"]),
            ("mean", told["tre_mm"]["mean"]),
            ("p95", told["tre_mm"]["p95"]),
            ("RMSE", told["rmse_mm"]),
            ("rotation, °", told["rotation_deg"]),
            ("shift, mm", told["translation_mm"]),
        ):
            assert float(row[name]) == pytest.approx(value, abs=0.00501), name
        for name, value in (
            ("kept", told["keep"]),
            *((f"< {k}", told["success"][k.replace(" ", "")]) for k in ("2 mm", "3 mm", "5 mm")),
        ):
            assert float(row[name].rstrip("%")) == pytest.approx(100 * value, abs=0.0501), name
        low, high = told["tre_mm"]["interval95"]["median"]
        assert row["95 %"] == f"{low:.2f} – {high:.2f}"
    # A name that would be a program is a name.
    assert NAME in tab.run("document.querySelector('figure.case figcaption').innerText")
    assert NAME in tab.run("document.querySelector('li.bad').innerText")
    assert tab.run("document.querySelectorAll('body img:not([src^=\"data:\"])').length") == 0
    assert [a for a in tab.requests if not a.startswith(("data:", "blob:"))] == [path.as_uri()]
    assert tab.errors == []


def test_a_view_by_itself_and_its_layers(tab, tmp_path):
    view = snapshots.make_snapshot(made_up(0, 4.0), "learnt")
    figure = figures.scene_figure(
        view.points, view.colours, view.weights, view.surfaces, view.found
    )
    path = tmp_path / "scene.html"
    path.write_text(
        figures.html_page("scene", figures.html_fragment(figure, "scene")), encoding="utf-8"
    )
    tab.open(path.as_uri(), 900, 600)
    tab.wait("document.querySelectorAll('#scene canvas').length > 0")
    with_mask = tab.picture("#scene canvas")
    assert drawn(with_mask) and has(with_mask, figures.RED)
    tab.run("Plotly.restyle('scene', {visible: 'legendonly'}, [1]).then(() => 1)")
    without = tab.picture("#scene canvas")
    assert drawn(without) and not has(without, figures.RED)
    assert [a for a in tab.requests if not a.startswith(("data:", "blob:"))] == [path.as_uri()]
    assert tab.errors == []


def test_the_live_viewer_in_a_browser(tab):
    """It talks to nobody but the machine itself."""
    running = viewer.Viewer([snapshots.make_snapshot(made_up(0, 4.0), "learnt")], port=0)
    try:
        tab.open(f"http://127.0.0.1:{running.port}", 900, 600)
        tab.wait("document.querySelectorAll('canvas').length > 0")
        tab.wait("document.body.innerText.includes('TRE 4.00 mm')")
        for _ in range(60):
            if drawn(image := tab.picture()) and has(image, figures.RED):
                break
        assert drawn(image) and has(image, figures.RED)
        own = (f"http://127.0.0.1:{running.port}", f"ws://127.0.0.1:{running.port}")
        assert all(a.startswith((*own, "data:", "blob:")) for a in tab.requests)
    finally:
        running.close()
        tab.open("about:blank")
