"""A track's timeline shows its states and its figures."""

from e2r.visualisation.timeline import timeline


def line(number, state, tre=None):
    levels = {}
    if state == "tracking":
        levels = {"L3": {"expected_tre_mm": 0.8, **({} if tre is None else {"tre_mm": tre})}}
    return {
        "number": number,
        "seconds": number / 10,
        "state": state,
        "agreeing": 0.9,
        "covered": 0.1,
        "latency_ms": 12.0,
        "levels": levels,
    }


STATES = ["searching", "tracking", "tracking", "occluded", "tracking"]


def test_states_are_bands_and_levels_are_lines():
    lines = [line(n, state, tre=0.5 + n) for n, state in enumerate(STATES)]
    figure = timeline([*lines[:2], {"number": 9, "seconds": 0.15, "error": "x"}, *lines[2:]])
    bands = {(shape.x0, shape.x1) for shape in figure.layout.shapes}
    assert bands == {(0.0, 0.1), (0.1, 0.3), (0.3, 0.4), (0.4, 0.4)}
    found = {trace.name: trace for trace in figure.data}
    assert list(found["L3"].y) == [None, 1.5, 2.5, None, 4.5]
    assert list(found["latency"].y) == [12.0] * 5
    assert "TRE (mm)" in [note.text for note in figure.layout.annotations]


def test_without_a_truth_the_expected_error_is_shown():
    figure = timeline([line(n, state) for n, state in enumerate(STATES)])
    assert "expected TRE (mm)" in [note.text for note in figure.layout.annotations]
    found = {trace.name: trace for trace in figure.data}
    assert list(found["L3"].y) == [None, 0.8, 0.8, None, 0.8]


def test_an_empty_track_has_a_figure():
    assert len(timeline([]).data) > 0
