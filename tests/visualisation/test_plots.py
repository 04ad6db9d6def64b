"""Plots show the numbers that they are given."""

import numpy as np

from e2r.evaluation.summary import RiskCoverageCurve
from e2r.visualisation import plots


def test_the_success_rate_rises_at_each_error():
    (line,) = plots.success_curves({"learnt": [3.0, 1.0, np.nan, 2.0]}).data
    np.testing.assert_allclose(line.x, [1, 2, 3])
    np.testing.assert_allclose(line.y, [1 / 3, 2 / 3, 1])


def test_the_risk_coverage_curve_shows_its_values():
    (line,) = plots.risk_coverage_curve(RiskCoverageCurve([0.5, 1.0], [0.0, 0.5], [1.0, 9.0])).data
    assert list(line.x) == [0.5, 1.0]
    assert list(line.y) == [0.0, 0.5]


def test_heat_maps_show_their_values():
    maps = {"a": [[1, 2, 3], [4, 5, 6]], "b": np.zeros((2, 3)), "c": np.ones((2, 3))}
    figure = plots.heat_maps(
        maps, (0.0, 4.0, 8.5), (0.0, 4.0), x_title="mm", y_title="°", columns=2
    )
    np.testing.assert_array_equal(figure.data[0].z, maps["a"])
    assert figure.data[0].x == ("0", "4", "8.5")
    assert [note.text for note in figure.layout.annotations] == ["a", "b", "c"]


def test_training_curves_are_medians_of_the_logged_values():
    log = [{"step": i + 1, "loss": float(i % 2), "keep": 0.5} for i in range(300)]
    log[7]["loss"] = 1e9
    lines = {trace.name: trace for trace in plots.training_curves(log).data}
    assert len(lines["loss"].x) == 100 and lines["loss"].x[-1] == 300
    assert max(lines["loss"].y) <= 1.0
    assert set(lines["share of points kept"].y) == {0.5}
    assert len(lines["coarse stage"].x) == 0
    assert all(len(trace.x) == 0 for trace in plots.training_curves([]).data)


def test_box_plots_show_the_errors_and_the_lines():
    panels = {"by level": {"L1": [1.0, 2.0], "L2": [3.0]}, "by specimen": {"A": [1.0]}}
    figure = plots.error_boxes(panels, {"a": 1.5, "b": 2.5}, title="data", solid=frozenset({"b"}))
    assert [box.name for box in figure.data] == ["L1", "L2", "A"]
    assert list(figure.data[0].y) == [1.0, 2.0]
    assert {line.y0: line.line.dash for line in figure.layout.shapes} == {1.5: "dot", 2.5: "solid"}
    assert figure.layout.title.text == "data"


def test_growth_has_a_panel_a_quantity_with_time_and_memory():
    panels = {
        "points": {"values": [1.0, 4.0], "time, ms": [1.0, 4.2], "memory, MB": [2.0, 8.0]},
        "starts": {"values": [1.0, 16.0], "time, ms": [3.0, 30.0], "memory, MB": [1.0, 1.5]},
    }
    figure = plots.growth_curves(panels)
    assert [trace.name for trace in figure.data] == 2 * ["time, ms", "memory, MB"]
    assert [list(trace.y) for trace in figure.data[2:]] == [[3.0, 30.0], [1.0, 1.5]]
    assert [title.text for title in figure.layout.annotations] == ["points", "starts"]
    assert figure.layout.xaxis2.type == figure.layout.yaxis2.type == "log"
    assert list(figure.layout.xaxis2.ticktext) == ["1", "16"]
