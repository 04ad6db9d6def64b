"""Checks what no linter knows: experiment headers, file sizes, the README's length, `# fmt: skip`.

Command:  python .ci/check_style.py

Prints one line for each violation, and exits with 1 if there is one.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("e2r", "experiments", "tests")
MAX_LINES = 400
MAX_FLAT_FILES = 6
MAX_README_WORDS = 600
HEADER_FIELDS = ("Command", "Time", "Expect")
SKIP = "# fmt: skip"


def header_fields(docstring: str) -> dict[str, str]:
    """The fields of a header: name -> text, with its indented continuation lines.

    Args:
      docstring: of a module.
    """
    fields: dict[str, str] = {}
    current = ""
    for line in docstring.splitlines():
        match = re.match(r"([A-Z][a-z]+):\s+(.*)", line)
        if match:
            current = match[1]
            fields[current] = match[2]
        elif current and line.startswith(" "):
            fields[current] += f" {line.strip()}"
        else:
            current = ""
    return fields


def check_header(source: str, module: str) -> Iterator[str]:
    """What is wrong with the header of an experiment.

    Args:
      source: text of the file.
      module: its dotted name, which the command must run.
    """
    fields = header_fields(ast.get_docstring(ast.parse(source)) or "")
    for name in HEADER_FIELDS:
        if not fields.get(name):
            yield f"the header has no line `{name}:`"
    command = re.match(r"python -m ([\w.]+)(?:\s|$)", fields.get("Command", ""))
    if "Command" in fields and (command is None or command[1] != module):
        yield f"the command does not run `python -m {module}`"
    if "Expect" in fields and not re.search(r"\d", fields["Expect"]):
        yield "the expected figure has no digit"


def check_imports(source: str, module: str) -> Iterator[str]:
    """Which other experiments an experiment imports.

    Args:
      source: text of the file.
      module: its dotted name.
    """
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            names = [f"experiments.{node.module or ''}" if node.level else node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.split(".")[0] == "experiments" and name != module:
                yield f"line {node.lineno}: imports another experiment; move what both need to e2r"


def check_length(source: str) -> Iterator[str]:
    """Whether a file is too long.

    Args:
      source: text of the file.
    """
    count = len(source.splitlines())
    if count > MAX_LINES:
        yield f"{count} lines, more than {MAX_LINES}"


def check_skips(source: str) -> Iterator[str]:
    """Which `# fmt: skip` stands on something other than a matrix.

    Args:
      source: text of the file.
    """
    lines = source.splitlines()
    marked = [i for i, line in enumerate(lines, 1) if line.rstrip().endswith(SKIP)]
    if not marked:
        return
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    for number in marked:
        ended = [node for node in statements if node.end_lineno == number]
        if not any(holds_matrix(node) for node in ended):
            yield f"line {number}: `{SKIP}` is for matrices of numbers only"


def holds_matrix(statement: ast.stmt) -> bool:
    """Whether a statement holds a bracket of rows of scalars, or of entries of matrices.

    Args:
      statement: any; a compound one holds nothing.
    """
    if hasattr(statement, "body"):
        return False
    brackets = [node for node in ast.walk(statement) if isinstance(node, ast.List | ast.Tuple)]
    return any(
        len(bracket.elts) > 1 and (all(map(is_row, bracket.elts)) or is_row(bracket, names=False))
        for bracket in brackets
    )


def is_row(node: ast.expr, *, names: bool = True) -> bool:
    """Whether an expression is a bracket of two or more scalars.

    Args:
      node: any expression.
      names: whether a variable counts as a scalar.
    """
    if not isinstance(node, ast.List | ast.Tuple) or len(node.elts) < 2:
        return False
    return all(is_scalar(entry, names=names) for entry in node.elts)


def is_scalar(node: ast.expr, *, names: bool) -> bool:
    """Whether an expression is a number, an entry of a matrix, or arithmetic of these.

    Args:
      node: an entry of a bracket.
      names: whether a variable counts as a scalar.
    """
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float)
    if isinstance(node, ast.UnaryOp):
        return is_scalar(node.operand, names=names)
    if isinstance(node, ast.BinOp):
        return is_scalar(node.left, names=names) and is_scalar(node.right, names=names)
    return isinstance(node, ast.Subscript) or (names and isinstance(node, ast.Name))


def check_readme(text: str) -> Iterator[str]:
    """Whether the README is too long.

    Args:
      text: of the README.
    """
    count = len(text.split())  # as `wc -w` counts
    if count > MAX_README_WORDS:
        yield f"{count} words, more than {MAX_README_WORDS}"


def check_flat_files(names: Iterable[str]) -> Iterator[str]:
    """Whether too many Python files lie directly in the package's folder.

    Args:
      names: of the files in it.
    """
    count = sum(name.endswith(".py") for name in names)
    if count > MAX_FLAT_FILES:
        yield f"{count} Python files lie directly in it, more than {MAX_FLAT_FILES}"


def check_project(root: Path) -> Iterator[str]:
    """All violations of a project, as ``path: what is wrong``.

    Args:
      root: folder of the project.
    """
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            source, place = path.read_text(encoding="utf-8"), path.relative_to(root)
            module = ".".join(place.with_suffix("").parts)
            found = [*check_length(source), *check_skips(source)]
            if folder == "experiments" and path.name != "__init__.py":
                found += [*check_header(source, module), *check_imports(source, module)]
            yield from (f"{place}: {sentence}" for sentence in found)
    flat = (path.name for path in (root / "e2r").glob("*.py"))
    yield from (f"e2r: {sentence}" for sentence in check_flat_files(flat))
    readme = (root / "README.md").read_text(encoding="utf-8")
    yield from (f"README.md: {sentence}" for sentence in check_readme(readme))


def main() -> int:
    """Prints the violations of this project; 1 if there are any."""
    violations = list(check_project(ROOT))
    for violation in violations:
        print(violation)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
