"""Every notebook runs, and says what it promises."""

import runpy
from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def test_quickstart_runs_and_tells_its_story(capsys):
    found = runpy.run_path(str(NOTEBOOKS / "01_quickstart.py"))
    shown = capsys.readouterr().out
    assert "true bone" in shown
    assert float(found["error"](found["bone"])) < 1.0
    assert found["influence"] > 1.5  # of eight such specimens: 1.7 to 2.8
    assert found["share"] > 5 * found["on_bone"].mean()
