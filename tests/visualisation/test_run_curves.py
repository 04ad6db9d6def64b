"""Several runs beside each other: every figure of every run, by step and by hour."""

import json

import browser
import numpy as np
import pytest

from e2r.visualisation.run_curves import last_figures, run_curves
from experiments import compare_runs

FIGURES = ("loss", "loss_mask", "tre_mm", "learning_rate")


def log(count, *, slope, every=10, held_out=0, first_seconds=2.0):
    lines = []
    for number in range(1, count + 1):
        step = every * number
        line = {"step": step, "seconds": first_seconds * number, "waited": 0.0}
        line |= {name: slope * step for name in FIGURES}
        if held_out and step % held_out == 0:
            line["held_out_tre_mm"] = float(step)
        lines.append(line)
    return lines


@pytest.fixture
def logs():
    return {"a": log(30, slope=1.0, held_out=50), "b": log(400, slope=2.0)}


def curves(figure, name):
    """Title of each panel -> the curve of a run in it."""
    titles = [annotation.text for annotation in figure.layout.annotations]
    found = [trace for trace in figure.data if trace.name == name]
    return dict(zip(titles, found, strict=True))


def test_each_figure_has_a_panel_and_each_run_a_curve(logs):
    figure = run_curves(logs)
    a, b = curves(figure, "a"), curves(figure, "b")
    assert [*a] == ["loss", "loss: mask", "training TRE, mm", "held-out TRE, mm", "learning rate"]
    np.testing.assert_array_equal(a["loss"].x, np.arange(10, 310, 10))
    np.testing.assert_array_equal(a["loss"].y, np.arange(10, 310, 10))
    np.testing.assert_array_equal(a["held-out TRE, mm"].x, np.arange(50, 301, 50))
    assert len(b["held-out TRE, mm"].x) == 0
    assert len(b["loss"].x) == 100 and len(b["learning rate"].x) == 400  # medians, and all
    np.testing.assert_array_equal(b["loss"].x[:2], [40, 80])
    np.testing.assert_array_equal(b["loss"].y[:2], [50.0, 130.0])  # of 20, 40, 60, 80 and so on
    assert {trace.line.color for trace in a.values()} != {trace.line.color for trace in b.values()}
    assert sum(bool(trace.showlegend) for trace in figure.data) == 2


def test_the_hours_of_a_resumed_run_go_on(logs):
    """A run of an earlier version counted anew."""
    old = [*log(3, slope=1.0), *log(3, slope=1.0, first_seconds=1.0)]
    figure = run_curves({"old": old})
    step, hours = figure.layout.updatemenus[0].buttons
    x = np.asarray(hours.args[0]["x"][0]) * 3600
    np.testing.assert_allclose(x, [2.0, 4.0, 6.0, 7.0, 8.0, 9.0])
    assert len(hours.args[0]["x"]) == len(figure.data)
    assert step.label == "step" and set(hours.args[1].values()) == {"hours"}


def test_another_term_of_a_loss_has_a_panel(logs):
    for line in logs["a"]:
        line["loss_smoothness"] = 1.0
    assert "loss: smoothness" in curves(run_curves(logs), "a")


def test_the_table_says_where_each_run_is(logs):
    head, a, b = last_figures(logs).splitlines()
    assert head.split()[:3] == ["run", "steps", "hours"]
    assert a.split() == ["a", "300", "0.02", "300.000", "300.000", "300.000"]
    assert b.split()[:3] == ["b", "4000", "0.22"]


def test_the_command_writes_a_page(logs, tmp_path, capsys):
    for name, lines in (("x/a", logs["a"]), ("y/a", logs["b"])):
        (tmp_path / name).mkdir(parents=True)
        text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 1'
        (tmp_path / name / "metrics.jsonl").write_text(text)
    page = tmp_path / "new" / "curves.html"
    runs = [str(tmp_path / "x" / "a"), str(tmp_path / "y" / "a")]
    assert compare_runs.main([*runs, "--output", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "x/a" in printed and "y/a" in printed
    if browser.find_chromium() is not None:
        with browser.launch() as tab:
            tab.open(page.as_uri())
            tab.wait("document.querySelectorAll('.js-plotly-plot .main-svg').length > 0")
            assert tab.errors == []
            names = "[...document.querySelectorAll('.legendtext')].map(t => t.textContent)"
            assert tab.run(names) == ["x/a", "y/a"]
            legend = "document.querySelector('.legend:has(.legendtext)').getBoundingClientRect()"
            assert 0 < tab.run(f"{legend}.top") < tab.run(f"{legend}.bottom") < 250
            tab.run(
                "[...document.querySelectorAll('.updatemenu-button')][1]"
                ".dispatchEvent(new MouseEvent('click'))"
            )
            tab.wait("document.querySelector('.xtitle').textContent == 'hours'")
    for arguments, words in (
        (["nowhere"], "nowhere: has no metrics.jsonl"),
        ([runs[0], runs[0]], "named twice"),
    ):
        assert compare_runs.main([*arguments, "--output", str(page)]) == 2
        assert words in capsys.readouterr().err
