"""The front of the command line: dispatch, help and refusals."""

import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated

import pytest
import tyro

import e2r.cli
from e2r.cli import COMMANDS, main
from e2r.cli.errors import parse_options, run_command


@dataclass(frozen=True)
class Settings:
    """Settings with a check."""

    size: int = 1
    """a size"""

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"--size is {self.size}; use 1 or more")


@dataclass(frozen=True)
class Options:
    """Options with nested settings."""

    name: str = "a"
    """a name"""
    settings: Annotated[Settings, tyro.conf.arg(name="")] = Settings()


def test_nested_settings_have_short_options():
    assert parse_options(Options, ["--size", "3"], prog="x") == Options("a", Settings(3))


@pytest.mark.parametrize("kind", [Options, Settings])
def test_refused_settings_are_one_sentence(kind, capsys):
    code = run_command(lambda: len([parse_options(kind, ["--size", "0"], prog="x")]))
    assert code == 2
    assert capsys.readouterr().err == "e2r: --size is 0; use 1 or more\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "x"], "--size: invalid literal for int() with base 10: 'x'"),
        (["--unknown", "1"], "--unknown: no such option; --help lists the options"),
        (["--sise", "1"], "--sise: no such option; did you mean --size?"),
    ],
)
def test_unreadable_words_are_one_sentence(words, said, capsys):
    assert run_command(lambda: len([parse_options(Options, words, prog="x")])) == 2
    assert capsys.readouterr().err == f"e2r: {said}\n"


def test_a_misspelt_command_gets_the_near_one(capsys):
    assert main(["regster", "x"]) == 2
    assert capsys.readouterr().err == "e2r: regster: no such command; did you mean register?\n"
    assert main(["qqq"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("e2r: qqq: no such command; use one of simulate, register")
    assert err.count("\n") == 1


def test_an_interruption_ends_with_130(capsys):
    def interrupted():
        raise KeyboardInterrupt

    assert run_command(interrupted) == 130
    assert "Run the same command again" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summary_opens_the_help_of_each_command(name):
    command = import_module(f"e2r.cli.{name}")
    assert command.Options.__doc__.splitlines()[0] == COMMANDS[name]
    assert callable(command.run)


@pytest.mark.parametrize("words", [[], ["--fly"]])
def test_a_call_without_a_command_is_refused(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("usage: e2r")


def test_help_names_all_commands_and_imports_no_jax():
    code = (
        "import sys, e2r.cli\n"
        "try: e2r.cli.main(['--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'jax', 'trimesh', 'tyro'} & sys.modules.keys()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert all(name in done.stdout for name in COMMANDS)


def test_the_console_script_is_main():
    path = Path(e2r.cli.__file__).parents[2] / "pyproject.toml"
    scripts = tomllib.loads(path.read_text())["project"]["scripts"]
    assert scripts == {"e2r": "e2r.cli:main"}
