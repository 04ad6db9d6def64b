"""Sphinx settings of the documentation: pages, notebooks, and tables made at build time."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

project = "e2r"
author = "the authors of e2r"
copyright = "the authors of e2r, MIT licence"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "results_table",
    "settings_tables",
    "room",
]
exclude_patterns = ["_build", "_ext", "conf.py", "jupyter_execute"]  # the last is MyST-NB's own

# Pages are Markdown. Notebooks are Python files, shown as they are and never run here.
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # no script from another server
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["ref.python"]  # several commands have a class `Options`

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # room.py writes signatures as the source does
python_maximum_signature_line_length = 80
add_module_names = False
napoleon_numpy_docstring = False

smartquotes = False  # two hyphens begin a flag
toc_object_entries = False  # one entry a module, not one a function: a third of the time

html_theme = "furo"
html_title = "e2r"
html_static_path: list[str] = []
html_show_sphinx = False
html_copy_source = False


def copy_notebooks() -> None:
    """Copies changed notebooks below docs/, because Sphinx reads no page outside that folder."""
    source, copies = HERE.parent / "notebooks", HERE / "notebooks"
    copies.mkdir(exist_ok=True)
    for copy in copies.glob("*.py"):
        if not (source / copy.name).exists():
            copy.unlink()
    for path in source.glob("*.py"):
        copy = copies / path.name
        if not copy.exists() or copy.read_bytes() != path.read_bytes():
            shutil.copyfile(path, copy)


copy_notebooks()
