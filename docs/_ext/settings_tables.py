"""The directive ``settings``: every field of a settings dataclass, and of those it nests.

The argument is the dataclass's dotted name. Text and defaults come from the source, so that the
page never disagrees with the code.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Iterator

from docutils import nodes
from field_texts import read_fields, roles_to_code
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from tables import make_table


def nested_settings(kind: type) -> Iterator[type]:
    """``kind`` and the dataclasses of its fields, each once, outer ones first."""
    waiting, seen = [kind], set()
    while waiting:
        here = waiting.pop(0)
        if here in seen:
            continue
        seen.add(here)
        yield here
        for hint in typing.get_type_hints(here).values():
            parts = (hint, *typing.get_args(hint))
            waiting += [p for p in parts if isinstance(p, type) and dataclasses.is_dataclass(p)]


class Settings(SphinxDirective):
    """Shows one section with a table for each dataclass."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Builds the sections."""
        module, _, name = self.arguments[0].rpartition(".")
        try:
            kind = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise self.error(f"{self.arguments[0]}: there is no such dataclass ({error})") from None
        return [self._section(one) for one in nested_settings(kind)]

    def _section(self, kind: type) -> nodes.section:
        self.env.note_dependency(inspect.getfile(kind))
        section = nodes.section(ids=[nodes.make_id(f"{self.arguments[0]}-{kind.__name__}")])
        section += nodes.title("", kind.__name__)
        first, _, _ = inspect.cleandoc(kind.__doc__ or "").partition("\n\n")
        section += nodes.paragraph(
            "", "", *self.parse_inline(roles_to_code(" ".join(first.split())))[0]
        )
        rows = [
            (
                [nodes.literal("", field.name)],
                [nodes.literal("", field.annotation)],
                [nodes.literal("", field.default)],
                self.parse_inline(roles_to_code(field.text))[0] if field.text else None,
            )
            for field in read_fields(kind)
        ]
        section += make_table(("field", "type", "default", "meaning"), rows)
        return section


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directive."""
    app.add_directive("settings", Settings)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
