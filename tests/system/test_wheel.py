"""What is installed is the whole package: it works outside a checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the content of the wheel that the tree gives."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "e2r", folder / "e2r", ignore=shutil.ignore_patterns("__pycache__"))
    build = ["pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet", "-w", "built"]
    subprocess.run([sys.executable, "-m", *build], cwd=folder, check=True)
    (wheel,) = (folder / "built").glob("*.whl")
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def e2r(site, folder, *words):
    """Runs the installed command line in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", "from e2r.cli import main; raise SystemExit(main())", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_what_the_tree_does(installed):
    wanted = {
        path.relative_to(ROOT)
        for pattern in ("**/*.py", "**/*.pyi", "**/*.jinja", "pretrained/**/*")
        for path in (ROOT / "e2r").glob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert not [path for path in wanted if not (installed / path).is_file()]
    assert "train" in e2r(installed, installed.parent, "--help")


@pytest.mark.slow
def test_the_installed_package_simulates_registers_trains_and_evaluates(installed, tmp_path):
    e2r(installed, tmp_path, "simulate", "--count", "2", "--output", "cases")
    assert "T_camera_model" in e2r(installed, tmp_path, "register", "cases/seed0_0000_000")
    tiny = ("train", "tiny", "--output", "run", "--optimisation.steps", "20")
    assert "20 steps done" in e2r(installed, tmp_path, *tiny)
    found = e2r(installed, tmp_path, "evaluate", "--cases", "cases", "--output", "out")
    assert "median TRE" in found and (tmp_path / "out" / "report.html").is_file()
