"""Notes of readers: the logger in Python, stderr on the command line."""

import logging

from e2r.cli.errors import run_command
from e2r.formats import notices


def test_a_note_goes_to_the_logger_in_python(caplog, capsys):
    notices.say("scene.ply", "is y up; it was turned about x")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "scene.ply: is y up; it was turned about x"
    assert "note" not in capsys.readouterr().err


def test_the_command_line_prints_a_note_once(capsys, caplog):
    def command():
        notices.say("scene.ply", "is y up; it was turned about x")
        return 0

    assert run_command(command) == 0
    assert capsys.readouterr().err == "e2r: note: scene.ply: is y up; it was turned about x\n"
    assert not caplog.records
    assert not notices.LOGGER.handlers
