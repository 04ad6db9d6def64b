"""The benchmarks of limits and growth, at their smallest."""

import json
import re

import numpy as np
import pytest

from experiments.benchmarks import roofline, scaling
from experiments.benchmarks.scaling import Growth, table_rows


def test_a_program_is_held_against_both_peaks(tmp_path):
    path = tmp_path / "roofline.json"
    arguments = ["--programs", "registration", "--repeats", "1", "--output", str(path)]
    assert roofline.main(arguments) == 0
    record = json.loads(path.read_text())
    ((what, time_ms, gflop, gb, _, intensity, of_flops, of_memory, limit_ms),) = record["rows"]
    found = re.findall(r"([\d.]+) G(?:FLOP|B)/s", record["note"])
    flops, bytes_ = (1e9 * float(number) for number in found)
    assert "registration" in what and gflop > 0
    assert intensity == pytest.approx(gflop / gb, rel=0.1)
    assert of_flops == pytest.approx(1e14 * gflop / time_ms / flops, rel=0.2)
    assert of_memory == pytest.approx(1e14 * gb / time_ms / bytes_, rel=0.2)
    assert limit_ms <= 1.2 * time_ms or of_memory > 80  # its bytes may come from a cache


def test_an_exponent_is_the_slope_of_the_larger_half():
    values = [1, 2, 4, 8]
    growth = Growth("points", values, [5.0, 5.0, 16.0, 64.0], [1.0, 9.0, 4.0, 8.0])
    assert growth.exponents() == (pytest.approx(2.0), pytest.approx(1.0))
    two = Growth("points", [1, 10], [1.0, 10.0], [3.0, 3.0])
    assert two.exponents() == (pytest.approx(1.0), pytest.approx(0.0))
    rows = table_rows([growth])
    assert [row[1] for row in rows] == values and rows[0][4] is None and rows[-1][4] == 2.0


@pytest.mark.slow
def test_each_quantity_is_measured(tmp_path):
    path = tmp_path / "scaling.json"
    sizes = [
        *("--points", "64", "256"),
        *("--scenes", "1", "2"),
        *("--levels", "1", "2"),
        *("--starts", "1", "2"),
    ]
    assert scaling.main([*sizes, "--repeats", "1", "--output", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [row[0] for row in rows] == [n for n in scaling.QUANTITIES for _ in range(2)]
    assert np.isfinite([row[2:4] for row in rows]).all()
    assert min(row[2] for row in rows) > 0


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        (roofline, ["--programs", "speed"], "--programs speed: use some of"),
        (roofline, ["--repeats", "0"], "--repeats is 0; use 1 or more"),
        (scaling, ["--points", "64", "64"], "--points: give two rising numbers"),
        (scaling, ["--starts", "8"], "--starts: give two rising numbers"),
        (scaling, ["--repeats", "0"], "--repeats is 0; use 1 or more"),
    ],
)
def test_wrong_options_are_one_sentence(command, words, message, capsys):
    assert command.main(words) == 2
    assert message in capsys.readouterr().err
