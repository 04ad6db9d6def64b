"""The benchmark of two builds: its figures, its refusals, and what a process of it sees."""

import sys
from pathlib import Path

import pytest

from experiments.benchmarks import before_after
from experiments.benchmarks.before_after import BeforeAfter, Measured, Part, run_once, summary


@pytest.fixture
def base(tmp_path):
    """An empty checkout of an earlier build."""
    (tmp_path / "base" / "e2r").mkdir(parents=True)
    return tmp_path / "base"


def test_a_ratio_is_that_of_neighbouring_processes():
    row = summary(
        {
            "before": [Measured([2.0, 2.0, 9.0], 1.0), Measured([8.0], 1.0)],
            "after": [Measured([1.0], 1.5, 60.0), Measured([2.0, 2.0], 1.5, 80.0)],
        }
    )
    assert row["ratio"] == pytest.approx(3.0)
    assert row["ratio_range"] == [2.0, 4.0]
    expected = {"median_s": 2.0, "range_s": [1.0, 2.0], "accuracy": 1.5, "memory_mb": 70.0}
    assert row["after"] == expected


def test_a_process_of_a_build_sees_its_checkout_and_its_cache(base, tmp_path):
    options = BeforeAfter(base, base_python=Path(sys.executable))
    code = "import os, jax; run = lambda i: i; accuracy = lambda found: len(os.environ['{}'])"
    part = Part("lengths", code.format("PYTHONPATH"), code.format("E2R_CACHE"), runs=4)
    place = tmp_path / "cache"
    place.mkdir()
    before = run_once(options, part, "before", cases=base, cache=place)
    after = run_once(options, part, "after", cases=base, cache=place)
    assert len(before.seconds) == 4
    assert before.accuracy == len(str(base)) and after.accuracy == len(str(place))


def test_the_largest_memory_of_a_process_is_its_own(base, tmp_path):
    options = BeforeAfter(base, base_python=Path(sys.executable))

    def memory(megabytes):
        code = f"import time; kept = b'x' * ({megabytes} * 10**6); time.sleep(0.5)"
        part = Part("memory", ("-c", code), ("-c", code))
        return run_once(options, part, "after", cases=base, cache=tmp_path).memory_mb

    own = b"x" * 10**9  # the process that measures may be larger
    large, small = memory(200), memory(20)
    assert len(own) == 10**9 and 170 < large - small < 190


def test_a_process_that_fails_is_one_sentence(base, tmp_path):
    words = ("-c", "raise SystemExit('no such case')")
    with pytest.raises(ValueError, match="ended with 1: no such case"):
        run_once(
            BeforeAfter(base, base_python=Path(sys.executable)),
            Part("failing", words, words),
            "after",
            cases=base,
            cache=tmp_path,
        )


def test_a_base_without_an_interpreter_is_refused(base, capsys):
    assert before_after.main([str(base)]) == 2
    assert "give a checkout with its own .venv" in capsys.readouterr().err
