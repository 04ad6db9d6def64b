"""What a run says while it trains: its log, its table, its callback, and what stops it."""

import csv
import itertools
import json
import sys
from types import SimpleNamespace
from typing import NamedTuple

import jax
import made_up_run
import numpy as np
import pytest
from conftest import TINY

from e2r.training import checkpoints, metrics_csv, metrics_log, tensorboard_log
from e2r.training.metrics_log import read_log
from e2r.training.step import last_learning_rate


@pytest.fixture
def run(monkeypatch):
    return made_up_run.install(monkeypatch)


class Held(NamedTuple):
    tre_mm: float
    success_2mm: float


def table(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_table(folder):
    """The table holds what the log holds, cell by cell; a missing figure is an empty cell."""
    lines, rows = read_log(folder), table(folder)
    assert len(lines) == len(rows) > 0
    columns = set().union(*lines)
    for line, row in zip(lines, rows, strict=True):
        assert set(row) == columns
        found = {name: float(cell) for name, cell in row.items() if cell != ""}
        assert found == {name: float(value) for name, value in line.items()}


def expected_rate(update, steps, peak=TINY.optimisation.learning_rate):
    """The learning rate of an update, from 0: one of warm-up, then a cosine down to 2 %."""
    if update < 1:
        return 0.0
    share = (update - 1) / (steps - 1)
    return peak * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * share)))


def test_a_line_names_each_term_of_the_loss_and_the_learning_rate(run, tmp_path):
    run(tmp_path)
    lines = read_log(tmp_path)
    assert [line["step"] for line in lines] == [*range(1, 9)]
    for line in lines:
        terms = {name: value for name, value in line.items() if name.startswith("loss_")}
        assert terms == {
            "loss_mask": 1.0,
            "loss_keep": 0.25,
            "loss_interest": 0.5,
            "loss_coarse": 2.0,
            "loss_extra": 0.0,
        }
        assert sum(terms.values()) == line["loss"] == made_up_run.LOSS
        rate = expected_rate(line["step"] - 1, steps=8)
        assert line["learning_rate"] == pytest.approx(rate, rel=1e-5)
    assert_same_table(tmp_path)


