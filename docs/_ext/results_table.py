"""The directive ``results``: a table from a JSON file of ``experiments/results``.

The argument is the file's name without ``.json``. The file holds ``title``, ``command``,
``commit``, ``note``, ``columns`` and ``rows``. No page types a figure, so page and file agree.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from tables import make_table

RESULTS = Path(__file__).resolve().parents[2] / "experiments" / "results"


class Results(SphinxDirective):
    """Shows one result: its table, then its note and the command that made it."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Reads the file and builds the nodes."""
        path = RESULTS / f"{self.arguments[0]}.json"
        self.env.note_dependency(str(path))
        try:
            result: dict[str, Any] = json.loads(path.read_text())
            made: list[nodes.Node] = [
                make_table(result["columns"], result["rows"], result["title"])
            ]
            if result["note"]:
                made.append(nodes.paragraph("", "", *self.parse_inline(result["note"])[0]))
            made.append(self._origin(result["command"], result["commit"]))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise self.error(f"{path}: this is no result that can be shown ({error!r})") from None
        return made

    @staticmethod
    def _origin(command: str, commit: str) -> nodes.paragraph:
        paragraph = nodes.paragraph("", "Command: ")
        paragraph += nodes.literal("", command)
        if commit:
            paragraph += [nodes.Text(", at commit "), nodes.literal("", commit)]
        paragraph += nodes.Text(".")
        return paragraph


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directive."""
    app.add_directive("results", Results)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
