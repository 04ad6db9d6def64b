"""A job's folder under several processes that may die at any moment."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from e2r.evaluation.job_folder import PREDICTIONS, open_job
from e2r.runtime.prefetch import prefetch

UNITS = 40


def line(name):
    return {"id": name, "error": None, "padding": "x" * 300}


def work(folder, pause):
    """Does what nobody does, a unit in ``pause`` seconds."""
    with open_job(folder, {"a": 1}) as book:
        for unit in range(UNITS):
            name = f"case{unit}"
            if name in book.done() or not book.claim(unit) or name in book.done():
                continue
            time.sleep(pause)
            book.add(line(name), {"id": name, "by": os.getpid()})


def started(folder, pause=0.002):
    process = multiprocessing.get_context("spawn").Process(target=work, args=(folder, pause))
    process.start()
    return process


def ids(folder):
    return [json.loads(text)["id"] for text in (folder / PREDICTIONS).read_text().splitlines()]


def test_processes_share_the_work_and_do_nothing_twice(tmp_path):
    several = [started(tmp_path, 0.02) for _ in range(3)]
    for process in several:
        process.join(60)
        assert process.exitcode == 0
    assert sorted(ids(tmp_path)) == sorted(f"case{unit}" for unit in range(UNITS))
    with open_job(tmp_path, {"a": 1}) as book:
        rows = book.rows(book.lines())
    assert [row["id"] for row in rows] == ids(tmp_path)


def test_a_killed_process_loses_only_its_unit(tmp_path):
    """Killed at moments of its own, again and again; then another one does the rest."""
    for _ in range(4):
        before = (tmp_path / PREDICTIONS).stat().st_size if any(tmp_path.iterdir()) else 0
        process = started(tmp_path)
        while process.is_alive():
            path = tmp_path / PREDICTIONS
            if path.exists() and path.stat().st_size > before + 2000:
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.001)
        process.join(60)
    work(tmp_path, 0.0)
    assert sorted(ids(tmp_path)) == sorted(f"case{unit}" for unit in range(UNITS))


def test_half_a_line_is_cut_off_and_other_work_is_refused(tmp_path):
    with open_job(tmp_path, {"a": 1}) as book:
        book.add(line("one"), {"id": "one"})
        with (tmp_path / PREDICTIONS).open("a") as file:
            file.write('{"id": "tw')
        assert book.done() == {"one"} and [found["id"] for found in book.lines()] == ["one"]
        book.add(line("two"))
    assert ids(tmp_path) == ["one", "two"]
    with open_job(tmp_path, {"a": 1}) as book:
        assert book.done() == {"one", "two"}
        assert book.rows(book.lines()) == [{"id": "one"}]
    with pytest.raises(ValueError, match="other settings"), open_job(tmp_path, {"a": 2}):
        pass
    (tmp_path / "job.json").unlink()
    with pytest.raises(ValueError, match="without job"), open_job(tmp_path, {"a": 1}):
        pass
    (tmp_path / PREDICTIONS).write_text("no JSON\n")
    (tmp_path / "job.json").write_text(json.dumps({"a": 1}, indent=1))
    with open_job(tmp_path, {"a": 1}) as book, pytest.raises(ValueError, match="not JSON"):
        book.done()


def test_work_is_not_done_too_far_ahead():
    made = []
    results = prefetch(lambda item: made.append(item) or 10 * item, range(100), workers=2)
    assert [next(results) for _ in range(3)] == [0, 10, 20]
    time.sleep(0.05)
    assert len(made) <= 3 + 2
    results.close()

    def fails(item):
        if item == 2:
            raise ValueError("two")
        return item

    results = prefetch(fails, range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
