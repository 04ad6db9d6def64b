"""A job is continued with its own cases only: those of its ids may be others by now."""

import os
from dataclasses import replace

import pytest
from small_cases import prediction_line, small_case

from e2r.datasets import case_folder
from e2r.evaluation import work_units
from e2r.evaluation.job_folder import open_job


@pytest.fixture
def place(tmp_path):
    """A data set of three cases, two of which a job has registered."""
    for seed, name in enumerate("abc"):
        case_folder.write_case(small_case(name, seed=seed), tmp_path / "set" / name)
    with open_job(tmp_path / "out", {}) as job:
        for name in "ab":
            case = case_folder.read_case(tmp_path / "set" / name)
            job.add(prediction_line(case), {"id": name})
    began = (tmp_path / "out" / "job.json").stat().st_mtime
    os.utime(tmp_path / "out" / "job.json", (began + 3600, began + 3600))  # long after the cases
    return tmp_path


def check(place):
    units = work_units.of_folder(place / "set")
    with open_job(place / "out", {}) as job:
        work_units.refuse_changed_cases(units, job)


def long_ago(place):
    """As if the job had begun before everything that happens now."""
    os.utime(place / "out" / "job.json", (1e9, 1e9))


def test_cases_that_nobody_touched_are_not_read_again(place, monkeypatch):
    monkeypatch.setattr(case_folder, "read_case", lambda path: pytest.fail(f"{path} was read"))
    check(place)


def test_the_same_cases_written_again_are_accepted(place):
    long_ago(place)
    check(place)
    case_folder.write_case(small_case("a", seed=0), place / "set" / "a")
    case_folder.write_case(small_case("c", seed=9), place / "set" / "c")  # not yet registered
    check(place)


@pytest.mark.parametrize("spoil", ["another patient", "another level", "no depth"])
def test_another_case_of_a_registered_id_is_refused(spoil, place):
    long_ago(place)
    folder = place / "set" / "b"
    if spoil == "no depth":
        (folder / "depth.png").unlink()
    elif spoil == "another level":
        case_folder.write_case(small_case("b", seed=1, levels=("L1", "L3")), folder)
    else:
        case_folder.write_case(small_case("b", seed=7), folder)
    with pytest.raises(ValueError, match="b: is another case than the one of this id"):
        check(place)


def test_swapped_ids_are_refused(place):
    long_ago(place)
    for name, other in ("ab", "ba"):
        case = case_folder.read_case(place / "set" / name)
        case_folder.write_case(replace(case, id=other), place / "swapped" / other)
    for name in "ab":
        case_folder.write_case(
            case_folder.read_case(place / "swapped" / name), place / "set" / name
        )
    with pytest.raises(ValueError, match="is another case"):
        check(place)


def test_lines_of_an_older_job_are_kept(place):
    long_ago(place)
    with open_job(place / "out", {}) as job:
        old = prediction_line(small_case("c", seed=2))
        del old["case_digest"]
        job.add(old)
    check(place)


def test_opening_a_job_again_does_not_change_when_it_began(place):
    before = (place / "out" / "job.json").stat().st_mtime_ns
    check(place)
    assert (place / "out" / "job.json").stat().st_mtime_ns == before
