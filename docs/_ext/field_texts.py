"""The fields of a dataclass or NamedTuple, with the text that its source gives each."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from typing import NamedTuple


class FieldText(NamedTuple):
    """One field, as its source writes it."""

    name: str
    annotation: str
    default: str  # empty where there is none
    text: str  # the string below the field, or the comment beside it


def read_fields(kind: type) -> list[FieldText]:
    """The fields of ``kind``, in order."""
    source = textwrap.dedent(inspect.getsource(kind))
    lines = source.splitlines()
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    found = []
    for statement, after in zip(definition.body, [*definition.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = inspect.cleandoc(str(after.value.value))
        else:
            line = lines[(statement.end_lineno or statement.lineno) - 1].encode()
            text = line[statement.end_col_offset :].decode().strip().lstrip("# ")
        default = ast.unparse(statement.value) if statement.value else ""
        annotation = ast.unparse(statement.annotation)
        found.append(FieldText(statement.target.id, annotation, default, " ".join(text.split())))
    return found


def roles_to_code(text: str) -> str:
    """Roles of reStructuredText as code, for a Markdown page."""
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
