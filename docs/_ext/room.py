"""API pages whose content is found at build time: the directives ``room`` and ``public-names``.

``room`` documents every module of a package; it works in reStructuredText pages.
``public-names`` lists what a module exports. A NamedTuple's fields become a table.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import itertools
import pkgutil
from pathlib import Path
from typing import Any

from docutils import nodes
from field_texts import read_fields, roles_to_code
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective
from sphinx.util.inspect import stringify_signature
from tables import make_table


class Room(SphinxDirective):
    """Documents a package: one section a module."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parses one ``automodule`` for each module."""
        package = importlib.import_module(self.arguments[0])
        names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
        lines = [f".. automodule:: {package.__name__}", ""]
        for name in names:
            full = f"{package.__name__}.{name}"
            lines += [full, "-" * len(full), "", f".. automodule:: {full}", "   :members:", ""]
        made: list[nodes.Node] = self.parse_text_to_nodes(
            "\n".join(lines), allow_section_headings=True
        )
        return made


class PublicNames(SphinxDirective):
    """A table of a package's public names, which its ``__init__.pyi`` imports."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Builds the table."""
        package = importlib.import_module(self.arguments[0])
        stub = Path(inspect.getfile(package)).with_suffix(".pyi")
        self.env.note_dependency(str(stub))
        rows = []
        for line in ast.parse(stub.read_text()).body:
            if isinstance(line, ast.ImportFrom):
                origin = f"{package.__name__}.{line.module}"
                for name in (alias.name for alias in line.names):
                    text = self.parse_inline(first_sentence(origin, name))[0]
                    rows.append(([nodes.literal("", name)], [nodes.literal("", origin)], text))
        return [make_table(("name", "defined in", "meaning"), rows)]


def first_sentence(origin: str, name: str) -> str:
    """The first paragraph that documents ``name`` of the module ``origin``, on one line."""
    value = getattr(importlib.import_module(origin), name)
    if inspect.isclass(value) or inspect.isfunction(value):
        lines = inspect.cleandoc(value.__doc__ or "").splitlines()
    else:
        lines = ModuleAnalyzer.for_module(origin).find_attr_docs().get(("", name), [])
    return roles_to_code(" ".join(itertools.takewhile(str.strip, lines)))


def is_named_tuple(kind: object) -> bool:
    """Whether ``kind`` is a class made by ``typing.NamedTuple``."""
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def add_fields(app: Sphinx, what: str, name: str, kind: object, *rest: Any) -> None:
    """Appends a table of fields to a NamedTuple's docstring."""
    _, lines = rest
    if what != "class" or not is_named_tuple(kind):
        return
    lines += ["", ".. list-table::", "   :header-rows: 1", ""]
    lines += ["   * - field", "     - type", "     - meaning"]
    for field in read_fields(kind):  # type: ignore[arg-type]
        lines += [f"   * - ``{field.name}``", f"     - ``{field.annotation}``"]
        lines += [f"     - {field.text}".rstrip()]
    lines.append("")


def keep_colons(app: Sphinx, what: str, name: str, value: object, *rest: Any) -> None:
    """Keeps Napoleon from reading ``mm: scale of ...`` below an attribute as its type."""
    _, lines = rest
    if what in ("attribute", "data"):
        lines[:0] = ["..", ""]  # an empty comment, so that the first line has no colon


def source_signature(
    app: Sphinx, what: str, name: str, value: Any, *rest: Any
) -> tuple[str, str] | None:
    """Writes a signature's types as the source does; a class of listed fields has none."""
    if what == "class" and (is_named_tuple(value) or dataclasses.is_dataclass(value)):
        return "", ""
    if what not in ("function", "method") or not inspect.isfunction(value):
        return None
    signature = inspect.signature(value)
    kept = [one for one in signature.parameters.values() if one.name not in ("self", "cls")]
    signature = signature.replace(parameters=kept)
    returned = signature.return_annotation
    text = stringify_signature(signature, show_return_annotation=False)
    return text, returned if isinstance(returned, str) else ""


def skip_fields(app: Sphinx, what: str, name: str, member: object, *rest: Any) -> bool | None:
    """Leaves out a NamedTuple's fields as members: the table has them."""
    return True if type(member).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directive and the hooks."""
    app.add_directive("room", Room)
    app.add_directive("public-names", PublicNames)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # before Napoleon
    app.connect("autodoc-process-docstring", add_fields)
    app.connect("autodoc-process-signature", source_signature)
    app.connect("autodoc-skip-member", skip_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
