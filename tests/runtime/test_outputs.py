"""Places for results are tried before the work, and what the system refuses is one sentence."""

import errno
import os
import tempfile
from pathlib import Path

import pytest

from e2r.cli.errors import run_command
from e2r.runtime import outputs, system_errors


def in_the_way(path):
    path.write_text("precious")
    return path


PLACES = {
    "a file": lambda top: in_the_way(top / "out"),
    "below a file": lambda top: in_the_way(top / "out") / "deep" / "er",
    "a link to nowhere": lambda top: dangling(top / "out"),
    "below a link to nowhere": lambda top: dangling(top / "out") / "deep",
    "a name that is too long": lambda top: top / ("x" * 300),
    "below a name that is too long": lambda top: top / ("x" * 300) / "y",
    "links in a circle": lambda top: circle(top) / "out",
    "the system's own folder": lambda top: Path("/proc/e2r/out"),
}


def dangling(path):
    path.symlink_to(path.with_name("nowhere"))
    return path


def circle(top):
    (top / "a").symlink_to(top / "b")
    (top / "b").symlink_to(top / "a")
    return top / "a"


@pytest.mark.parametrize("name", PLACES)
def test_a_folder_that_cannot_be_made_is_refused(name, tmp_path):
    place = PLACES[name](tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"needed|cannot be written|too long|circle") as caught:
        outputs.require_folder(place)
    assert "Errno" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", [name for name in PLACES if name.startswith("below")])
def test_a_file_that_cannot_be_made_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"needed|cannot be written|too long"):
        outputs.require_file(PLACES[name](tmp_path) / "predictions.jsonl")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="is a folder; name a file in it"):
        outputs.require_file(tmp_path)


@pytest.mark.parametrize("place", ["", "new", "new/and/deep"])
def test_good_places_are_left_as_they_were(place, tmp_path):
    outputs.require_folder(tmp_path / place)
    outputs.require_file(tmp_path / place / "p.jsonl")
    assert not list(tmp_path.iterdir())
    kept = in_the_way(tmp_path / "p.jsonl")
    outputs.require_file(kept)
    assert kept.read_text() == "precious"
    (tmp_path / "link").symlink_to(tmp_path)
    outputs.require_folder(tmp_path / "link" / "new")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_disk_that_takes_nothing_is_refused(number, tmp_path, monkeypatch):
    """As a full, a read-only or another user's disk answers; root would pass the last."""

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(ValueError, match="cannot be written") as caught:
        outputs.require_folder(tmp_path / "out")
    assert "; " in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_folder_of_another_user_is_refused():
    """Root may write everywhere, so it becomes nobody for a moment."""
    user, nobody = os.geteuid(), 65534
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to nobody
        Path(folder).chmod(0o555)
        if user == 0:
            os.seteuid(nobody)
        try:
            with pytest.raises(ValueError, match="change its permissions"):
                outputs.require_folder(Path(folder) / "out")
        finally:
            os.seteuid(user)
            Path(folder).chmod(0o755)


# What the system refuses --------------------------------------------------------------------------


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_error_of_the_system_is_a_sentence_with_a_remedy(number, capsys):
    def command():
        raise OSError(number, os.strerror(number), "/some/where")

    assert run_command(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("e2r: /some/where: ") and "; " in line
    assert "Errno" not in line and "[" not in line


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda top: (top / "file" / "x").write_text(""), "lies below a file"),
        (lambda top: (top / "file").mkdir(), "is in the way"),
        (lambda top: top.read_text(), "is a folder where a file is needed"),
        (lambda top: (top / "gone").read_text(), "no such file or folder; check the path"),
        (lambda top: (top / ("x" * 300)).write_text(""), "too long"),
        (lambda top: (top / "gone").rename(top / "there"), "there: no such file"),
    ],
)
def test_real_errors_name_the_place(act, words, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run_command(lambda: act(tmp_path) and 0) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and str(tmp_path) in line and "Errno" not in line


def test_errors_without_a_number_or_a_place_keep_their_words():
    assert system_errors.explain(OSError("cannot identify image file")) == (
        "cannot identify image file"
    )
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert system_errors.explain(full).startswith("the disk is full; free some space")
    assert system_errors.explain(OSError(errno.EIO, "x", 3)).startswith("the disk fails")
