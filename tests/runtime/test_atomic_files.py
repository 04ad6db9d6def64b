"""Files that are written completely or not at all."""

import os

import pytest

from e2r.runtime.atomic_files import atomic_write


def test_two_writers_of_a_file_do_not_take_each_others_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in each container that mounts the folder
    path = tmp_path / "calibration.json"
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # it ends last
    assert [*tmp_path.iterdir()] == [path]


def test_a_writer_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as part:
        part.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]
