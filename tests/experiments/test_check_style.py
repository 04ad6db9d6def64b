"""The style checks find the violations that they are made for, and nothing else."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("check_style", ROOT / ".ci" / "check_style.py")
check_style = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_style)

HEADER = '''"""A study of something.

Command:  python -m experiments.studies.thing --output runs/thing \\\\
              --seeds 3
Time:     two minutes
Expect:   median TRE
          0.4 mm

What it does.
"""
'''


def test_a_complete_header_passes():
    assert list(check_style.check_header(HEADER, "experiments.studies.thing")) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("Time:     two minutes\n", "", "no line `Time:`"),
        ("Expect:   median TRE\n          0.4 mm\n", "", "no line `Expect:`"),
        ("0.4 mm", "as low as it gets", "no digit"),
        ("studies.thing", "studies.other", "does not run `python -m experiments.studies.thing`"),
        ("python -m ", "python ", "does not run"),
        (HEADER, "x = 1\n", "no line `Command:`"),
    ],
)
def test_an_incomplete_header_is_found(old, new, words):
    source = HEADER.replace(old, new)
    assert source != HEADER
    assert any(words in s for s in check_style.check_header(source, "experiments.studies.thing"))


def test_a_digit_after_the_expected_figure_does_not_count():
    source = HEADER.replace("0.4 mm", "low").replace("What it does.", "It runs 3 times.")
    assert list(check_style.check_header(source, "experiments.studies.thing"))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from experiments.studies import ablation", True),
        ("import experiments.train", True),
        ("from . import ablation", True),
        ("from e2r.evaluation import runner", False),
    ],
)
def test_experiments_do_not_import_each_other(line, found):
    assert bool(list(check_style.check_imports(line, "experiments.studies.thing"))) == found


def test_long_files_are_found():
    assert list(check_style.check_length("x = 1\n" * 400)) == []
    assert list(check_style.check_length("x = 1\n" * 401)) == ["401 lines, more than 400"]


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("a = [\n  [1, -2.5], [0, 1],\n]  # fmt: skip\n", True),
        ("a = f([\n  [c, -s, 0], [s, c, 0],\n])  # fmt: skip\n", True),
        ("a = (\n  m[0][0], -0.5 * (m[0][1] + m[1][0]),\n)  # fmt: skip\n", True),
        ("a = [\n  'one', 'two',\n]  # fmt: skip\n", False),
        ("a = f(x,\n  y)  # fmt: skip\n", False),
        ("a = select([x, y], [p, q])  # fmt: skip\n", False),
        ("a = [\n  f(1.0), f(2.0),\n]  # fmt: skip\n", False),
        ("def f():\n    a = [[1, 2], [3, 4]]\n    return a  # fmt: skip\n", False),
    ],
)
def test_skipped_formatting_is_for_matrices(statement, allowed):
    assert (list(check_style.check_skips(statement)) == []) == allowed


def test_a_long_readme_is_found():
    assert list(check_style.check_readme("word " * 600)) == []
    assert list(check_style.check_readme("word " * 601)) == ["601 words, more than 600"]


def test_flat_files_are_counted():
    names = [f"m{i}.py" for i in range(6)]
    assert list(check_style.check_flat_files([*names, "py.typed"])) == []
    assert list(check_style.check_flat_files([*names, "m6.py"]))


def test_a_project_is_checked_file_by_file(tmp_path):
    for folder in ("e2r/room", "experiments/studies", "tests"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "e2r" / "room" / "long.py").write_text("x = 1\n" * 500)
    (tmp_path / "experiments" / "studies" / "__init__.py").write_text("")
    (tmp_path / "experiments" / "studies" / "thing.py").write_text(HEADER)
    (tmp_path / "experiments" / "studies" / "bare.py").write_text("x = 1\n")
    (tmp_path / "README.md").write_text("short")
    found = list(check_style.check_project(tmp_path))
    assert found[0] == "e2r/room/long.py: 500 lines, more than 400"
    assert len(found) == 4 and all("studies/bare.py" in line for line in found[1:])


def test_the_project_itself_passes_where_its_files_are_experiments():
    found = [line for line in check_style.check_project(ROOT) if line.startswith("experiments")]
    assert found == []
