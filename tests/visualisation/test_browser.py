"""The report, a scene and the viewer in a real browser: no errors, offline, drawn, and true."""

import browser
import numpy as np
import pytest
from made_up_job import MASKS, SCRIPT_ID, made_up_job, made_up_result

from e2r.visualisation import figures, pages, report, snapshots, viewer
from e2r.visualisation.colors import MASK_RGB


@pytest.fixture(scope="module")
def tab():
    if browser.find_chromium() is None:
        pytest.skip("there is no Chromium (apt-get install chromium)")
    with browser.launch() as tab:
        yield tab


def is_drawn(image):
    """Whether an image of a scene shows more than a few colours on much of its area."""
    flat = image.reshape(-1, 3)
    white = (flat > 245).all(axis=1)
    return (~white).mean() > 0.02 and len(np.unique(flat[~white] // 16, axis=0)) > 8


def has_color(image, color, within=40):
    """Whether an image has pixels of a colour, in any brightness."""
    lit = image.reshape(-1, 3).astype(float)
    lit = lit[lit.sum(1) > 150]
    unit = lit / np.linalg.norm(lit, axis=1, keepdims=True)
    wanted = np.asarray(color, float) / np.linalg.norm(color)
    return (np.linalg.norm(unit - wanted, axis=1) * 255 < within).sum() > 30


def remote(requests):
    """The requested addresses that lie outside the page."""
    return [address for address in requests if not address.startswith(("data:", "blob:"))]


def test_a_blank_image_is_not_drawn():
    assert not is_drawn(np.full((200, 300, 3), 255, np.uint8))
    assert not is_drawn(np.full((200, 300, 3), 90, np.uint8))


def test_the_errors_and_requests_of_a_page_are_recorded(tab, tmp_path):
    """Otherwise the other tests here would prove nothing."""
    path, image = tmp_path / "bad.html", "http://127.0.0.1:9/far.png"
    path.write_text(f"<script>console.error('a'); b(); </script><img src='{image}'>")
    tab.open(path.as_uri())
    tab.wait("document.readyState == 'complete'")
    assert image in tab.requests
    assert any('"a"' in text for text in tab.errors)
    assert any("b is not defined" in text for text in tab.errors)


@pytest.fixture(scope="module")
def made_up_report(tmp_path_factory):
    """The report's path, and the summary that it shows."""
    results = [made_up_result(i, offset) for i, offset in enumerate((0.5, 1.0))]
    results.append(made_up_result(2, 9.0, case_id=SCRIPT_ID))
    summary, predictions, scores = made_up_job(results, [("lost", f"{SCRIPT_ID}: no scene")])
    path = tmp_path_factory.mktemp("report") / "report.html"
    report.write_report(
        path,
        summary,
        predictions=predictions,
        scores=scores,
        snapshots=[snapshots.make_snapshot(results[i], "learnt") for i in (2, 1)],
        training_log=[{"step": i, "loss": 1.0 + i, "tre_mm": 2.0, "keep": 0.1} for i in range(20)],
    )
    return path, summary


def test_the_report_in_a_browser(tab, made_up_report):
    path, summary = made_up_report
    tab.open(path.as_uri())
    plots = 3 + 2  # success rate, risk–coverage, training; two cases
    tab.wait(f"document.querySelectorAll('.js-plotly-plot .main-svg').length >= {plots}")
    tab.wait("document.querySelectorAll('.js-plotly-plot canvas').length >= 2")
    for name in ("case0", "case1"):
        image = tab.screenshot(f"#{name} canvas")
        assert is_drawn(image) and has_color(image, MASK_RGB)
    # The numbers of the table are those of the summary.
    cells = tab.run(
        "[...document.querySelectorAll('#masks tr')].map(r => [...r.cells].map(c => c.innerText))"
    )
    head, rows = cells[0], {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[1:]}
    assert head[0] == "mask" and set(rows) == set(MASKS)
    for mask, row in rows.items():
        errors = summary.masks[mask]
        for name, value in (
            ("cases", errors.count),
            ("median TRE, mm", errors.tre_mm["median"]),
            ("mean TRE, mm", errors.tre_mm["mean"]),
            ("95th percentile TRE, mm", errors.tre_mm["p95"]),
            ("mean RMSE, mm", errors.rmse_mm),
            ("median rotation error, °", errors.rotation_deg),
            ("median translation error, mm", errors.translation_mm),
        ):
            assert float(row[name]) == pytest.approx(value, abs=0.00501), name
        for name, value in (
            ("points kept", summary.keep[mask]),
            *(
                (f"success rate, {mm}\N{NO-BREAK SPACE}mm", errors.success[f"{mm}mm"])
                for mm in (2, 3, 5)
            ),
        ):
            assert float(row[name].rstrip("%")) == pytest.approx(100 * value, abs=0.0501), name
        low, high = errors.tre_interval95["median"]
        assert row["95% interval, mm"] == f"{low:.2f}–{high:.2f}"
    # A name that could run as a program is only a name.
    assert SCRIPT_ID in tab.run("document.querySelector('figure.case figcaption').innerText")
    assert SCRIPT_ID in tab.run("document.querySelector('li.bad').innerText")
    assert tab.run("document.querySelectorAll('body img:not([src^=\"data:\"])').length") == 0
    assert remote(tab.requests) == [path.as_uri()]
    assert tab.errors == []


def test_the_cases_of_the_report_are_sorted_by_a_click(tab, made_up_report):
    path, _ = made_up_report
    tab.open(path.as_uri())
    tab.wait("document.readyState == 'complete'")
    tab.run("document.querySelector('#cases').closest('details').open = true")

    def column(number):
        return tab.run(
            "[...document.querySelectorAll('#cases tbody tr')]"
            f".map(row => row.cells[{number}].innerText)"
        )

    def click(number):
        tab.run(f"document.querySelectorAll('#cases th button')[{number}].click()")
        return tab.run(
            f"document.querySelectorAll('#cases th')[{number}].getAttribute('aria-sort')"
        )

    assert column(2) == ["9.00", "1.00", "0.50", ""]  # as numbers, the failed case last
    assert click(2) == "ascending" and column(2) == ["0.50", "1.00", "9.00", ""]
    assert click(2) == "descending" and column(2) == ["9.00", "1.00", "0.50", ""]
    assert click(0) == "ascending"
    names = column(0)
    assert sorted(names, key=str.lower) == names or names[0] == SCRIPT_ID
    assert names[-3:] == ["case0", "case1", "lost"]
    assert tab.run("document.querySelectorAll('#cases th[aria-sort]').length") == 1
    assert click(7) == "ascending" and column(7)[-1] in ("no", "yes")
    assert tab.errors == [] and remote(tab.requests) == [path.as_uri()]


def test_the_report_fits_a_narrow_screen(tab, made_up_report):
    """Wide tables scroll by themselves; the page does not."""
    path, _ = made_up_report
    tab.open(path.as_uri(), 390, 800)
    tab.wait("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 5")
    assert tab.run("document.documentElement.scrollWidth") <= 390
    assert tab.errors == []


def test_a_scene_and_its_layers(tab, tmp_path):
    snapshot = snapshots.make_snapshot(made_up_result(0, 4.0), "learnt")
    figure = figures.scene_figure(
        snapshot.points,
        snapshot.colors,
        snapshot.weights,
        surfaces=snapshot.surfaces,
        poses=snapshot.poses,
    )
    path = tmp_path / "scene.html"
    path.write_text(pages.figures_page("scene", {"scene": figure}), encoding="utf-8")
    tab.open(path.as_uri(), 900, 600)
    tab.wait("document.querySelectorAll('#scene canvas').length > 0")
    with_mask = tab.screenshot("#scene canvas")
    assert is_drawn(with_mask) and has_color(with_mask, MASK_RGB)
    tab.run("Plotly.restyle('scene', {visible: 'legendonly'}, [1]).then(() => 1)")
    without = tab.screenshot("#scene canvas")
    assert is_drawn(without) and not has_color(without, MASK_RGB)
    assert remote(tab.requests) == [path.as_uri()]
    assert tab.errors == []


def test_the_viewer_in_a_browser(tab):
    """The page connects to no other machine."""
    snapshot = snapshots.make_snapshot(made_up_result(0, 4.0), "learnt")
    running = viewer.Viewer([snapshot], port=0)
    try:
        tab.open(f"http://127.0.0.1:{running.port}", 900, 600)
        tab.wait("document.querySelectorAll('canvas').length > 0")
        tab.wait("document.body.innerText.includes('TRE: 4.00 mm')")
        for _ in range(60):
            if is_drawn(image := tab.screenshot()) and has_color(image, MASK_RGB):
                break
        assert is_drawn(image) and has_color(image, MASK_RGB)
        own = (f"http://127.0.0.1:{running.port}", f"ws://127.0.0.1:{running.port}")
        assert all(address.startswith(own) for address in remote(tab.requests))
    finally:
        running.close()
        tab.open("about:blank")