def test_a_resumed_run_goes_on_counting_its_seconds(run, tmp_path, monkeypatch):
    clock = itertools.count(100.0, 0.5)  # each look at it takes half a second
    monkeypatch.setattr(metrics_log, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    run(tmp_path, stop_after=3)
    for _ in range(1000):  # no process runs
        next(clock)
    run(tmp_path, stop_after=6)
    for _ in range(1000):
        next(clock)
    run(tmp_path)
    lines = read_log(tmp_path)
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(set(seconds)) and len(seconds) == 8
    assert 8 * 0.5 < seconds[-1] < 40
    assert [line["waited"] * line["seconds"] for line in lines] == pytest.approx(
        [0.5 * number for number in range(1, 9)]  # each batch is waited for once
    )


def test_the_seconds_of_a_log_that_counted_anew_are_added_up():
    lines = [
        {"step": 1, "seconds": 10.0, "waited": 0.5},
        {"step": 2, "seconds": 30.0, "waited": 0.1},
        {"step": 3, "seconds": 5.0, "waited": 0.0},
        {"step": 4, "seconds": 8.0, "waited": 0.25},
    ]
    assert metrics_log.time_spent(lines) == (38.0, 5.0)
    assert metrics_log.time_spent(lines[:1]) == (10.0, 5.0)
    assert metrics_log.time_spent([]) == (0.0, 0.0)


def test_the_table_stays_right_when_columns_appear_and_a_run_is_killed(run, tmp_path):
    run(tmp_path, stop_after=4)  # saved at steps 3 and 4
    assert "held_out_tre_mm" not in table(tmp_path)[0]
    with (tmp_path / "metrics.jsonl").open("a") as file:  # of a process that was killed later
        file.write(json.dumps({"step": 5, "seconds": 9.0, "waited": 0.0, "odd": 1}) + "\n")
        file.write('{"step": 6, "sec')
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("5,9.0\n6,")
    held_out = {"held_out": lambda params: Held(1.5, 0.75), "held_out_every": 3}
    run(tmp_path, **held_out)
    rows = table(tmp_path)
    assert [row["step"] for row in rows] == [str(step) for step in range(1, 9)]
    assert [row["held_out_tre_mm"] for row in rows] == [""] * 5 + ["1.5"] + [""] * 2
    assert [row["held_out_success_2mm"] for row in rows] == [""] * 5 + ["0.75"] + [""] * 2
    assert "odd" not in rows[0]
    assert_same_table(tmp_path)


def test_a_held_out_set_has_lines_of_its_own_and_changes_nothing(run, tmp_path):
    seen = []

    def held_out(params):
        seen.append(np.array(params["w"]))
        return Held(float("nan"), 0.5)

    plain = run(tmp_path / "plain", log_every=4)
    watched = run(tmp_path / "watched", log_every=4, held_out=held_out, held_out_every=3)
    jax.tree.map(np.testing.assert_array_equal, plain, watched)
    lines = read_log(tmp_path / "watched")
    assert [line["step"] for line in lines if "held_out_success_2mm" in line] == [3, 6]
    assert not any("held_out_tre_mm" in line for line in lines)  # not finite: left out
    assert len(seen) == 2 and not np.array_equal(*seen)


def test_a_callback_gets_each_line(run, tmp_path):
    lines = []

    def note(line):
        lines.append(dict(line))
        line["step"] = -1  # its own copy

    run(tmp_path, log_every=3, on_log=note)
    assert lines == read_log(tmp_path)
    assert [line["step"] for line in lines] == [3, 6, 8]


def test_an_exception_of_the_callback_stops_the_run_after_a_checkpoint(run, tmp_path):
    class EnoughError(Exception):
        pass

    def stop(line):
        if line["step"] == 5:
            raise EnoughError("TRE is good")

    whole = run(tmp_path / "whole")
    with pytest.raises(EnoughError, match="TRE is good"):
        run(tmp_path / "parts", on_log=stop)
    assert checkpoints.latest_step(tmp_path / "parts") == 5  # no step on which one is due
    assert [line["step"] for line in read_log(tmp_path / "parts")] == [1, 2, 3, 4, 5]
    parts = run(tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "asked", on_log=lambda line: (_ for _ in ()).throw(KeyboardInterrupt))
    assert checkpoints.latest_step(tmp_path / "asked") == 1


def test_rows_with_commas_and_other_columns_are_refused_or_quoted(tmp_path):
    columns = metrics_csv.write_table(tmp_path, [{"step": 1, 'a,"b"': 0.1}])
    assert columns == ["step", 'a,"b"']
    assert metrics_csv.append_row(tmp_path, {"step": 2}, columns)
    assert not metrics_csv.append_row(tmp_path, {"step": 3, "new": 1.0}, columns)
    assert table(tmp_path) == [{"step": "1", 'a,"b"': "0.1"}, {"step": "2", 'a,"b"': ""}]
    metrics_csv.write_table(tmp_path, [])
    assert not (tmp_path / "metrics.csv").exists()


def test_without_its_package_tensorboard_is_refused_in_one_sentence(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ValueError, match=r"needs the package tensorboardX.*e2r\[tensorboard\]"):
        run(tmp_path, tensorboard=True)
    assert not read_log(tmp_path)


class Recorded:
    """Stands where ``tensorboardX`` does: notes what is written."""

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.scalars, self.open = folder, purge_step, [], True
        Recorded.latest = self

    def add_scalar(self, tag, value, step):
        self.scalars.append((tag, value, step))

    def flush(self):
        pass

    def close(self):
        self.open = False


def test_tensorboard_gets_every_figure_in_its_group(run, tmp_path, monkeypatch):
    module = type(sys)("tensorboardX")
    module.SummaryWriter = Recorded
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    held_out = {"held_out": lambda params: Held(1.5, 0.75), "held_out_every": 4}
    run(tmp_path, tensorboard=True, stop_after=4, **held_out)
    written = Recorded.latest
    assert written.folder == str(tmp_path / "tensorboard") and not written.open
    assert written.purge_step == 1
    for line in read_log(tmp_path):
        found = {tag: value for tag, value, step in written.scalars if step == line["step"]}
        assert {tensorboard_log.tag(k): v for k, v in line.items() if k != "step"} == found
    assert ("held_out/tre_mm", 1.5, 4) in written.scalars
    assert ("loss/coarse", 2.0, 4) in written.scalars
    assert any(tag == "training/learning_rate" for tag, *_ in written.scalars)
    run(tmp_path, tensorboard=True)
    assert Recorded.latest.purge_step == 5 and Recorded.latest.scalars[0][2] == 5


def test_the_last_learning_rate_does_not_count_skipped_steps():
    state = made_up_run.first_state()
    options = TINY.optimisation
    assert last_learning_rate(state, options) == 0.0
    step_fn = made_up_run.made_up_step(TINY)
    for step in range(1, 4):
        state, _ = step_fn(state, None, None, step=step)
    skipped = state._replace(step=state.step + 2)
    for one in (state, skipped):
        rate = last_learning_rate(one, options)
        assert rate == pytest.approx(expected_rate(2, steps=8), rel=1e-5)
