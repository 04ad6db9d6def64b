"""Pages open offline, hold plotly once, and escape every text."""

import re

import jinja2
import pytest

from e2r.visualisation import pages
from e2r.visualisation.figures import scene_figure


def test_a_page_fetches_nothing_and_holds_plotly_once(rng):
    figures = {name: scene_figure(rng.normal(size=(9, 3))) for name in ("v0", "v1")}
    page = pages.figures_page("<script>alert(1)</script>", figures)
    assert page.count("* plotly.js v") == 1
    assert "<title>&lt;script&gt;" in page and "<h1>&lt;script&gt;" in page
    assert page.count('id="v0"') == page.count('id="v1"') == 1
    body = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#)""", body)


def test_a_figure_escapes_its_texts(rng):
    figure = scene_figure(rng.normal(size=(9, 3)))
    figure.data[0].name = "</script><script>alert(1)</script>"
    html = pages.figure_html(figure, "v0")
    assert "<script>alert" not in html and html.count("</script>") == html.count("<script")


def test_a_missing_variable_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="figures"):
        pages.render("page.html.jinja", title="a page")
