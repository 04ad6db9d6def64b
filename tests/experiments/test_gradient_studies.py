"""The studies of the whole gradient: their tables, and what they refuse."""

import numpy as np
import pytest

from e2r.analysis.gradient_check import cosine_between
from experiments.studies import full_gradient, gradient_table


def test_both_arms_of_training_show_their_range_over_seeds():
    runs = {
        f"{name} {seed}": {
            "tre_mm": [tre, tre, 9.0],
            "source": list("aab"),
            "id": list("xyz"),
            "name": name,
        }
        for name, errors in {"cut": (0.5, 1.5), "kept": (0.4, 3.0)}.items()
        for seed, tre in enumerate(errors)
    }
    figures = full_gradient.summarise(runs)
    assert figures["cut"]["medians"] == [0.5, 1.5] and figures["kept"]["medians"] == [0.4, 3.0]
    assert figures["cut"]["below_2mm"] == pytest.approx(4 / 6)
    assert figures["kept"]["successes"] == pytest.approx([2 / 3, 0.0])
    pairs = full_gradient.compare_pairs(runs)
    assert pairs["by_seed"] == pytest.approx([0.8, 2.0])
    low, high = pairs["interval95"]
    assert 0.8 <= low <= pairs["ratio"] <= high <= 2.0
    runs["kept 1"]["id"] = ["y", "x", "w"]  # other frames than those of the cut arm
    assert full_gradient.compare_pairs(runs)["by_seed"] == pytest.approx([0.8, 2.0])
    shown = full_gradient.results_table(figures)
    assert "(0.50 to 1.50) mm" in shown and "33.3% (0.0% to 66.7%)" in shown


def test_a_cosine_is_shown_for_each_precision_and_step_of_the_differences():
    run = {
        "correspondence": "soft",
        "step": "symmetric",
        "kernel": "tukey",
        "tre_mm": 0.5,
        "double": [1.0, 0.25],
        "single": [0.5, 0.75],
        "single_to_double": 0.125,
        "without_jumps": None,
    }
    heading, row = gradient_table.results_table([run], [0.01, 0.1]).splitlines()
    assert [heading.count(name) for name in ("64: 0.01", "64: 0.1", "32: 0.1", "32 to 64")] == [
        1
    ] * 4
    assert row.split() == [
        "soft",
        "symmetric",
        "tukey",
        "0.50",
        "1.0000",
        "0.2500",
        "0.5000",
        "0.7500",
        "0.1250",
    ]
    frozen = gradient_table.results_table([{**run, "without_jumps": [1.0, 0.99]}], [0.01, 0.1])
    assert frozen.splitlines()[1].split()[-2:] == ["1.0000", "0.9900"]
    assert cosine_between(np.array([1.0, 0.0]), np.zeros(2)) == 0.0


@pytest.mark.parametrize(
    ("study", "arguments", "words"),
    [
        (gradient_table, ["--kernels", "trimmed"], "--kernels: use some of welsch"),
        (gradient_table, ["--points", "0"], "--points is 0"),
        (gradient_table, ["--eps", "0"], "--eps: use"),
        (full_gradient, ["--output", "x", "--seeds", "0"], "--seeds is 0"),
    ],
)
def test_settings_without_a_meaning_are_refused(study, arguments, words, capsys):
    assert study.main(arguments) == 2
    assert words in capsys.readouterr().err
