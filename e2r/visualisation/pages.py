"""HTML pages from Jinja2 templates. A page opens offline: it holds plotly and fetches nothing."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
import plotly.graph_objects as go
from jaxtyping import UInt8
from markupsafe import Markup
from PIL import Image
from plotly.offline import get_plotlyjs

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **context: Any) -> str:
    """Fills a template of this folder; all text is escaped except ``Markup``.

    Args:
      template: file name of the template, which extends ``page.html.jinja``.
      **context: the template's variables.
    """
    return _TEMPLATES.get_template(template).render(**context, plotly_script=Markup(get_plotlyjs()))


def figure_html(figure: go.Figure, element_id: str) -> Markup:
    """A figure as an HTML element of a page that :func:`render` makes.

    Args:
      figure: the figure; plotly escapes its texts.
      element_id: id of the element, unique on the page.
    """
    config = {"displayModeBar": False, "responsive": True}
    return Markup(
        figure.to_html(include_plotlyjs=False, full_html=False, div_id=element_id, config=config)
    )


def data_url(image: UInt8[np.ndarray, "h w 3"], kind: Literal["PNG", "JPEG"] = "PNG") -> str:
    """An image as a URL that contains it.

    Args:
      image: 0 to 255.
      kind: format of the file.
    """
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(file.getvalue()).decode()


def figures_page(title: str, figures: Mapping[str, go.Figure]) -> str:
    """A page that shows figures below one another.

    Args:
      title: heading of the page.
      figures: element id -> figure, in order.
    """
    elements = [figure_html(figure, name) for name, figure in figures.items()]
    return render("page.html.jinja", title=title, figures=elements)
