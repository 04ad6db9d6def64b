"""The pinned set installs on every Python that pyproject.toml promises."""

from importlib.metadata import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
LINES = (ROOT / "requirements.txt").read_text().splitlines()
PINS = [Requirement(line) for line in LINES if line and not line.startswith("#")]


@pytest.mark.parametrize("python", ["3.11.0", "3.11.2", "3.12.0", "3.13.0"])
def test_no_pin_refuses_a_python_that_is_promised(python):
    """Debian 12 has 3.11.2; a pin that wants 3.11.5 ends its first command."""
    installed = {pin.name: metadata(pin.name) for pin in PINS}
    others = [str(pin) for pin in PINS if installed[pin.name]["Version"] not in pin.specifier]
    if others:
        pytest.skip(f"other versions than the pinned ones are installed: {', '.join(others)}")
    asked = {name: data["Requires-Python"] or "" for name, data in installed.items()}
    assert not {name: text for name, text in asked.items() if python not in SpecifierSet(text)}
