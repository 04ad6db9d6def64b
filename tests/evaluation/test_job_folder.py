"""A job's folder: one process writes it, and may die at any moment."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from e2r.evaluation.job_folder import PREDICTIONS, SETTINGS, count_predictions, open_job

CASES = 40


def line(name):
    return {"id": name, "error": None, "padding": "x" * 300}


def work(folder, pause):
    """Does the cases that are not done, each in ``pause`` seconds."""
    with open_job(folder, {"a": 1}) as job:
        for name in (f"case{number}" for number in range(CASES)):
            if name not in job.done():
                time.sleep(pause)
                job.add(line(name), {"id": name, "by": os.getpid()})


def started(folder, pause=0.002):
    process = multiprocessing.get_context("spawn").Process(target=work, args=(folder, pause))
    process.start()
    return process


def ids(folder):
    return [json.loads(text)["id"] for text in (folder / PREDICTIONS).read_text().splitlines()]


def test_a_second_writer_is_refused_until_the_first_has_ended_in_any_way(tmp_path):
    first = started(tmp_path, 60.0)
    while not (tmp_path / SETTINGS).exists():
        time.sleep(0.01)
    with pytest.raises(ValueError, match="another process writes this job"):
        work(tmp_path, 0.0)
    os.kill(first.pid, signal.SIGKILL)
    first.join(60)
    with (
        open_job(tmp_path, {"a": 1}),
        pytest.raises(ValueError, match="another process writes this job"),
        open_job(tmp_path, {"a": 1}),
    ):
        pass
    work(tmp_path, 0.0)
    assert len(ids(tmp_path)) == CASES


def test_a_killed_process_loses_only_its_case(tmp_path):
    """It is killed again and again at random moments; another process does the rest."""
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
    assert ids(tmp_path) == [f"case{number}" for number in range(CASES)]
    with open_job(tmp_path, {"a": 1}) as job:
        rows = job.rows(job.lines())
    assert [row["id"] for row in rows] == ids(tmp_path)


def test_written_cases_are_counted_by_whole_lines(tmp_path):
    assert count_predictions(tmp_path / "not there") == 0
    (tmp_path / PREDICTIONS).write_text('{"id": "a"}\n{"id": "b"}\n{"id"')
    assert count_predictions(tmp_path) == 2


def test_each_mask_has_its_own_predictions(tmp_path):
    """A process that dies before the case is done leaves lines that the next one replaces."""
    with open_job(tmp_path, {"a": 1}) as job:
        job.add(line("one"), {"id": "one"}, others={"all": {"id": "one", "n": 1}})
        with (tmp_path / "predictions_all.jsonl").open("a") as file:
            file.write('{"id": "two", "n": 2}\n{"id": "thr')  # and no line of predictions.jsonl
        assert job.done() == {"one"}
        job.add(
            line("two"),
            {"id": "two"},
            others={"all": {"id": "two", "n": 3}, "oracle": {"id": "two"}},
        )
    with open_job(tmp_path, {"a": 1}) as job:
        assert [found["n"] for found in job.lines_of("all")] == [1, 3]
        assert job.lines_of("oracle") == [{"id": "two"}]
        assert job.lines_of("learnt") == []
    assert ids(tmp_path) == ["one", "two"]


def test_an_incomplete_line_is_removed_and_other_settings_are_refused(tmp_path):
    with open_job(tmp_path, {"a": 1}) as job:
        job.add(line("one"), {"id": "one"})
        with (tmp_path / PREDICTIONS).open("a") as file:
            file.write('{"id": "tw')
        assert job.done() == {"one"} and [found["id"] for found in job.lines()] == ["one"]
        job.add(line("two"), {"id": "two"})
    assert ids(tmp_path) == ["one", "two"]
    with open_job(tmp_path, {"a": 1}) as job:
        assert job.done() == {"one", "two"}
        assert job.rows(job.lines()) == [{"id": "one"}, {"id": "two"}]
    with pytest.raises(ValueError, match="other settings"), open_job(tmp_path, {"a": 2}):
        pass
    (tmp_path / "job.json").unlink()
    with pytest.raises(ValueError, match="without job"), open_job(tmp_path, {"a": 1}):
        pass
    (tmp_path / PREDICTIONS).write_text("no JSON\n")
    (tmp_path / "job.json").write_text(json.dumps({"a": 1}, indent=1))
    with pytest.raises(ValueError, match="not JSON"), open_job(tmp_path, {"a": 1}):
        pass
    for text in ("1\n", "{}\n", '{"id": 3}\n'):
        (tmp_path / PREDICTIONS).write_text(text)
        with pytest.raises(ValueError, match="a line without a case's id"):
            open_job(tmp_path, {"a": 1}).__enter__()


def test_a_case_whose_errors_are_lost_is_done_again(tmp_path):
    with open_job(tmp_path, {"a": 1}) as job:
        job.add(line("one"), {"id": "one"})
        job.add(line("two"), {"id": "two"})
    (tmp_path / "errors.jsonl").write_text('{"id": "two"}\n')
    with open_job(tmp_path, {"a": 1}) as job:
        assert job.done() == {"two"}


def test_a_case_that_failed_is_tried_again(tmp_path):
    with open_job(tmp_path, {"a": 1}) as job:
        job.add(line("one"), {"id": "one"})
        job.add(line("two") | {"error": "its worker died"})
        assert job.done() == {"one", "two"}
    with open_job(tmp_path, {"a": 1}) as job:
        assert job.done() == {"one"}
        job.add(line("two"), {"id": "two"})
    assert ids(tmp_path) == ["one", "two"]


def test_figures_of_other_code_are_kept_until_all_are_wanted_anew(tmp_path):
    first = {"e2r sources": "aa", "jax": "1.0", "kernel mine:cauchy": "11", "commit": "one"}
    with open_job(tmp_path, {"a": 1}, code=first) as job:
        job.add({"id": "x"}, {"id": "x"})
    (tmp_path / "views").mkdir()
    (tmp_path / "checkpoint").mkdir()
    # Another commit of the same sources goes on, and the first one's name stays.
    with open_job(tmp_path, {"a": 1}, code={**first, "commit": "two"}, again=True) as job:
        assert job.done() == {"x"} and job.code["commit"] == "one"
    for changed, words in [
        ({"e2r sources": "bb"}, "e2r sources aa then, bb now"),
        ({"jax": "1.1"}, "jax 1.0 then, 1.1 now"),
        ({"kernel mine:cauchy": "22"}, "kernel mine:cauchy 11 then, 22 now"),
    ]:
        with (
            pytest.raises(ValueError, match=f"{words}.*--again"),
            open_job(tmp_path, {"a": 1}, code=first | changed),
        ):
            pass
    with open_job(tmp_path, {"a": 1}, code=first | {"jax": "1.1"}, again=True) as job:
        assert job.done() == set() and job.code["jax"] == "1.1"
    assert not (tmp_path / "views").exists() and (tmp_path / "checkpoint").exists()
    # A job that was begun before code was recorded.
    (tmp_path / SETTINGS).write_text('{"a": 1}')
    with (
        pytest.raises(ValueError, match=r"jax not recorded then, 1\.0 now"),
        open_job(tmp_path, {"a": 1}, code=first),
    ):
        pass
